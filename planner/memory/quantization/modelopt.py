"""NVIDIA ModelOpt checkpoints: FP8, NVFP4, MXFP8, and mixtures (layers/quantization/modelopt.py, 0.33)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from planner.errors import InputError, Refusal
from planner.memory.quantization import Quantization, Scheme, method
from planner.memory.quantization.microscaling import MODELOPT_EXPERT_SCALARS
from planner.memory.quantization.names import NameList, skipped
from planner.memory.quantization.schemes import BlockFloat, Fp8

if TYPE_CHECKING:
    from planner.model.modules import Experts

_METHODS = {
    "FP8": "modelopt",
    "FP8_PER_CHANNEL_PER_TOKEN": "modelopt",
    "FP8_PB_WO": "modelopt",
    "NVFP4": "modelopt_fp4",
    "W4A16_NVFP4": "modelopt_fp4",
    "MXFP8": "modelopt_mxfp8",
    "MIXED_PRECISION": "modelopt_mixed",
}
_LEGACY = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "NVFP4", "MIXED_PRECISION")
_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def modelopt_method(parameters: Mapping[str, object]) -> str | None:
    """The method of a ModelOpt config, as vLLM finds it; None for other configs.

    transformers_utils/model_arch_config_convertor.py _normalize_quantization_config: hf_quant_config.json names the
    algorithm below `quantization`; a config.json must say quant_method itself.
    """
    legacy = parameters.get("quantization")
    producer = parameters.get("producer")
    if isinstance(legacy, Mapping) and isinstance(producer, Mapping) and producer.get("name") == "modelopt":
        algo = str(legacy.get("quant_algo")).upper()
        if algo not in _LEGACY:
            raise Refusal("modelopt_algo", f"Unknown ModelOpt quant algo: {legacy.get('quant_algo')}", "--quantization")
        return _METHODS[algo]
    if not str(parameters.get("quant_method") or "").lower().startswith("modelopt"):
        return None
    section = legacy if isinstance(legacy, Mapping) else parameters
    return _METHODS.get(str(section.get("quant_algo")).upper(), str(parameters["quant_method"]).lower())


@method("modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed", "mxfp8")
@dataclass(frozen=True, kw_only=True, eq=False)
class ModelOptCheckpoint(Quantization):
    """One algorithm for all modules but the excluded ones, or one for each listed module."""

    name = "modelopt"
    min_capability = 75

    def __post_init__(self) -> None:
        if self.algo != "MIXED_PRECISION":
            self._scheme(self.algo)
        elif not self.layers:
            raise InputError(f"{self.key('quantized_layers')} is missing or empty; quant_algo MIXED_PRECISION needs it")
        _ = self.excluded

    def check_version(self, version: tuple[int, ...]) -> None:
        """0.32 does not take a mixture from hf_quant_config.json."""
        if self.algo == "MIXED_PRECISION" and self._section is not self.parameters and version[:2] < (0, 33):
            raise Refusal("modelopt_algo", "Unknown ModelOpt quant algo: MIXED_PRECISION", "--quantization")

    @property
    def _section(self) -> Mapping[str, object]:
        """The part that holds the keys: the `quantization` of hf_quant_config.json, or all of it."""
        section = self.parameters.get("quantization")
        return section if isinstance(section, Mapping) else self.parameters

    @cached_property
    def algo(self) -> str:
        """quant_algo in capitals; NVFP4 whose groups quantize no activations is W4A16_NVFP4. Raises InputError."""
        value = self._section.get("quant_algo")
        if value is None and self.parameters.get("quant_method") == "mxfp8":
            value = "MXFP8"
        if value is None:
            raise InputError(f"{self.key('quant_algo')} is missing; one of {', '.join(_METHODS)}")
        algo = str(value).upper()
        if algo not in _METHODS:
            raise InputError(f"{self.key('quant_algo')} = {value!r}: must be one of {', '.join(_METHODS)}")
        groups = self.parameters.get("config_groups")
        if algo == "NVFP4" and isinstance(groups, Mapping) and groups and _weights_only(groups):
            return "W4A16_NVFP4"
        return algo

    @cached_property
    def group(self) -> int:
        """Weights to a scale of NVFP4: 16 unless the config says otherwise. Raises InputError."""
        value = self._section.get("group_size")
        if value is None:
            listed = (layer.get("group_size") for layer in self.layers.values() if "NVFP4" in _algo(layer))
            value = next((size for size in listed if size is not None), 16)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{self.key('group_size')} = {value!r}: must be a whole number of at least 1")
        return value

    @cached_property
    def excluded(self) -> NameList:
        """`ignore` or `exclude_modules`, under vLLM's names; wildcards are kept. Raises InputError."""
        key = "ignore" if "ignore" in self._section else "exclude_modules"
        value = self._section.get(key) or []
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise InputError(f"{self.key(key)} = {value!r:.60}: must be a list of module names")
        if self.model is None or not self.model.renames:
            return NameList(value, self.key(key))
        trees = [part for item in value for part in _tree(item)]
        return NameList(self.rename(trees), self.key(key))

    @cached_property
    def layers(self) -> Mapping[str, Mapping[str, object]]:
        """quantized_layers: the algorithm of each module, under vLLM's names."""
        listed = self._section.get("quantized_layers") or {}
        if not isinstance(listed, Mapping) or not all(isinstance(value, Mapping) for value in listed.values()):
            raise InputError(f"{self.key('quantized_layers')}: must be an object of module names")
        return dict(zip(self.rename([*listed]), listed.values(), strict=True))

    @cached_property
    def _parents(self) -> Mapping[str, str]:
        """The algorithm of the first listed module below each prefix."""
        parents: dict[str, str] = {}
        for name, layer in self.layers.items():
            parent = name.rpartition(".")[0]
            while parent and parent not in parents:  # a known one has all of its own parents there
                parents[parent] = _algo(layer)
                parent = parent.rpartition(".")[0]
        return parents

    # --- matching ---------------------------------------------------------------------------------------------------

    def _is_excluded(self, name: str, packed: Sequence[str]) -> bool:
        names = self.excluded
        if not names:
            return False
        return skipped(names, names.exact, name, packed) or names.inside(name) or names.wildcard(name)

    def _resolved(self, name: str, packed: Sequence[str]) -> str | None:
        if self.algo != "MIXED_PRECISION":
            return self.algo
        for candidate in _aliases(name):
            if candidate in self.layers:
                return _algo(self.layers[candidate])
        base, _, last = name.rpartition(".")
        shards = packed or _FUSED.get(last, ())
        found = {
            _algo(self.layers[f"{candidate}.{shard}"])
            for candidate in _aliases(base)
            for shard in shards
            if f"{candidate}.{shard}" in self.layers
        }
        if len(found) > 1:
            raise Refusal(
                "mixed_fused_layer",
                f"Mixed quant_algo within fused layer {name}: {found}. All shards must use the same quantization.",
                "--quantization",
            )
        if found:
            return found.pop()
        below = next((self._parents[c] for c in _aliases(name) if c in self._parents), None)
        if below is None and name.endswith(".experts"):
            below = self._parents.get(base)
        return below

    def linear_scheme(self, name: str, packed: Sequence[str]) -> Scheme | None:
        """By quant_algo, in a mixture by the module's own entry; outside mixtures image encoders stay as they are."""
        if self._is_excluded(name, packed):
            return None
        mixed = self.algo == "MIXED_PRECISION"
        if not mixed and any(part in name for part in ("vision_tower", "vision_model", "vit_large_projector")):
            return None
        algo = self._resolved(name, packed)
        return None if algo is None or algo == "NONE" else self._scheme(algo)

    def head_scheme(self, name: str, packed: Sequence[str]) -> Scheme | None:
        """As for a linear layer: only exclude_modules leaves it alone."""
        return self.linear_scheme(name, packed)

    def experts_scheme(self, name: str, experts: Experts) -> Scheme | None:  # noqa: ARG002
        """As for a linear layer, but FP8 experts always have one static scale a tensor."""
        scheme = self.linear_scheme(name, ())
        if isinstance(scheme, Fp8) and self.algo != "MIXED_PRECISION":
            return Fp8(scales="tensor", static=True, expert_biases=False)  # ModelOptFp8MoEMethod knows no other FP8
        return scheme

    def _scheme(self, algo: str) -> Scheme:
        match algo:
            case "FP8":
                return Fp8(scales="tensor", static=True, expert_biases=False)
            case "FP8_PER_CHANNEL_PER_TOKEN":
                return Fp8(scales="channel", has_marlin=False, expert_biases=False)
            case "FP8_PB_WO" | "FP8_BLOCK_SCALES":
                return Fp8(
                    scales="block", must_divide="all inputs", whole_blocks=True, has_marlin=False, expert_biases=False
                )
            case "NVFP4":
                return BlockFloat(
                    width=4, group=self.group, scalars=4, expert_scalars=MODELOPT_EXPERT_SCALARS, expert_biases=False
                )
            case "W4A16_NVFP4":
                return BlockFloat(
                    width=4, group=self.group, scalars=1, expert_scalars=MODELOPT_EXPERT_SCALARS, expert_biases=False
                )
            case "MXFP8":
                return BlockFloat(width=8, group=32, scalars=0, expert_biases=False)
        raise InputError(f"{self.key('quantized_layers')}: unknown quant_algo {algo!r}")


def _algo(layer: Mapping[str, object]) -> str:
    return str(layer.get("quant_algo", "")).upper()


def _weights_only(groups: Mapping[str, object]) -> bool:
    return all(isinstance(group, Mapping) and group.get("input_activations") is None for group in groups.values())


def _tree(name: str) -> tuple[str, ...]:
    """ "path*" stands for the module and all below it; split so that each can be renamed (apply_vllm_mapper)."""
    if len(name) >= 2 and name[-1] == "*" and name[-2] != ".":
        return name[:-1], f"{name[:-1]}.*"
    return (name,)


def _aliases(name: str) -> tuple[str, ...]:
    """Other spellings of a prefix that quantized_layers may have."""
    names = [name]
    if name.endswith(".lm_head"):
        names.append("lm_head")
    for here, there in (
        ("language_model.model.", "model.language_model."),
        ("model.language_model.", "language_model.model."),
    ):
        if name.startswith(here):
            names.append(there + name[len(here) :])
            break
    return tuple(names)
