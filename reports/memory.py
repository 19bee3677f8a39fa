"""An answer's memory as the parts of one GPU, in the order in which a bar draws them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from planner.text import printable
from planner.units import GIB

_TEXT_LIMIT = 4000


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One part of a GPU's memory."""

    key: str
    name: str
    bytes: int
    basis: str = ""

    @property
    def gib(self) -> str:
        """Its size in GiB, to two digits."""
        return gib(self.bytes)

    @property
    def gib_size(self) -> float:
        """Its size in GiB."""
        return self.bytes / GIB


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Where the memory of one GPU goes, in the order in which it is drawn."""

    label: str
    """Which GPUs these are: "each of 4 GPUs"."""
    segments: tuple[Segment, ...]
    total_bytes: int | None
    requested_bytes: int | None
    missing_bytes: int
    """What would have to be there and is not, where the weights and the rest exceed the requested share."""
    outside_bytes: int
    """What is used beyond the requested share once the engine runs, which this vLLM version does not budget for."""
    kv_range: tuple[int, int] | None

    def renamed(self, label: str) -> Memory:
        """The same figures under another label."""
        return replace(self, label=label)

    @property
    def used_bytes(self) -> int:
        """Bytes of all segments."""
        return sum(segment.bytes for segment in self.segments)

    @property
    def scale_bytes(self) -> int:
        """The length of a bar that holds everything drawn."""
        return max(self.used_bytes, self.total_bytes or 0, self.requested_bytes or 0, 1)

    @property
    def free_bytes(self) -> int:
        """Bytes of the card that nothing takes; 0 where more is needed than it has."""
        return max(0, (self.total_bytes or 0) - self.used_bytes)

    @property
    def marks(self) -> tuple[tuple[str, float], ...]:
        """The requested share and the card's end, in GiB, where they are known."""
        marks = (("requested", self.requested_bytes), ("end of the card", self.total_bytes))
        return tuple((name, size / GIB) for name, size in marks if size is not None)

    @property
    def drawn(self) -> tuple[Segment, ...]:
        """The segments with something in them, and what is left of the card."""
        free = Segment(key="free", name="Free", bytes=self.free_bytes, basis="")
        return tuple(part for part in (*self.segments, free) if part.bytes > 0)


def memory_of(answer: Mapping[str, Any]) -> Memory | None:
    """The memory of an answer's tightest GPU; None where vLLM would not come to allocate any."""
    return _memory(answer, answer["memory"], _each(answer)) if answer["memory"] is not None else None


def memories_of(answer: Mapping[str, Any]) -> tuple[Memory, ...]:
    """One for each pipeline stage, whose tensor-parallel ranks are alike; empty where nothing is allocated."""
    stages = [stage for stage in answer["ranks"] if stage.get("memory") is not None]
    if len(stages) < 2:
        only = memory_of(answer)
        return () if only is None else (only,)
    return tuple(
        _memory(answer, stage["memory"], f"stage {int(stage['pp_rank'])}: {_each(answer)}") for stage in stages
    )


def gib(size: float) -> str:
    """Bytes as GiB, to two digits, without the unit."""
    return f"{size / GIB:.2f}"


def text(value: object) -> str:
    """A value from outside on one printable line."""
    if isinstance(value, str):
        return printable(value, _TEXT_LIMIT)
    return printable(json.dumps(value), _TEXT_LIMIT)


def _each(answer: Mapping[str, Any]) -> str:
    engine = answer["engine"] or {}
    alike = int(engine.get("tensor_parallel_size", 1)) * int(engine.get("data_parallel_size", 1))
    return f"each of {alike} GPUs" if alike > 1 else "the GPU"


def _memory(answer: Mapping[str, Any], memory: Mapping[str, Any], label: str) -> Memory:
    basis = {key: text(value) for key, value in answer["basis"].items()}
    sizes = {key: int(value) for key, value in memory.items() if value is not None}
    available = sizes["available_kv_bytes"]
    weights = sizes["model_loading_bytes"] - sizes["offloaded_bytes"]
    activation = basis.get("activation_peak", "")
    parts = (
        ("weights", "Weights", weights, basis.get("weights", "")),
        ("kv", "KV cache", max(0, available), basis.get("available_kv", "")),
        ("activation", "Peak activation", sizes["activation_peak_bytes"], activation),
        ("buffers", "Engine buffers", sizes["persistent_bytes"] + _later(answer, sizes, weights), activation),
        ("graphs", "CUDA graphs", sizes["cuda_graph_bytes"], basis.get("cuda_graph", "")),
        ("non_torch", "Non-torch", sizes["non_torch_bytes"], basis.get("non_torch", "")),
    )
    low_high = answer["range"].get("available_kv_bytes")
    return Memory(
        label=label,
        segments=tuple(Segment(key=k, name=n, bytes=size, basis=how) for k, n, size, how in parts),
        total_bytes=sizes.get("total_bytes"),
        requested_bytes=sizes.get("requested_bytes"),
        missing_bytes=max(0, -available),
        outside_bytes=sizes["outside_budget_bytes"],
        kv_range=(int(low_high[0]), int(low_high[1])) if low_high else None,
    )


def _later(answer: Mapping[str, Any], sizes: Mapping[str, int], weights: int) -> int:
    """Buffers allocated after profiling: what is used beyond the requested share and has no line of its own."""
    engine = answer["engine"] or {}
    if "requested_bytes" not in sizes or engine.get("kv_cache_memory_bytes") is not None:
        return 0
    named = ("activation_peak_bytes", "persistent_bytes", "non_torch_bytes", "cuda_graph_bytes", "available_kv_bytes")
    known = weights + sum(sizes[key] for key in named)
    return max(0, sizes["requested_bytes"] + sizes["outside_budget_bytes"] - known)
