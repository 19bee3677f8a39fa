"""Predicted beside measured: one launch, and the errors over many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from planner.calibration.launches import Launch
from planner.memory.budget import Estimate
from planner.units import GIB

AVAILABLE = "available KV cache memory"
BEYOND_GIB = 0.3
"""Available KV cache memory this far below the stated range counts as over-promised."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """A launch and what was predicted of it, by whichever constants."""

    launch: Launch
    estimate: Estimate
    alone: str | None = None
    """The fitted constant for which the launch's own source alone speaks, where it is to be judged without."""

    @property
    def weights(self) -> float | None:
        """GiB, of the first pipeline stage: the rank whose figures a log shows first."""
        return self.estimate.ranks[0].loading_bytes / GIB if self.estimate.ranks else None

    @property
    def activation(self) -> float | None:
        """Predicted peak activation of the first stage, GiB; None where no figure is predicted."""
        return self.estimate.overheads[0].activation_peak / GIB if self.estimate.overheads else None

    @property
    def available(self) -> float | None:
        """Predicted available KV cache memory of the first stage, GiB; None where no figure is predicted."""
        return self.estimate.ranks[0].available_kv_bytes / GIB if self.estimate.ranks else None

    @property
    def error(self) -> float | None:
        """Available KV cache memory, predicted less measured, GiB."""
        measured = self.launch.measured("available_kv_gib")
        return None if self.available is None or measured is None else self.available - measured


Figure = Callable[[Judged], float | None]
FIGURES: tuple[tuple[str, str, Figure], ...] = (
    ("weights", "model_loading_gib", lambda judged: judged.weights),
    ("peak activation", "activation_peak_gib", lambda judged: judged.activation),
    (AVAILABLE, "available_kv_gib", lambda judged: judged.available),
)
"""(name, key of the measured row, our figure)."""


@dataclass(frozen=True, kw_only=True)
class Error:
    """Predicted against measured over some launches; sizes in GiB."""

    name: str
    launches: int
    sources: int
    median_gib: float
    p90_gib: float
    median_share: float
    """Median of |error| / measured."""
    inside: int | None = None
    """Launches whose measured KV cache lies in the stated range."""
    over_promised: int | None = None
    """Launches whose measured KV cache is more than BEYOND_GIB below it."""


def as_shipped(launches: Iterable[Launch]) -> list[Judged]:
    """Each launch by the constants that are installed."""
    return [Judged(launch=launch, estimate=launch.estimate) for launch in launches]


def errors(cases: Iterable[Judged]) -> list[Error]:
    """One for each figure that any of the launches printed."""
    cases = tuple(cases)
    found = (_error_of(name, key, ours, cases) for name, key, ours in FIGURES)
    return [error for error in found if error is not None]


def _error_of(name: str, key: str, figure: Figure, cases: Sequence[Judged]) -> Error | None:
    pairs: list[tuple[float, float, Judged]] = []
    for case in cases:
        ours, theirs = figure(case), case.launch.measured(key)
        if ours is not None and theirs is not None:
            pairs.append((ours, theirs, case))
    if not pairs:
        return None
    off = [abs(ours - theirs) for ours, theirs, _ in pairs]
    below = [_below(case, theirs) for _, theirs, case in pairs] if name == AVAILABLE else []
    return Error(
        name=name,
        launches=len(pairs),
        sources=len({case.launch.source for _, _, case in pairs}),
        median_gib=median(off),
        p90_gib=percentile(off, 0.9),
        median_share=median(abs(ours - theirs) / abs(theirs) for ours, theirs, _ in pairs if theirs),
        inside=sum(_inside(case, theirs) for _, theirs, case in pairs) if below else None,
        over_promised=sum(gap > BEYOND_GIB for gap in below) if below else None,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _below(case: Judged, measured: float) -> float:
    """How far a measured KV cache is below the stated range, GiB."""
    low, _ = case.estimate.available_range or (float("-inf"), 0)
    return low / GIB - measured


def _inside(case: Judged, measured: float) -> bool:
    low, high = case.estimate.available_range or (float("-inf"), float("inf"))
    return low / GIB <= measured <= high / GIB
