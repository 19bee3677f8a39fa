"""Fits the constants of planner/memory/overhead.py on measured launches, and says how wrong they are on others.

One half of the sources (never of the rows) is for fitting, the other for the report. What is fitted, and how:

- bytes per logit of the sampler's peak, beside the logits themselves, by version and model runner: the median over launches whose profile run peaks in
  the sampler;
- non-torch memory, by version and whether tensor parallelism is used: the median;
- CUDA graph memory, by version: a base and so much for each captured size and layer, by least absolute error;
- the error of available KV cache memory: the 90th percentile over the launches of the other half.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from planner.calibration.launches import Launch
from planner.memory import overhead
from planner.units import DTYPE_BYTES, GIB


@dataclass(frozen=True, kw_only=True)
class Error:
    """Predicted against measured over some launches; sizes in GiB."""

    name: str
    launches: int
    median_gib: float
    p90_gib: float
    median_share: float
    """Median of |error| / measured."""
    over_promised: int
    """Launches whose measured KV cache was more than 0.3 GiB below the stated range."""


def for_fitting(launch: Launch) -> bool:
    """Which half a launch's source belongs to: by a hash of its name, so that it stays there as rows are added."""
    return hashlib.sha256(launch.source.encode()).digest()[0] % 2 == 0


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def error_of(
    name: str,
    launches: Iterable[Launch],
    predicted: Callable[[Launch], float | None],
    measured: Callable[[Launch], float | None],
) -> Error | None:
    """None where no launch has both figures."""
    pairs: list[tuple[float, float, Launch]] = []
    for launch in launches:
        ours, theirs = predicted(launch), measured(launch)
        if ours is not None and theirs is not None:
            pairs.append((ours, theirs, launch))
    if not pairs:
        return None
    errors = [abs(ours - theirs) for ours, theirs, _ in pairs]
    over = sum(1 for _, theirs, launch in pairs if theirs < _promised(launch) - 0.3)
    return Error(
        name=name,
        launches=len(pairs),
        median_gib=median(errors),
        p90_gib=percentile(errors, 0.9),
        median_share=median(abs(ours - theirs) / abs(theirs) for ours, theirs, _ in pairs if theirs),
        over_promised=over if name == "available KV cache memory" else 0,
    )


def _promised(launch: Launch) -> float:
    low = launch.estimate.available_range
    return low[0] / GIB if low is not None else float("-inf")


# --- what each launch says about one constant -----------------------------------------------------------------------


def bytes_per_logit(launch: Launch) -> float | None:
    """The sampler's bytes per logit that this launch's peak implies; None where something else may have peaked."""
    measured, estimate = launch.measured("activation_peak_gib"), launch.estimate
    engine, model = estimate.engine, launch.inputs.model
    if measured is None or engine is None or engine.pipeline_parallel_size > 1 or model.is_pooling:
        return None
    beside = overhead.moe_workspace(model, engine) if engine.vllm_version >= (0, 18) else 0
    others = max(overhead.forward_peak(model, engine), overhead.mla_peak(model, engine))
    peak = measured * GIB - beside
    if peak < 1.1 * others:
        return None
    rows = min(engine.max_num_seqs, engine.max_num_batched_tokens)
    element = DTYPE_BYTES[engine.dtype]
    hidden = element * engine.max_num_batched_tokens * model.hidden_size
    base = int(overhead.constants()["sampler_base_bytes"])
    return (peak - hidden - base) / (rows * model.vocab_size) - element


def groups(
    launches: Iterable[Launch], key: Callable[[Launch], Any], value: Callable[[Launch], float | None]
) -> dict[Any, list[float]]:
    """Values of the launches that have one, by key."""
    found: dict[Any, list[float]] = {}
    for launch in launches:
        number = value(launch)
        if number is not None:
            found.setdefault(key(launch), []).append(number)
    return found
