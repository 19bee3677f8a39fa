"""A model known only by numbers, made into a Llama-like config: what is not given is derived or assumed, and said.

    values, assumed = config_of_numbers({"parameters": "8B", "hidden_size": 4096, "num_hidden_layers": 32})

A Llama is the shape of most dense decoders since 2023: grouped-query attention, a gated MLP, RMSNorm, no biases.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from planner.errors import InputError
from planner.model.config import MAX_LAYERS
from planner.text import did_you_mean, nearest, printable, shown

TOLERANCE = 0.02
"""How far the shape may miss the stated parameter count, which is mostly a rounded one ("8B")."""

_NAMES = {
    "parameters": ("params", "num_parameters", "n_params"),
    "hidden_size": ("hidden", "n_embd", "d_model"),
    "num_hidden_layers": ("layers", "num_layers", "n_layer"),
    "num_attention_heads": ("heads", "num_heads", "n_head"),
    "num_key_value_heads": ("kv_heads", "num_kv_heads"),
    "head_dim": ("head_size",),
    "intermediate_size": ("intermediate", "ffn_dim"),
    "vocab_size": ("vocabulary", "vocab"),
    "max_position_embeddings": ("context", "context_length", "max_position"),
    "tie_word_embeddings": ("tied",),
    "dtype": ("torch_dtype",),
    "name": (),
}
_KEY_OF = {alias: key for key, aliases in _NAMES.items() for alias in (key, *aliases)}
_LARGEST = {
    "num_hidden_layers": MAX_LAYERS,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "head_dim": 65_536,
}
_DTYPES = ("bfloat16", "float16", "float32")
_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_PARAMETERS = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([kmbt]?)", re.IGNORECASE)


@dataclass(frozen=True)
class _Shape:
    """The sizes of a Llama. `like` names the model that a reference shape is."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    like: str = ""

    def parameters(self) -> int:
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * layer + self.hidden


_REFERENCES = (
    _Shape(576, 30, 9, 3, 64, 1536, 49152, True, "SmolLM2-135M"),
    _Shape(960, 32, 15, 5, 64, 2560, 49152, True, "SmolLM2-360M"),
    _Shape(2048, 16, 32, 8, 64, 8192, 128256, True, "Llama-3.2-1B"),
    _Shape(3072, 28, 24, 8, 128, 8192, 128256, True, "Llama-3.2-3B"),
    _Shape(4096, 32, 32, 8, 128, 14336, 128256, False, "Llama-3.1-8B"),
    _Shape(5120, 40, 32, 8, 128, 14336, 131072, False, "Mistral-Nemo-12B"),
    _Shape(5120, 40, 32, 8, 128, 32768, 131072, False, "Mistral-Small-24B"),
    _Shape(8192, 80, 64, 8, 128, 28672, 128256, False, "Llama-3.1-70B"),
    _Shape(12288, 88, 96, 8, 128, 28672, 32768, False, "Mistral-Large-123B"),
    _Shape(16384, 126, 128, 8, 128, 53248, 128256, False, "Llama-3.1-405B"),
)
_WIDENING = 3.5
"""intermediate_size / hidden_size where nothing tells it: Llama 3's, the larger of the usual ones."""
_POSITIONS = 131_072

_Assume = Callable[[str, int, str], int]
"""(key, value, why) -> value, noting that it was assumed."""


