"""Launches that failed: is each predicted to fail, and in the same way?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from planner.calibration.launches import card_of, launch_of, request_of, rows, version_of
from planner.engine.version import NEWEST
from planner.memory.budget import Estimate
from planner.request import prepare

FREE = "free_memory_below_requested"
STAND_IN = "Qwen/Qwen3-0.6B"
"""For the check of free memory, which comes before any model is read."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Failure:
    """One failed launch beside what is predicted of it."""

    row: Mapping[str, Any]
    kind: str
    """The row's own word (error_kind)."""
    estimate: Estimate | None
    """None where it cannot be asked for."""
    unknown: tuple[str, ...] = ()
    """What would have to be known to judge it, or was inferred."""

    @property
    def judged(self) -> bool:
        """Whether it counts: an estimate could be made and nothing that decides the outcome is unknown."""
        return self.estimate is not None and not self.unknown

    @property
    def predicted(self) -> str:
        """Codes of the prediction."""
        if self.estimate is None:
            return ""
        return " ".join(reason.code for reason in self.estimate.reasons) or self.estimate.status

    @property
    def agrees(self) -> bool:
        """A failure of the same kind; running out while serving is foreseen as a warning."""
        if self.estimate is None:
            return False
        if self.kind in ("oom_after_start", "oom_runtime"):
            return bool(self.estimate.warnings) or not self.estimate.fits
        same = {self.kind}
        if self.kind.startswith("oom_"):
            same = {"oom_graph_capture", "oom_sampler_warmup"}
        return any(reason.code in same for reason in self.estimate.reasons)


@cache
def failures() -> tuple[Failure, ...]:
    """The measured launches that did not start, each once however often it was reported."""
    found, seen = [], set()
    for row in rows():
        key = (row.get("date"), row["model"], row.get("gpu_memory_utilization"), str(row["measured"]))
        if row.get("error_kind") and key not in seen:
            seen.add(key)
            found.append(_free(row) if row["error_kind"] == FREE else _other(row))
    return tuple(found)


def _free(row: Mapping[str, Any]) -> Failure:
    """The check needs total, free memory and utilization alone; any version since 0.9 makes it."""
    unknown = [
        name
        for name, value in (
            ("the card's total", row.get("device_total_gib")),
            ("free memory at the start", row["measured"].get("free_gib_on_start")),
            ("gpu_memory_utilization", row.get("gpu_memory_utilization")),
        )
        if value is None
    ]
    if unknown:
        return Failure(row=row, kind=FREE, estimate=None, unknown=tuple(unknown))
    card, _ = card_of(row)
    asked = {key: value for key, value in request_of(row).items() if key.startswith("gpu_memory")}
    version, _ = version_of(row)
    request = {"model": STAND_IN, "gpu": card or "RTX 4090", "vllm_version": version or str(NEWEST), **asked}
    return Failure(row=row, kind=FREE, estimate=prepare(request).estimate())


def _other(row: Mapping[str, Any]) -> Failure:
    kind = str(row["error_kind"])
    launch = launch_of(row)
    if isinstance(launch, str):
        return Failure(row=row, kind=kind, estimate=None, unknown=(launch,))
    unknown = tuple(f"{name} inferred" for name in launch.inferred)
    if row.get("gpu_memory_utilization") is None:
        unknown = (*unknown, "gpu_memory_utilization taken from the thread or the default")
    return Failure(row=row, kind=kind, estimate=launch.estimate, unknown=unknown)
