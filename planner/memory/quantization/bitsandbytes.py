"""bitsandbytes: nf4 and int8, in vLLM up to 0.27 (layers/quantization/bitsandbytes.py of those versions)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from planner.errors import InputError, Refusal
from planner.memory.quantization import Facts, Quantization, Scheme, method, online_method
from planner.memory.quantization.names import NameList, shard_names
from planner.memory.quantization.schemes import Matrix, Named, Stack, Stored
from planner.units import ceil_div

if TYPE_CHECKING:
    from planner.model.modules import Experts

_BLOCK = 64
_UNKNOWN = "Unknown quantization method: bitsandbytes."


@dataclass(frozen=True)
class Nf4(Stored):
    """Half a byte a weight, and an fp32 scale per 64 weights: vLLM keeps no double-quantized scales on the GPU."""

    bits = 4
    min_capability = 70

    def matrix(self, m: Matrix) -> Iterator[Named]:
        yield "weight", ceil_div(m.n * m.k, 2)
        for i, rows in enumerate(m.rows):
            yield f"absmax_{i}", ceil_div(rows * m.k, _BLOCK) * 4

    def stack(self, s: Stack) -> Iterator[Named]:
        w13, w2 = s.weights(4)
        yield "w13_weight", w13
        yield "w2_weight", w2
        yield "w13_absmax", w13 * 2 // _BLOCK * 4
        yield "w2_absmax", w2 * 2 // _BLOCK * 4
        yield from s.biases(s.at.dtype_bytes)


@dataclass(frozen=True)
class Llmint8(Stored):
    """One byte a weight and an fp32 scale per row."""

    bits = 8
    min_capability = 70

    def matrix(self, m: Matrix) -> Iterator[Named]:
        yield "weight", m.n * m.k
        yield "SCB", m.n * 4

    def stack(self, s: Stack) -> Iterator[Named]:
        w13, w2 = s.weights(8)
        yield "w13_weight", w13
        yield "w2_weight", w2
        yield "w13_SCB", s.count * s.up * 4
        yield "w2_SCB", s.count * s.hidden * 4


@method("bitsandbytes")
@online_method("bitsandbytes")
@dataclass(frozen=True, kw_only=True, eq=False)
class BitsAndBytes(Quantization):
    """nf4 or int8, from a checkpoint or while loading."""

    name = "bitsandbytes"
    min_capability = 70
    last_version = (0, 27)
    facts = Facts("4-bit NormalFloat weights", 4.5, 2)

    @cached_property
    def scheme(self) -> Stored:
        if self.flag("load_in_8bit", False):
            return Llmint8()
        if self.flag("load_in_4bit", self.online) or self.flag("_load_in_4bit", False):
            return Nf4()
        raise InputError(f"{self.key('load_in_4bit')} and load_in_8bit are both false; one of them must be true")

    @cached_property
    def skipped(self) -> NameList:
        return self.names("llm_int8_skip_modules")

    def linear_scheme(self, name: str, packed: Sequence[str]) -> Scheme | None:
        """is_layer_skipped_bnb: a component of the name, or a prefix of it, is listed."""
        parts = name.split(".")
        listed = set(self.skipped.entries)
        for shard in (name, *shard_names(name, packed)):
            if shard.rsplit(".", 1)[-1] in listed:
                return None
        prefixes = {".".join(parts[: i + 1]) for i in range(len(parts))}
        return None if listed & {*parts, *prefixes} else self.scheme

    def experts_scheme(self, name: str, experts: Experts) -> Scheme | None:
        return self.linear_scheme(name, ())


def unknown() -> Refusal:
    """What vLLM says since 0.28."""
    return Refusal("unknown_quantization", _UNKNOWN, "--quantization")
