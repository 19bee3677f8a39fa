"""compressed-tensors checkpoints: groups of modules, each with its own way of storing weights.

layers/quantization/compressed_tensors/compressed_tensors.py, utils.py and compressed_tensors_moe/ (0.33).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from planner.errors import InputError, Refusal
from planner.memory.quantization import Quantization, Scheme, method
from planner.memory.quantization.names import NameList, compiled, shard_names
from planner.memory.quantization.schemes import BlockFloat, Fp8, Int8, Packed, PackedFp8Activations

if TYPE_CHECKING:
    from planner.model.modules import Experts

_ACTIVATION_FORMATS = ("naive-quantized", "int-quantized", "float-quantized", "nvfp4-pack-quantized")
_NVFP4_EXPERT_SCALARS = (
    ("w13_weight_global_scale", 2),
    ("w2_weight_global_scale", 1),
    ("w13_input_global_scale", 2),
    ("w2_input_global_scale", 1),
    ("w13_weight_scale_2", 1),
    ("w2_weight_scale_2", 1),
)
_STRATEGIES = ("tensor", "channel", "group", "block", "token", "tensor_group", "attn_head")


@dataclass(frozen=True)
class Arguments:
    """How one side, weights or activations, is quantized (compressed_tensors' QuantizationArgs)."""

    bits: int
    type: str
    strategy: str
    group: int | None
    block: tuple[int, int] | None
    symmetric: bool
    dynamic: bool
    mx_scales: bool
    """Scales are e8m0 bytes."""

    @property
    def is_nvfp4(self) -> bool:
        """quant_args.is_nvfp4: 4-bit floats, a scale per 16 and one per tensor."""
        return (self.strategy, self.group, self.type, self.bits) == ("tensor_group", 16, "float", 4)

    @property
    def is_mxfp4(self) -> bool:
        """4-bit floats with a scale per 32."""
        return (self.strategy, self.group, self.type, self.bits) == ("group", 32, "float", 4)

    @property
    def is_mxfp8(self) -> bool:
        """8-bit floats with an e8m0 scale per 32."""
        return (self.strategy, self.group, self.type, self.bits) == ("group", 32, "float", 8) and self.mx_scales


@dataclass(frozen=True)
class Group:
    """One entry of config_groups for one target: the layout of its weights and activations."""

    target: str
    weights: Arguments
    inputs: Arguments | None
    format: str
    pattern: re.Pattern[str] | None

    def matches(self, name: str) -> bool:
        """By the module's name: equal to the target, or matched from its start by the pattern after "re:"."""
        return self.pattern.match(name) is not None if self.pattern else self.target == name

    def matches_class(self, cls: str) -> bool:
        """By vLLM's class of the module: "Linear" is found in "QKVParallelLinear"."""
        return self.matches(cls) if self.pattern else self.target.lower() in cls.lower()


@method("compressed-tensors")
@dataclass(frozen=True, kw_only=True, eq=False)
class CompressedTensors(Quantization):
    """What llm-compressor writes."""

    name = "compressed-tensors"
    min_capability = 75
    """Of the schemes in use (compressed_tensors/schemes, get_min_capability, 0.32); the method itself says 70."""
    dtypes = ("float32", "bfloat16", "float16")

    def __post_init__(self) -> None:
        for group in self.groups:
            self._scheme(group, "")
        _ = self.ignored
        scheme = self.parameters.get("kv_cache_scheme")
        if isinstance(scheme, Mapping) and (scheme.get("type"), scheme.get("num_bits")) != ("float", 8):
            raise Refusal(
                "kv_cache_scheme",
                "Currently supported kv cache quantization is num_bits=8, type=float, however received "
                f"num_bits={scheme.get('num_bits')}, type={scheme.get('type')}",
                "--quantization",
            )

    # --- reading ----------------------------------------------------------------------------------------------------

    @cached_property
    def ignored(self) -> NameList:
        """`ignore`: what stays in the model's dtype, under vLLM's names. Raises InputError."""
        value = self.parameters.get("ignore") or []
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise InputError(f"{self.key('ignore')} = {value!r:.60}: must be a list of module names")
        return NameList([self._target(item) for item in value], self.key("ignore"))

    def _target(self, target: str) -> str:
        """Only paths are renamed, not class names nor patterns (apply_vllm_mapper)."""
        return self.rename([target])[0] if "." in target and not target.startswith("re:") else target

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """config_groups, an entry for each target: the first that matches counts. Raises InputError."""
        groups = self.parameters.get("config_groups")
        if not isinstance(groups, Mapping) or not groups:
            raise InputError(f"{self.key('config_groups')} is missing or empty; it says how which modules are stored")
        return tuple(group for key, value in groups.items() for group in self._group(f"config_groups.{key}", value))

    def _group(self, key: str, value: object) -> tuple[Group, ...]:
        if not isinstance(value, Mapping):
            raise InputError(f"{self.key(key)} = {value!r:.60}: must be an object")
        targets = value.get("targets")
        if not isinstance(targets, list | tuple) or not targets or not all(isinstance(t, str) for t in targets):
            raise InputError(f'{self.key(key)}.targets is missing or empty; name the modules, e.g. ["Linear"]')
        if len(targets) == 1 and targets[0].endswith("Attention"):
            return ()
        weights = self._arguments(f"{key}.weights", value.get("weights"))
        if weights is None:
            raise InputError(f"{self.key(key)}.weights is missing; it says how the weights are stored")
        inputs = self._arguments(f"{key}.input_activations", value.get("input_activations"))
        form = value.get("format") or self.parameters.get("format") or ""
        return tuple(
            Group(
                self._target(target),
                weights,
                inputs,
                str(form),
                compiled(target[3:], self.key(f"{key}.targets")) if target.startswith("re:") else None,
            )
            for target in targets
        )

    def _arguments(self, key: str, value: object) -> Arguments | None:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise InputError(f"{self.key(key)} = {value!r:.60}: must be an object")
        bits = value.get("num_bits", 8)
        if not isinstance(bits, int) or isinstance(bits, bool) or not 2 <= bits <= 8:
            raise InputError(f"{self.key(key)}.num_bits = {bits!r}: must be 2 to 8")
        kind = value.get("type", "int")
        if kind not in ("int", "float"):
            raise InputError(f"{self.key(key)}.type = {kind!r}: must be int or float")
        group = self._size(f"{key}.group_size", value.get("group_size"))
        block = value.get("block_structure")
        if value.get("actorder") in ("group", "dynamic"):
            raise Refusal(
                "ct_actorder",
                f"Compressed-tensors group/dynamic activation ordering (actorder={value['actorder']!r}) is no longer "
                "supported. Use a checkpoint with static/weight activation ordering or without activation ordering.",
                "--quantization",
            )
        strategy = value.get("strategy") or _default_strategy(group, bool(value.get("dynamic")))
        if strategy not in _STRATEGIES:
            raise InputError(f"{self.key(key)}.strategy = {strategy!r}: must be one of {', '.join(_STRATEGIES)}")
        if strategy == "group" and group is None:
            raise InputError(f"{self.key(key)}.group_size is missing; the strategy is group")
        return Arguments(
            bits=bits,
            type=kind,
            strategy=strategy,
            group=group,
            block=self._block(f"{key}.block_structure", block) if strategy == "block" else None,
            symmetric=value.get("symmetric", True) is not False,
            dynamic=bool(value.get("dynamic")),
            mx_scales="uint8" in str(value.get("scale_dtype")),
        )

    def _size(self, key: str, value: object) -> int | None:
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or (value < 1 and value != -1):
            raise InputError(f"{self.key(key)} = {value!r}: must be a whole number of at least 1")
        return None if value == -1 else value

    def _block(self, key: str, value: object) -> tuple[int, int]:
        if isinstance(value, str) and re.fullmatch(r"\d+x\d+", value):
            value = [int(size) for size in value.split("x")]
        if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(s, int) and s > 0 for s in value):
            return value[0], value[1]
        raise InputError(f"{self.key(key)} = {value!r}: must be two sizes, e.g. [128, 128]")

    # --- matching ---------------------------------------------------------------------------------------------------

    def _is_ignored(self, name: str, packed: Sequence[str]) -> bool:
        if not self.ignored:
            return False
        match = self.ignored.exact_or_regex
        if match(name) or not packed:
            return match(name)
        parts = [match(shard) for shard in shard_names(name, packed)]
        if any(parts) and not all(parts):
            raise Refusal(
                "mixed_fused_layer",
                f"Found different quantization schemes for the shards of {name}. vLLM requires all to use the same "
                "scheme.",
                "--quantization",
            )
        return all(parts)

    def _find(self, name: str, packed: Sequence[str], cls: str) -> Group | None:
        """utils.find_matched_target: by the name, by all names of the parts, by the class."""
        by_name = next((group for group in self.groups if group.matches(name)), None)
        if by_name is not None:
            return by_name
        if packed:
            parts = [
                next((group for group in self.groups if group.matches(shard)), None)
                for shard in shard_names(name, packed)
            ]
            if all(parts):
                return parts[0]
        return next((group for group in self.groups if group.matches_class(cls)), None)

    def linear_scheme(self, name: str, packed: Sequence[str]) -> Scheme | None:
        """That of the first group which names the module, its parts or the class "Linear"."""
        if self._is_ignored(name, packed):
            return None
        group = self._find(name, packed, "Linear")
        return None if group is None else self._scheme(group, name)

    def head_scheme(self, name: str, packed: Sequence[str]) -> Scheme | None:
        """That of a group which names the head or its class: "Linear" is not found in "ParallelLMHead"."""
        if self._is_ignored(name, packed):
            return None
        group = self._find(name, packed, "ParallelLMHead")
        return None if group is None else self._scheme(group, name)

    def experts_scheme(self, name: str, experts: Experts) -> Scheme | None:
        """By the names of the first expert's projections, which must agree."""
        names = [f"{name}.0.{part}" for part in experts.packed]
        found = [None if self._is_ignored(n, ()) else self._find(n, (), "RoutedExperts Linear") for n in names]
        if any(group is not found[0] and group != found[0] for group in found):
            raise Refusal(
                "mixed_experts",
                "All MoE projections need to have same quantization scheme but found multiple",
                "--quantization",
            )
        return None if found[0] is None else self._experts_scheme(found[0], name)

    # --- schemes ----------------------------------------------------------------------------------------------------

    def _scheme(self, group: Group, name: str) -> Scheme:
        scheme = _scheme(group.weights, group.inputs, group.format)
        if scheme is None:
            raise Refusal(
                "ct_no_scheme",
                f"No compressed-tensors compatible scheme was found for layer_name={name!r}, "
                f"weight_quant={group.weights}, input_quant={group.inputs}, format={group.format!r}",
                "--quantization",
            )
        return scheme

    def _experts_scheme(self, group: Group, name: str) -> Scheme:
        """Fewer schemes have experts (compressed_tensors_moe.py)."""
        scheme, weights, inputs = self._scheme(group, name), group.weights, group.inputs
        problem = None
        if isinstance(scheme, Fp8) and inputs is None:
            problem = (
                "For Fused MoE layers, only format: pack-quantized and bits: [2, 3, 4, 5, 6, 7, 8] is supported but "
                f"got format: {group.format} and bits: {weights.bits}"
            )
        elif isinstance(scheme, Fp8) and inputs is not None and scheme.scales != "block":
            if (scheme.scales == "tensor") != (inputs.strategy == "tensor"):
                problem = f"Unsupported FusedMoe scheme: {weights}, {inputs}"
        elif isinstance(scheme, Int8) and (scheme.static or inputs is None):
            problem = f"Unsupported FusedMoe scheme: {weights}, {inputs}"
        elif isinstance(scheme, Packed) and inputs is not None and inputs.type == "int":
            problem = "W4A8 Int8 MoE is only supported on CPU platforms"
        if problem is not None:
            raise Refusal("ct_experts", problem, "--quantization")
        return scheme


