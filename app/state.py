"""What a person has entered, as text: in the URL, in Streamlit's session, and as a request."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from planner.engine.args import EngineArgs, human_int, parse_flags
from planner.engine.version import NEWEST
from planner.errors import InputError
from planner.planning.goal import Goal
from planner.request import REQUEST_KEYS
from planner.text import flag, shown

WAYS = ("name", "upload", "numbers")
"""How the model is given."""
NUMBERS = (
    "parameters",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
)
"""Of a model known only by numbers."""
ENGINE_FLAGS = (
    "max_model_len",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "kv_cache_dtype",
    "quantization",
    "gpu_memory_utilization",
    "max_num_seqs",
    "max_num_batched_tokens",
)
"""The engine arguments with a field of their own; every other one goes to `more`."""
MOST = {"cards": 4096, "concurrency": 999_999}
"""Of each number that is a count."""
_LONGEST = 4000
"""Characters of a text: a link of a hundred times as many would keep the page busy for half a minute."""
_CARD_NUMBERS = ("gpu_memory_gib", "gpu_memory_used_gib")
_TEXTS = ("vllm_version", "what_if_quantization")


@dataclass(frozen=True, kw_only=True)
class State:
    """The inputs; an empty text leaves the matter to vLLM."""

    by: str = "name"
    model: str = "Qwen/Qwen3-32B"
    parameters: str = ""
    hidden_size: str = ""
    num_hidden_layers: str = ""
    num_attention_heads: str = ""
    num_key_value_heads: str = ""
    intermediate_size: str = ""
    vocab_size: str = ""
    gpu: str = "NVIDIA H100 SXM5 80GB"
    cards: int = 1
    gpu_memory_gib: str = ""
    gpu_memory_used_gib: str = ""
    concurrency: int = 1
    input_len: str = ""
    output_len: str = ""
    ttft_ms: str = ""
    tpot_ms: str = ""
    engines: str = ""
    max_model_len: str = ""
    tensor_parallel_size: str = ""
    pipeline_parallel_size: str = ""
    kv_cache_dtype: str = ""
    quantization: str = ""
    gpu_memory_utilization: str = ""
    max_num_seqs: str = ""
    max_num_batched_tokens: str = ""
    vllm_version: str = ""
    what_if_quantization: str = ""
    more: str = ""
    """Further flags of `vllm serve`, as one would type them."""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> State:
        """From a URL or a session; InputError where a number is none. Unknown keys are left out."""
        known: dict[str, Any] = {}
        for field in fields(cls):
            if field.name in values:
                known[field.name] = (_count if field.type == "int" else _text)(field.name, values[field.name])
        if known.get("by") not in (None, *WAYS):
            raise InputError(f"by = {shown(known['by'])}: must be one of {', '.join(WAYS)}")
        return cls(**known)

    def with_request(self, request: Mapping[str, Any], engines: int = 1) -> State:
        """The inputs that make this request: a plan's flags, each in its field; what it does not speak of stays."""
        texts: dict[str, Any] = {name: request[name] for name in ("model", "gpu") if isinstance(request.get(name), str)}
        for name in (*ENGINE_FLAGS, *_CARD_NUMBERS, *_TEXTS):
            texts[name] = str(request[name]) if request.get(name) is not None else ""
        if not self.vllm_version and texts["vllm_version"] == str(NEWEST):
            texts["vllm_version"] = ""
        own = (*REQUEST_KEYS, *ENGINE_FLAGS)
        rest = EngineArgs({name: value for name, value in request.items() if name not in own})
        split = str(engines) if engines > 1 or self.engines else ""
        return State(**{**asdict(self), **texts, "engines": split, "more": shlex.join(rest.to_flags())})

    def with_(self, **values: Any) -> State:
        """A copy with other fields."""
        return State(**{**asdict(self), **values})

    def to_dict(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)

    def to_query(self) -> dict[str, str]:
        """The values that differ from the defaults, for the URL."""
        default = asdict(State())
        values = {key: str(value) for key, value in asdict(self).items() if value != default[key]}
        return {**values, "model": self.model, "gpu": self.gpu}

    def to_request(self) -> dict[str, Any]:
        """As planner.request.prepare takes it; the flags are read as `vllm serve` reads them."""
        words = [_word(name, getattr(self, name)) for name in ENGINE_FLAGS if getattr(self, name)]
        args, positional = parse_flags([*words, *self._more_words()])
        if positional:
            raise InputError(f"more flags: {shown(positional[0])} is not a flag of `vllm serve`")
        if "model" in args:
            raise InputError("more flags: --model has a field of its own, at the top")
        request: dict[str, Any] = {**args, "model": self._source(), "gpu": self.gpu}
        request |= {key: getattr(self, key) for key in _TEXTS if getattr(self, key)}
        return request | {key: _number(key, getattr(self, key)) for key in _CARD_NUMBERS if getattr(self, key)}

    def goal(self) -> Goal:
        """What the launch must reach."""
        return Goal(
            gpus=self.cards,
            concurrency=float(self.concurrency),
            input_len=self._optional(_whole, "input_len"),
            output_len=self._optional(_whole, "output_len"),
            engines=self._optional(_whole, "engines") or 1,
            ttft_ms=self._optional(_number, "ttft_ms"),
            tpot_ms=self._optional(_number, "tpot_ms"),
        )

    def _optional(self, read: Any, name: str) -> Any:
        text = getattr(self, name)
        return read(name, text) if text else None

    def _source(self) -> str | dict[str, str | int]:
        if self.by != "numbers":
            return self.model
        given = {name: getattr(self, name) for name in NUMBERS if getattr(self, name)}
        if not given:
            raise InputError("numbers: give at least the number of parameters, such as 8B")
        return {name: text if name == "parameters" else _whole(name, text) for name, text in given.items()}

    def _more_words(self) -> list[str]:
        try:
            return shlex.split(self.more)
        except ValueError as error:
            raise InputError(f"more flags: {error}") from None


def _word(name: str, value: str) -> str:
    return f"{flag(name)}={value}"


def _count(name: str, value: object) -> int:
    text, most = str(value).strip(), MOST[name]
    if not (text.isdecimal() and text.isascii() and len(text) <= len(str(most))) or not 1 <= int(text) <= most:
        raise InputError(f"{name} = {shown(value)}: must be a whole number from 1 to {most}")
    return int(text)


def _text(name: str, value: object) -> str:
    text = str(value or "").strip()
    if len(text) > _LONGEST:
        raise InputError(f"{name} = {shown(text)}: has more than {_LONGEST:,} characters")
    return text


def _whole(name: str, text: str) -> int:
    """As vLLM reads 4k or 1M, too."""
    import argparse

    try:
        number = int(human_int(text))
    except (ValueError, OverflowError, argparse.ArgumentTypeError):
        number = 0
    if not 1 <= number <= 10**9:
        raise InputError(f"{name} = {shown(text)}: must be a whole number of at least 1")
    return number


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise InputError(f"{name} = {shown(text)}: must be a number above 0")
    return number