def config_of_numbers(numbers: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The values of a config.json for a model of these sizes, and a sentence for each one that was not given.

    InputError for an unknown key, sizes that contradict each other, or too few: `parameters`, or `hidden_size` with
    `num_hidden_layers`, is the least.
    """
    given = _checked(numbers)
    parameters: int | None = given.get("parameters")
    if parameters is None and not {"hidden_size", "num_hidden_layers"} <= given.keys():
        raise InputError("model: too few numbers; give parameters, or hidden_size and num_hidden_layers")
    assumed: list[str] = []
    shape = _shape(given, parameters, assumed)
    if parameters is not None:
        _check_parameters(shape, parameters)
    values: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": given.get("max_position_embeddings", _POSITIONS),
        "dtype": given.get("dtype", "bfloat16"),
    }
    if "max_position_embeddings" not in given:
        assumed.append(f"max_position_embeddings = {_POSITIONS}")
    if "dtype" not in given:
        assumed.append("dtype = bfloat16")
    return values, (*assumed, "the architecture is that of Llama: gated MLP, no biases, full attention in each layer")


def parse_parameters(value: object, where: str = "model.parameters") -> int:
    """A parameter count: a number, or text such as "8B", "135M", "1.5b"."""
    if isinstance(value, str):
        match = _PARAMETERS.fullmatch(value.strip())
        if match is None:
            raise InputError(f'{where}: must be a number or text such as "8B" or "135M", is {shown(value)}')
        whole, _, fraction = match[1].partition(".")
        count = int(whole + fraction) * _SUFFIXES[match[2].lower()] // int("1" + "0" * len(fraction))
    elif isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e18:
        raise InputError(f'{where}: must be a number or text such as "8B" or "135M", is {shown(value)}')
    else:
        count = round(value)
    if not 100_000 <= count <= 10**14:
        raise InputError(f"{where}: must be between 100 thousand and 100 trillion, is {shown(value)}")
    return count


def _checked(numbers: Mapping[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, value in numbers.items():
        key = _KEY_OF.get(name)
        if key is None:
            more = "; a mixture of experts needs its config.json" if "expert" in name else ""
            raise InputError(f"model.{printable(name)}: unknown key{did_you_mean(nearest(name, _KEY_OF))}{more}")
        if key in given:
            raise InputError(f"model.{name}: given twice, as {name} and under another name; keep one")
        if value is None:
            continue
        if key == "parameters":
            given[key] = parse_parameters(value, f"model.{name}")
        elif key == "name":
            given[key] = value
        elif key == "tie_word_embeddings":
            if not isinstance(value, bool):
                raise InputError(f"model.{name}: must be true or false, is {shown(value)}")
            given[key] = value
        elif key == "dtype":
            if value not in _DTYPES:
                raise InputError(f"model.{name}: must be one of {', '.join(_DTYPES)}, is {shown(value)}")
            given[key] = value
        else:
            largest = _LARGEST.get(key, 2**30)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
                raise InputError(f"model.{name}: must be a whole number from 1 to {largest}, is {shown(value)}")
            given[key] = value
    return given


def _shape(given: Mapping[str, Any], parameters: int | None, assumed: list[str]) -> _Shape:
    """Every size, in the order in which one follows from those before it; appends a sentence for each not given."""
    reference = _nearest_reference(parameters, given)

    def assume(key: str, value: int, why: str) -> int:
        assumed.append(f"{key} = {value} ({why})")
        return value

    like = f"as {reference.like} has"
    vocab = given.get("vocab_size") or assume("vocab_size", reference.vocab, like)
    if "tie_word_embeddings" in given:
        tied = given["tie_word_embeddings"]
    else:
        tied = reference.tied
        assumed.append(f"tie_word_embeddings = {str(tied).lower()} ({like})")
    free = not given.keys() & {"hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim"}
    if free:
        # Nothing but the parameter count: the whole shape of a real model, kept but for the width of its MLP.
        hidden = assume("hidden_size", reference.hidden, like)
        layers = assume("num_hidden_layers", reference.layers, like)
        heads = assume("num_attention_heads", reference.heads, like)
        head_dim = assume("head_dim", reference.head_dim, like)
        kv_heads = given.get("num_key_value_heads") or assume("num_key_value_heads", reference.kv_heads, like)
    else:
        hidden = given.get("hidden_size") or assume(
            "hidden_size", _hidden(given, parameters, vocab, tied), "from the others"
        )
        heads, head_dim = _heads(given, hidden, assume)
        kv_heads = given.get("num_key_value_heads") or 0
        layers = given.get("num_hidden_layers") or 0
    if kv_heads and heads % kv_heads:
        raise InputError(
            f"model: num_attention_heads = {heads} is not a multiple of num_key_value_heads = {kv_heads}; correct one"
        )
    shape = _Shape(hidden, layers, heads, kv_heads, head_dim, given.get("intermediate_size", 0), vocab, tied)
    shape = _with_layers(shape, parameters, assume)
    shape = _with_kv_heads(shape, parameters, assume)
    return _with_intermediate(shape, parameters, assume)


def _nearest_reference(parameters: int | None, given: Mapping[str, Any]) -> _Shape:
    """The real model nearest in size, for what the numbers do not tell."""
    if parameters is None:
        hidden, layers = given["hidden_size"], given["num_hidden_layers"]
        parameters = max(1, layers * _layer_parameters(hidden))
    return min(_REFERENCES, key=lambda shape: abs(math.log(shape.parameters() / parameters)))


def _layer_parameters(hidden: int) -> int:
    """A layer of a model without grouped-query attention and with the usual MLP."""
    return round((4 + 3 * _WIDENING) * hidden * hidden)


def _hidden(given: Mapping[str, Any], parameters: int | None, vocab: int, tied: bool) -> int:
    """The hidden size that meets the parameters, where they or the heads are all there is."""
    if given.get("num_attention_heads") and given.get("head_dim"):
        return int(given["num_attention_heads"] * given["head_dim"])
    assert parameters is not None
    reference = _nearest_reference(parameters, given)
    layers = given.get("num_hidden_layers") or reference.layers
    square, linear = layers * (4 + 3 * _WIDENING), vocab * (1 if tied else 2)
    exact = (math.sqrt(linear * linear + 4 * square * parameters) - linear) / (2 * square)
    step = given.get("num_attention_heads") or given.get("head_dim") or (128 if exact >= 1024 else 64)
    return max(step, round(exact / step) * step)


def _heads(given: Mapping[str, Any], hidden: int, assume: _Assume) -> tuple[int, int]:
    heads, head_dim = given.get("num_attention_heads"), given.get("head_dim")
    if heads and head_dim:
        return heads, head_dim
    if heads:
        if hidden % heads:
            raise InputError(
                f"model: hidden_size = {hidden} is not a multiple of num_attention_heads = {heads}; "
                "correct one or give head_dim"
            )
        return heads, hidden // heads  # the rule of every such config, not an assumption
    if not head_dim:
        usual = [dim for dim in ((128, 64) if hidden >= 1024 else (64, 128)) if hidden % dim == 0]
        if usual:
            head_dim = assume("head_dim", usual[0], "the usual one")
        else:
            head_dim = assume("head_dim", _largest_divisor(hidden, 128), "the largest that divides hidden_size")
    if hidden % head_dim:
        raise InputError(
            f"model: hidden_size = {hidden} is not a multiple of head_dim = {head_dim}; give num_attention_heads"
        )
    return assume("num_attention_heads", hidden // head_dim, "hidden_size / head_dim"), head_dim


def _with_layers(shape: _Shape, parameters: int | None, assume: _Assume) -> _Shape:
    if shape.layers:
        return shape
    assert parameters is not None
    whole = replace(
        shape,
        layers=1,
        kv_heads=shape.kv_heads or shape.heads,
        intermediate=shape.intermediate or round(_WIDENING * shape.hidden),
    )
    outside = replace(whole, layers=0).parameters()
    layer = whole.parameters() - outside
    layers = min(_LARGEST["num_hidden_layers"], max(1, round((parameters - outside) / layer)))
    return replace(shape, layers=assume("num_hidden_layers", layers, "to meet the parameters"))


def _with_kv_heads(shape: _Shape, parameters: int | None, assume: _Assume) -> _Shape:
    if shape.kv_heads:
        return shape
    if parameters is not None and shape.intermediate:
        # Everything else is known, so the count tells how many there are.
        options = [replace(shape, kv_heads=n) for n in range(1, shape.heads + 1) if shape.heads % n == 0]
        best = min(options, key=lambda option: abs(option.parameters() - parameters))
        assume("num_key_value_heads", best.kv_heads, "to meet the parameters")
        return best
    kv_heads = assume("num_key_value_heads", shape.heads, "as many as heads; with fewer the KV cache is smaller")
    return replace(shape, kv_heads=kv_heads)


def _with_intermediate(shape: _Shape, parameters: int | None, assume: _Assume) -> _Shape:
    if shape.intermediate:
        return shape
    step = 256 if shape.hidden >= 2048 else 64
    if parameters is None:
        width = max(1, round(_WIDENING * shape.hidden / step)) * step
        return replace(shape, intermediate=assume("intermediate_size", width, f"{_WIDENING} x hidden_size"))
    rest = shape.parameters()
    exact = (parameters - rest) / (3 * shape.hidden * shape.layers)
    if exact < 1:
        raise InputError(
            f"model: the numbers contradict each other: embeddings and attention alone make {_billions(rest)} "
            f"parameters, {_billions(parameters)} are given; correct one, or leave parameters out"
        )
    if exact > 12 * shape.hidden:
        raise InputError(
            f"model: {_billions(parameters)} parameters need an intermediate_size of {round(exact)}, "
            f"{exact / shape.hidden:.0f} times hidden_size, which no dense model has; correct the numbers, "
            "or pass the config.json of a mixture of experts"
        )
    width = max(1, round(exact / step)) * step
    if abs(replace(shape, intermediate=width).parameters() - parameters) > TOLERANCE * parameters:
        width = round(exact)
    return replace(shape, intermediate=assume("intermediate_size", width, "to meet the parameters"))


def _check_parameters(shape: _Shape, parameters: int) -> None:
    count = shape.parameters()
    if abs(count - parameters) > TOLERANCE * parameters:
        raise InputError(
            f"model: the numbers contradict each other: a model of these sizes has {_billions(count)} parameters, "
            f"{_billions(parameters)} are given (within {TOLERANCE:.0%}); correct one, or leave parameters out"
        )


def _largest_divisor(number: int, limit: int) -> int:
    return next(n for n in range(min(number, limit), 0, -1) if number % n == 0)


def _billions(count: int) -> str:
    for unit, name in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return str(count)
