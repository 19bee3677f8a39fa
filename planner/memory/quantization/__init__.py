"""How a quantization method stores the layers of a model, and which layers it leaves alone.

A `Quantization` is what a config's `quantization_config` (or `--quantization`) means for a whole model; a `Scheme` is
how one layer is then stored. Adding a method: one class with `@method("name", …)` in a module of this package (see
`_MODULES`); adding a layout: one frozen type in schemes.py; a what-if format: one entry of recipes.RECIPES.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from planner.errors import InputError, Refusal
from planner.memory.quantization.names import NameList, renamed

if TYPE_CHECKING:
    from planner.model.architecture import Layer, Model
    from planner.model.modules import Experts, Linear, LmHead, Placement, Tensor


class Scheme(Protocol):
    """The storage of one layer on one rank, after vLLM has processed it for its kernel."""

    @property
    def min_capability(self) -> int:
        """Compute capability x 10 below which vLLM refuses the layout."""
        ...

    @property
    def bits(self) -> float:
        """Bits per weight, without scales."""
        ...

    def linear(self, linear: Linear, rows: tuple[int, ...], inputs: int, at: Placement) -> Iterator[Tensor]:
        """Tensors of a linear layer, bias included; rows of each fused part and columns on this rank."""
        ...

    def experts(self, experts: Experts, at: Placement) -> Iterator[Tensor]:
        """Tensors of a stack of experts, biases included."""
        ...

    def lm_head(self, head: LmHead, rows: int, at: Placement) -> Iterator[Tensor]:
        """Tensors of a quantized lm_head with so many rows on this rank, bias included."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantization:
    """One quantization method with its parameters, for one model."""

    name: ClassVar[str]
    """vLLM's name of the method after it has normalized it ("auto_awq")."""
    min_capability: ClassVar[int] = 75
    """Compute capability x 10 below which vLLM refuses the method; a scheme may need more."""
    last_version: ClassVar[tuple[int, int] | None] = None
    """The last minor version of vLLM that has the method; None: the newest known has it."""
    exact: ClassVar[bool] = True
    """The bytes have been checked against vLLM's own classes."""
    dtypes: ClassVar[tuple[str, ...]] = ("bfloat16", "float16")
    """The model's dtypes that vLLM takes with the method (get_supported_act_dtypes)."""
    parameters: Mapping[str, object] = field(default_factory=dict)
    model: Model | None = None
    where: str = "config.json"
    assumed: bool = False
    """Made by `what_if`: no such checkpoint has been seen."""
    notes: tuple[str, ...] = ()
    """What a person should know of how vLLM reads this config, each a sentence."""
    _memo: dict[str, Scheme | None] = field(default_factory=dict, init=False, repr=False)

    def scheme_for(self, module: Linear | Experts | LmHead, at: Placement) -> Scheme | None:
        """The scheme of this module, or None where it stays in the model's dtype."""
        name = at.prefix + module.name
        try:
            return self._memo[name]
        except KeyError:
            scheme = self._memo[name] = self._resolve(name, module)
            return scheme

    def _resolve(self, name: str, module: Linear | Experts | LmHead) -> Scheme | None:
        from planner.model.modules import Experts, LmHead

        if isinstance(module, Experts):
            return self.experts_scheme(name.removesuffix(".routed_experts"), module)
        if isinstance(module, LmHead):
            return self.head_scheme(name, module.packed)
        return self.linear_scheme(name, module.packed)

    def linear_scheme(self, name: str, packed: Sequence[str]) -> Scheme | None:
        """The scheme of a linear layer by vLLM's full name of it; packed: the checkpoint's names of its parts."""
        raise NotImplementedError

    def experts_scheme(self, name: str, experts: Experts) -> Scheme | None:
        """The scheme of a stack of experts."""
        raise NotImplementedError

    def head_scheme(self, name: str, packed: Sequence[str]) -> Scheme | None:  # noqa: ARG002
        """The scheme of the lm_head: most methods leave it alone."""
        return None

    def check_version(self, version: tuple[int, ...]) -> None:
        """Refusal where this version of vLLM does not know the method."""
        if self.last_version is not None and version[:2] > self.last_version:
            raise Refusal("unknown_quantization", f"Unknown quantization method: {self.name}.", "--quantization")

    def layer_key(self, layer: Layer, at: Placement) -> Hashable:
        """Equal for layers (of one Layer object) whose modules all get the same schemes: they are summed once."""
        return tuple(self.scheme_for(module, at) for module in layer.quantizable)

    # --- reading the parameters -------------------------------------------------------------------------------------

    def key(self, name: str) -> str:
        """A parameter's full name, for messages."""
        return f"{self.where}: quantization_config.{name}"

    def names(self, key: str, *others: str) -> NameList:
        """A list of module names (null counts as empty), renamed as vLLM renames the checkpoint's modules."""
        for candidate in (key, *others):
            value = self.parameters.get(candidate)
            if value:
                return self.name_list(value, self.key(candidate))
        return NameList((), self.key(key))

    def name_list(self, value: object, where: str) -> NameList:
        """A value of the config as a list of module names. Raises InputError for anything else."""
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise InputError(f"{where} = {_shown(value)}: must be a list of module names")
        return NameList(self.rename(value), where)

    def rename(self, names: Sequence[str]) -> list[str]:
        """Names of the checkpoint as names of vLLM's modules (WeightsMapper.apply_list)."""
        return [renamed(name, self.model.renames) for name in names] if self.model is not None else [*names]

    def integer(self, key: str, *others: str) -> int:
        """A required whole number."""
        for candidate in (key, *others):
            value = self.parameters.get(candidate)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
            if value is not None:
                raise InputError(f"{self.key(candidate)} = {_shown(value)}: must be a whole number")
        raise InputError(f"{self.key(key)} is missing; {self.name} needs it")

    def flag(self, key: str, default: bool | None = None) -> bool:
        """A true or false; required without a default."""
        value = self.parameters.get(key)
        if isinstance(value, bool):
            return value
        if value is not None:
            raise InputError(f"{self.key(key)} = {_shown(value)}: must be true or false")
        if default is None:
            raise InputError(f"{self.key(key)} is missing; {self.name} needs it")
        return default

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """One of some words, required."""
        value = self.parameters.get(key)
        if value is None:
            raise InputError(f"{self.key(key)} is missing; {self.name} needs it ({' or '.join(choices)})")
        if value not in choices:
            raise InputError(f"{self.key(key)} = {_shown(value)}: must be {' or '.join(choices)}")
        return str(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_MODULES = ("fp8", "integer", "compressed", "modelopt", "microscaling", "online", "bitsandbytes")
_registry: dict[str, type[Quantization]] = {}
_online: dict[str, type[Quantization]] = {}
_Q = TypeVar("_Q", bound=type[Quantization])


def method(*names: str) -> Callable[[_Q], _Q]:
    """Register a method under the names that a checkpoint's quant_method or --quantization may have."""

    def register(cls: _Q) -> _Q:
        for name in names:
            _registry[name] = cls
        return cls

    return register


def online_method(*names: str) -> Callable[[_Q], _Q]:
    """Register a way of quantizing while loading, under the names that --quantization may have."""

    def register(cls: _Q) -> _Q:
        for name in names:
            _online[name] = cls
        return cls

    return register


def _load() -> None:
    if not _registry:
        for module in _MODULES:
            importlib.import_module(f"{__name__}.{module}")


def known_methods() -> tuple[str, ...]:
    """What a quant_method or --quantization may be."""
    _load()
    return tuple(sorted({*_registry, *_online}))


def quantization(
    parameters: Mapping[str, object] | None, model: Model, where: str, requested: str | None = None
) -> Quantization:
    """The Quantization of a checkpoint's quantization_config, or of `--quantization` on a plain checkpoint.

    parameters: config.json's quantization_config (or compression_config), else the content of hf_quant_config.json.
    """
    _load()
    if not parameters:
        return _quantized_while_loading(requested, model, where)
    name = _method_name(parameters, where)
    if not name:
        return _ignored(parameters, model, where)
    cls = _registry.get(name)
    if cls is None:
        raise InputError(
            f"{where}: quantization_config.quant_method = {_shown(name)}: unknown method; known are "
            f"{', '.join(sorted(_registry))}"
        )
    if requested is not None and _registry.get(requested) is not cls:
        raise _mismatch(name, requested)
    return cls(parameters=parameters, model=model, where=where)


def _quantized_while_loading(requested: str | None, model: Model, where: str) -> Quantization:
    if requested in _online:
        return _online[requested](parameters={"quant_method": requested}, model=model, where=where)
    if requested in _registry:
        raise InputError(
            f"--quantization {requested}: {where} has no quantization_config, and {requested} cannot quantize while "
            f"loading; these can: {', '.join(sorted(_online))}"
        )
    raise InputError(f"--quantization {requested}: unknown method; known are {', '.join(known_methods())}")


def _method_name(parameters: Mapping[str, object], where: str) -> str:
    """quant_method as vLLM normalizes it (transformers_utils/model_arch_config_convertor.py)."""
    from planner.memory.quantization.modelopt import modelopt_method

    name = modelopt_method(parameters) or parameters.get("quant_method") or ""
    if not isinstance(name, str):
        raise InputError(f"{where}: quantization_config.quant_method = {_shown(name)}: must be a method's name")
    return name.lower().replace("compressed_tensors", "compressed-tensors")


@dataclass(frozen=True, kw_only=True, eq=False)
class Ignored(Quantization):
    """A quantization_config that vLLM does not act on."""

    name = "none"
    min_capability = 0

    def scheme_for(self, module: Linear | Experts | LmHead, at: Placement) -> Scheme | None:  # noqa: ARG002
        """None: everything stays in the model's dtype."""
        return None


def _ignored(parameters: Mapping[str, object], model: Model, where: str) -> Quantization:
    note = (
        f"{where}: quantization_config has no quant_method, so vLLM builds the model in 16 bits; "
        'add "quant_method" if the checkpoint is quantized'
    )
    return Ignored(parameters=parameters, model=model, where=where, notes=(note,))


def _mismatch(name: str, requested: str) -> Refusal:
    return Refusal(
        "quantization_mismatch",
        f"Quantization method specified in the model config ({name}) does not match the quantization method "
        f"specified in the `quantization` argument ({requested}).",
        "--quantization",
    )