def _default_strategy(group: int | None, dynamic: bool) -> str:
    """QuantizationArgs' own default."""
    if group is not None:
        return "group"
    return "token" if dynamic else "tensor"


def _scheme(weights: Arguments, inputs: Arguments | None, form: str) -> Scheme | None:
    """CompressedTensorsConfig._get_scheme_from_parts, in its order."""
    if weights.is_nvfp4:
        return BlockFloat(
            width=4,
            group=16,
            scalars=1 if inputs is None else 4,
            expert_scalars=_NVFP4_EXPERT_SCALARS,
            expert_biases=False,
            whole_groups=False,
        )
    if weights.is_mxfp4:
        return BlockFloat(width=4, group=32, scalars=0, expert_biases=False)
    if weights.is_mxfp8:
        return BlockFloat(width=8, group=32, scalars=0, expert_biases=False)
    if weights.type == "int" and weights.strategy in ("channel", "group") and form == "pack-quantized":
        return _packed(weights, inputs)
    if form not in _ACTIVATION_FORMATS or weights.bits != 8 or not weights.symmetric or weights.dynamic:
        return None
    return _eight_bits(weights, inputs)


def _packed(weights: Arguments, inputs: Arguments | None) -> Scheme | None:
    group = -1 if weights.group is None else weights.group
    if inputs is not None and (not inputs.dynamic or not inputs.symmetric):
        return None
    if inputs is not None and inputs.type == "float":
        if weights.bits != 4 or not weights.symmetric:
            return None
        return PackedFp8Activations(width=4, group=group)
    return Packed(width=weights.bits, group=group, zero_points=not weights.symmetric, shape_tensor=True)


def _eight_bits(weights: Arguments, inputs: Arguments | None) -> Scheme | None:
    static = inputs is not None and not inputs.dynamic
    if weights.type == "float" and weights.strategy in ("tensor", "channel", "block"):
        if static and inputs is not None and (inputs.strategy != "tensor" or not inputs.symmetric):
            return None
        scales = {"tensor": "tensor", "channel": "channel", "block": "block"}[weights.strategy]
        return Fp8(
            scales=scales,  # type: ignore[arg-type]
            static=static,
            block=weights.block or (128, 128),
            weight_only=inputs is None,
            cutlass_experts=True,
            expert_biases=False,
        )
    if weights.type == "int" and inputs is not None and weights.strategy in ("tensor", "channel"):
        if inputs.bits != 8 or inputs.strategy != ("tensor" if static else "token"):
            return None
        return Int8(per_channel=weights.strategy == "channel", static=static, symmetric=inputs.symmetric)
    return None
