"""Fits the constants of planner/memory/overhead.py on measured launches, and says how wrong they are on others.

One half of the sources (never of the rows) is for fitting, the other for the report. What is fitted, and how:

- bytes per logit of the sampler's peak, beside the logits themselves, by version and model runner: the median over
  launches whose profile run peaks in the sampler;
- non-torch memory, by version and whether tensor parallelism is used: the median;
- the error of available KV cache memory, by model runner: the 90th percentile over all launches with known flags.

CUDA graph memory and what no launch speaks for keep their values, which are figures read off public launches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from planner.calibration.launches import Launch
from planner.memory import activation, overhead
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


# --- fitting --------------------------------------------------------------------------------------------------------


def fit(launches: Sequence[Launch], old: Mapping[str, Any]) -> dict[str, Any]:
    """The constants file anew: medians over the launches of each entry's versions, and the errors seen on the others.

    An entry that no launch of the fitting half speaks for keeps its value and says so (`launches: 0`).
    """
    half = [launch for launch in launches if for_fitting(launch)]
    fitted: dict[str, Any] = {**old}
    fitted["sampler_bytes_per_logit"] = [
        _refit(entry, half, old["sampler_bytes_per_logit"], bytes_per_logit, _runner)
        for entry in old["sampler_bytes_per_logit"]
    ]
    fitted["non_torch_bytes"] = [
        _refit(entry, half, old["non_torch_bytes"], non_torch, _link, whole=True) for entry in old["non_torch_bytes"]
    ]
    fitted["available_kv_error"] = [_error_entry(entry, launches) for entry in old["available_kv_error"]]
    return fitted


def _error_entry(entry: Mapping[str, Any], launches: Iterable[Launch]) -> dict[str, Any]:
    """Where 90 % of the launches with this model runner landed: both halves, since a range must not flatter."""
    known = [launch for launch in launches if launch.flags_known and _runner(launch)["runner"] == entry["runner"]]
    found = error_of("available", known, _available, lambda launch: launch.measured("available_kv_gib"))
    if found is None:
        return {**entry, "launches": 0}
    return {**entry, "value": round(found.p90_gib * GIB), "launches": found.launches}


def _available(launch: Launch) -> float | None:
    ranks = launch.estimate.ranks
    return ranks[0].available_kv_bytes / GIB if ranks else None


def _refit(
    entry: Mapping[str, Any],
    launches: Iterable[Launch],
    siblings: Sequence[Mapping[str, Any]],
    value: Callable[[Launch], float | None],
    kind: Callable[[Launch], Mapping[str, object]],
    *,
    whole: bool = False,
) -> dict[str, Any]:
    values = []
    for launch in launches:
        number = value(launch)
        if number is not None and overhead.of_version(siblings, launch.version, **kind(launch)) == entry:
            values.append(number)
    if not values:
        return {**entry, "launches": 0}
    found = median(values)
    return {**entry, "value": round(found) if whole else round(found, 2), "launches": len(values)}


def _runner(launch: Launch) -> Mapping[str, object]:
    engine = launch.estimate.engine
    return {"runner": "v2" if engine is not None and engine.use_v2_model_runner else "v1"}


def _link(launch: Launch) -> Mapping[str, object]:
    engine = launch.estimate.engine
    return {"link": overhead.link_of(engine) if engine is not None else None}


# --- what each launch says about one constant -----------------------------------------------------------------------


def bytes_per_logit(launch: Launch) -> float | None:
    """The sampler's bytes per logit that this launch's peak implies; None where something else may have peaked."""
    measured, estimate = launch.measured("activation_peak_gib"), launch.estimate
    engine, model = estimate.engine, launch.inputs.model
    if measured is None or engine is None or engine.pipeline_parallel_size > 1 or model.is_pooling:
        return None
    quant = launch.inputs.quantization
    shared = activation.moe_workspace(model, engine) if activation.shares_moe_workspace(engine, quant) else 0
    peak = measured * GIB - shared - activation.encoder_run(model, engine).kept
    if peak < 1.1 * max(activation.forward_peak(model, engine), activation.mla_peak(model, engine)):
        return None
    logits = activation.sampled_rows(engine) * model.vocab_size
    others = activation.sampler_peak(model, engine) - logits * activation.logit_bytes(engine)
    return (peak - others) / logits


def non_torch(launch: Launch) -> float | None:
    """Non-torch memory in bytes, where vLLM printed it; pipeline stages that never sample open less."""
    measured, engine = launch.measured("non_torch_gib"), launch.estimate.engine
    if measured is None or engine is None or engine.pipeline_parallel_size > 1:
        return None
    return measured * GIB
