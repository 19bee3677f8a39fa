"""bitsandbytes: nf4 and int8, in vLLM up to 0.27 (layers/quantization/bitsandbytes.py of those versions)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from planner.memory.quantization import Quantization, Scheme, method, online_method
from planner.memory.quantization.names import NameList
from planner.memory.quantization.schemes import Matrix, Named, Stack, Stored
from planner.units import ceil_div

if TYPE_CHECKING:
    from planner.model.modules import Experts

_BLOCK = 64


@dataclass(frozen=True)
class Nf4(Stored):
    """Half a byte a weight, an fp32 scale per 64 weights (double quantization is undone), a table of 16 values."""

    bits = 4
    min_capability = 70

    def matrix(self, m: Matrix) -> Iterator[Named]:
        """weight of n * k / 2 bytes; for each fused part an fp32 absmax per 64 weights and a table of 16."""
        yield "weight", ceil_div(m.n * m.k, 2)
        for i, rows in enumerate(m.rows):
            yield f"absmax_{i}", ceil_div(rows * m.k, _BLOCK) * 4
            yield f"code_{i}", 16 * 4

    def stack(self, s: Stack) -> Iterator[Named]:
        """w13 and w2 at half a byte a weight, an fp32 absmax per 64 weights."""
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
        """weight [n, k] in int8, SCB [n] in fp32."""
        yield "weight", m.n * m.k
        yield "SCB", m.n * 4

    def stack(self, s: Stack) -> Iterator[Named]:
        """w13 and w2 in int8, SCB per row in fp32."""
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
    exact = False

    def __post_init__(self) -> None:
        _ = self.scheme, self.skipped

    @cached_property
    def scheme(self) -> Stored:
        """int8 where load_in_8bit says so, else nf4."""
        return Llmint8() if self.flag("load_in_8bit", False) else Nf4()

    @cached_property
    def skipped(self) -> NameList:
        """llm_int8_skip_modules: what stays in 16 bits."""
        return self.names("llm_int8_skip_modules")

    def linear_scheme(self, name: str, packed: Sequence[str]) -> Scheme | None:  # noqa: ARG002
        """is_layer_skipped_bnb: a component of the name, or the name up to one, is listed."""
        parts = name.split(".")
        listed = set(self.skipped.entries)
        prefixes = {".".join(parts[: i + 1]) for i in range(len(parts))}
        return None if listed & {*parts, *prefixes} else self.scheme

    def experts_scheme(self, name: str, experts: Experts) -> Scheme | None:  # noqa: ARG002
        """By the name, as for a linear layer."""
        return self.linear_scheme(name, ())
