"""An answer's memory as the parts of one GPU, in the order in which a bar draws them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from planner.text import printable
from planner.units import GIB

OUTSIDE, OUTSIDE_NAME = "outside", "Outside the budget"
_TEXT_LIMIT = 4000


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One part of a GPU's memory."""

    key: str
    name: str
    bytes: int
    basis: str = ""
    outside: bool = False
    """Whether it comes on top of the requested share, which this vLLM version does not budget for."""

    @property
    def colour(self) -> str:
        """The key under which it is drawn: what is outside the budget is one segment of a bar."""
        return OUTSIDE if self.outside else self.key

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
    def outside_bytes(self) -> int:
        """What is used beyond the requested share once the engine runs."""
        return sum(segment.bytes for segment in self.segments if segment.outside)

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
        """The segments with something in them: up to the requested share, what comes on top, what is left."""
        within = (part for part in self.segments if not part.outside)
        outside = Segment(key=OUTSIDE, name=OUTSIDE_NAME, bytes=self.outside_bytes, basis=self._outside_words)
        free = Segment(key="free", name="Free", bytes=self.free_bytes)
        return tuple(part for part in (*within, outside, free) if part.bytes > 0)

    @property
    def _outside_words(self) -> str:
        return ", ".join(part.name.removeprefix(f"{OUTSIDE_NAME}: ") for part in self.segments if part.outside)


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
    sizes = {key: int(value) for key, value in memory.items() if value is not None}
    low_high = answer["range"].get("available_kv_bytes")
    return Memory(
        label=label,
        segments=tuple(_segments(answer, sizes)),
        total_bytes=sizes.get("total_bytes"),
        requested_bytes=sizes.get("requested_bytes"),
        missing_bytes=max(0, -sizes["available_kv_bytes"]),
        kv_range=(int(low_high[0]), int(low_high[1])) if low_high else None,
    )


def _segments(answer: Mapping[str, Any], sizes: Mapping[str, int]) -> Iterator[Segment]:
    """The parts of the requested share, then what comes on top of it. A KV cache of a given size has no budget."""
    basis = {key: text(value) for key, value in answer["basis"].items()}
    given = (answer["engine"] or {}).get("kv_cache_memory_bytes") is not None
    graphs, buffers = sizes["cuda_graph_bytes"], sizes["persistent_bytes"] + sizes["later_bytes"]
    more_graphs = 0 if given else sizes["cuda_graph_outside_bytes"]
    more_buffers = 0 if given else sizes["persistent_outside_bytes"] + sizes["later_bytes"]
    weights = sizes["model_loading_bytes"] - sizes["offloaded_bytes"]
    activation, graph_basis = basis.get("activation_peak", ""), basis.get("cuda_graph", "")
    yield Segment(key="weights", name="Weights", bytes=weights, basis=basis.get("weights", ""))
    kv_basis = basis.get("available_kv", "")
    yield Segment(key="kv", name="KV cache", bytes=max(0, sizes["available_kv_bytes"]), basis=kv_basis)
    yield Segment(key="activation", name="Peak activation", bytes=sizes["activation_peak_bytes"], basis=activation)
    if buffers > more_buffers or not more_buffers:
        yield Segment(key="buffers", name="Engine buffers", bytes=buffers - more_buffers, basis=activation)
    if not more_graphs:
        yield Segment(key="graphs", name="CUDA graphs", bytes=graphs, basis=graph_basis)
    yield Segment(key="non_torch", name="Non-torch", bytes=sizes["non_torch_bytes"], basis=basis.get("non_torch", ""))
    outside = (("graphs", "CUDA graphs", more_graphs, graph_basis), ("buffers", "buffers", more_buffers, activation))
    for key, name, size, how in outside:
        if size:
            yield Segment(key=f"{OUTSIDE}_{key}", name=f"{OUTSIDE_NAME}: {name}", bytes=size, basis=how, outside=True)
