"""Weight-only integers: AWQ and GPTQ checkpoints (layers/quantization/auto_awq.py, auto_gptq.py, 0.33)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from planner.errors import InputError, Refusal
from planner.memory.quantization import Quantization, Scheme, method
from planner.memory.quantization.names import NameList, all_or_none, compiled, shard_names, skipped
from planner.memory.quantization.schemes import Awq, Packed

if TYPE_CHECKING:
    from planner.model.modules import Experts


def checked_group(quant: Quantization, group: int, key: str) -> int:
    """The group size, in inputs. Raises InputError unless it is at least 1, or -1 for one group per channel."""
    if group != -1 and group < 1:
        raise InputError(f"{quant.key(key)} = {group}: must be at least 1, or -1 for one group per channel")
    return group


@method("awq", "auto_awq", "awq_marlin")
@dataclass(frozen=True, kw_only=True, eq=False)
class AwqCheckpoint(Quantization):
    """4-bit weights with zero points per group of inputs."""

    name = "auto_awq"
    min_capability = 75

    def __post_init__(self) -> None:
        _ = self.scheme, self.ignored

    @cached_property
    def scheme(self) -> Awq:
        """From bits, group_size and zero_point, or AutoAWQ's older w_bit and q_group_size. Raises InputError."""
        bits = self.integer("w_bit", "bits") if "w_bit" in self.parameters else self.integer("bits")
        if bits != 4:
            raise InputError(f"{self.key('bits')} = {bits}: AWQ has 4 bits")
        key = "q_group_size" if "q_group_size" in self.parameters else "group_size"
        group = checked_group(self, self.integer(key), key)
        return Awq(width=4, group=group, zero_points=self.flag("zero_point"), stores_zeros=True, expert_biases=False)

    @cached_property
    def ignored(self) -> NameList:
        """modules_to_not_convert: parts of names."""
        return self.names("modules_to_not_convert")

    def linear_scheme(self, name: str, packed: Sequence[str]) -> Scheme | None:
        """Left alone where an entry of the list is part of the name."""
        return None if skipped(self.ignored, self.ignored.inside, name, packed) else self.scheme

    def experts_scheme(self, name: str, experts: Experts) -> Scheme | None:  # noqa: ARG002
        """Likewise, by the name of the stack."""
        return None if skipped(self.ignored, self.ignored.inside, name, ()) else self.scheme

    def head_scheme(self, name: str, packed: Sequence[str]) -> Scheme | None:
        """Quantized only where the config says lm_head: true."""
        return self.linear_scheme(name, packed) if self.flag("lm_head", False) else None


@dataclass(frozen=True)
class DynamicRule:
    """One entry of GPTQModel's `dynamic`: modules that are left alone, or get other parameters."""

    pattern: re.Pattern[str]
    excludes: bool
    overrides: Mapping[str, object]


@method("gptq", "auto_gptq", "gptq_marlin")
@dataclass(frozen=True, kw_only=True, eq=False)
class GptqCheckpoint(Quantization):
    """4- or 8-bit symmetric weights per group of inputs."""

    name = "auto_gptq"
    min_capability = 60

    def __post_init__(self) -> None:
        _ = self.scheme, self.rules, self.quantized
        for rule in self.rules:
            if not rule.excludes:
                self._overridden(rule.overrides)

    @cached_property
    def scheme(self) -> Packed:
        """From bits, group_size, sym and desc_act. Raises InputError, or Refusal where vLLM has no kernel."""
        return self._packed(
            self.integer("bits"), self.integer("group_size"), self.flag("sym"), self.flag("desc_act"), "bits"
        )

    def _packed(self, bits: int, group: int, sym: bool, desc_act: bool, key: str) -> Packed:
        checked_group(self, group, "group_size")
        if desc_act and group != -1:
            raise Refusal(
                "gptq_desc_act",
                "GPTQ group activation ordering (desc_act=True) is no longer supported. Use a checkpoint with static "
                "activation ordering or desc_act=False.",
                "--quantization",
            )
        if bits not in (2, 3, 4, 8):
            raise InputError(f"{self.key(key)} = {bits}: GPTQ has 2, 3, 4 or 8 bits, and vLLM takes 4 and 8")
        if bits not in (4, 8) or not sym:
            raise Refusal(
                "gptq_unsupported",
                f"Unsupported quantization config: bits={bits}, sym={sym}",
                "--quantization",
            )
        return Packed(width=bits, group=group, stores_zeros=True)

    @cached_property
    def rules(self) -> tuple[DynamicRule, ...]:
        """`dynamic`, in the config's order: the first pattern that matches a name from its start counts."""
        dynamic = self.parameters.get("dynamic") or {}
        if not isinstance(dynamic, Mapping):
            raise InputError(f"{self.key('dynamic')} = {dynamic!r}: must be an object of patterns")
        return tuple(
            DynamicRule(
                compiled(pattern.removeprefix("-:").removeprefix("+:"), self.key("dynamic")),
                pattern.startswith("-:"),
                overrides if isinstance(overrides, Mapping) else {},
            )
            for pattern, overrides in dynamic.items()
        )

    def _overridden(self, overrides: Mapping[str, object]) -> Packed:
        def value(key: str, otherwise: int) -> int:
            found = overrides.get(key)
            return found if isinstance(found, int) else otherwise

        return self._packed(
            value("bits", self.integer("bits")),
            value("group_size", self.integer("group_size")),
            bool(value("sym", self.flag("sym"))),
            bool(value("desc_act", self.flag("desc_act"))),
            "dynamic: bits",
        )

    @cached_property
    def quantized(self) -> NameList:
        """modules_in_block_to_quantize, where given: all others stay in 16 bits."""
        listed = self.parameters.get("modules_in_block_to_quantize") or ()
        if isinstance(listed, list | tuple):
            listed = [name for item in listed for name in (item if isinstance(item, list | tuple) else (item,))]
        return self.name_list(listed, self.key("modules_in_block_to_quantize"))

    def _rule(self, name: str) -> DynamicRule | None:
        return next((rule for rule in self.rules if rule.pattern.match(name)), None)

    def linear_scheme(self, name: str, packed: Sequence[str]) -> Scheme | None:
        """By modules_in_block_to_quantize and then by `dynamic`."""
        if self.quantized:
            names = shard_names(name, packed) or (name,)
            if not all_or_none([self.quantized.inside(shard) for shard in names], name):
                return None
        return self.experts_scheme(name, None)

    def experts_scheme(self, name: str, experts: Experts | None) -> Scheme | None:  # noqa: ARG002
        """By `dynamic`."""
        rule = self._rule(name)
        if rule is None:
            return self.scheme
        return None if rule.excludes else self._overridden(rule.overrides)

    def head_scheme(self, name: str, packed: Sequence[str]) -> Scheme | None:
        """Quantized only where the config says lm_head: true."""
        return self.linear_scheme(name, packed) if self.flag("lm_head", False) else None
