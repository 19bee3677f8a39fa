"""Slices of a card by NVIDIA's Multi-Instance GPU: "H100 MIG 3g.40gb", "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb".

NVIDIA's table (docs.nvidia.com/datacenter/tesla/mig-user-guide, supported profiles): a slice has some of seven parts of
the multiprocessors (of four on an A30 and on Blackwell's workstation cards) and some of eight of the memory and of its
bandwidth. What it keeps of its memory is less than its share: on an H100 9.75, 19.62, 39.50 and 79.25 GiB
(`nvidia-smi mig -lgip`), 0.2 to 0.4 GiB below it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from planner.errors import InputError
from planner.units import GIB

if TYPE_CHECKING:
    from planner.hardware.catalogue import Gpu

_SLICE = re.compile(r"\b(?P<parts>[12347])g\.(?P<gb>\d{1,3})gb(?:\+me)?$", re.I)
_SEPARATORS = " \t_-"
_KEPT_BACK_GIB = 0.3
_MEMORY_PARTS: Mapping[int, Mapping[int, tuple[int, ...]]] = {
    7: {1: (1, 2), 2: (2,), 3: (4,), 4: (4,), 7: (8,)},
    4: {1: (2,), 2: (4,), 4: (8,)},
}
"""Eighths of the memory by parts of the multiprocessors, by how many of those the card has."""


@dataclass(frozen=True)
class Slice:
    """What the name says: a card, parts of its multiprocessors, and gigabytes."""

    card: str
    parts: int
    gigabytes: int

    def __str__(self) -> str:
        return f"{self.parts}g.{self.gigabytes}gb"


def parse(name: str) -> Slice | None:
    """None for a name that is no slice's."""
    found = _SLICE.search(name.strip())
    if found is None:
        return None
    card = found.string[: found.start()].rstrip(_SEPARATORS)
    if re.search(r"(^|[\s_-])mig$", card, re.I):
        card = card[:-3].rstrip(_SEPARATORS)
    return Slice(card=card, parts=int(found["parts"]), gigabytes=int(found["gb"])) if card else None


def slice_of(gpu: Gpu, part: Slice) -> Gpu:
    """That part of the card; InputError where NVIDIA offers none such."""
    total = _parts(gpu)
    eighths = round(8 * part.gigabytes / gpu.marketing_gb) if gpu.marketing_gb else 0
    if total is None or eighths not in _MEMORY_PARTS[total].get(part.parts, ()):
        raise InputError(f"{gpu.name} has no MIG slice {part}; nvidia-smi mig -lgip lists those it has")
    whole = gpu.reported_mib / 1024 if gpu.reported_mib is not None else gpu.known_memory() / GIB
    memory = round((whole * eighths / 8 - _KEPT_BACK_GIB) * GIB)
    return replace(
        gpu,
        name=f"{gpu.name} MIG {part}",
        memory_bytes=memory,
        memory_basis="derived",
        memory_note=f"{eighths} eighths of the card, less {_KEPT_BACK_GIB} GiB",
        measured_gib=(),
        marketing_gb=part.gigabytes,
        reported_mib=None,
        bandwidth_gbs=None if gpu.bandwidth_gbs is None else gpu.bandwidth_gbs * eighths / 8,
        tflops={kind: rate * part.parts / total for kind, rate in gpu.tflops.items()},
        nvlink_gbs=None,
        aliases=(),
    )


def _parts(gpu: Gpu) -> int | None:
    """Of a card's multiprocessors; None where it cannot be divided (GeForce, the L cards, A10, A40 …)."""
    if "NVIDIA A30" in gpu.name or (gpu.capability == 120 and "RTX PRO" in gpu.name):
        return 4
    return 7 if gpu.capability in (80, 90, 100, 103) else None
