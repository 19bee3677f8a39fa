"""Fits the constants of planner/memory on measured launches, and says how wrong they are on others.

One half of the sources (never of the rows; a source is a repository with all its files and threads, or one log) is for
fitting, the other for the report. What is fitted, each a median over the launches of an entry's versions:

- bytes per logit of the sampler before 0.17; since then the source says it;
- non-torch memory, by version and by what ranks share;
- CUDA graphs, for each layer and size;
- the error of available KV cache memory, by model runner: the 90th percentile over all launches with known
  flags, every source weighing alike.

What no launch speaks for keeps its value, which is a figure read off the source or off a public launch.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from planner.calibration.launches import Launch
from planner.memory import activation, overhead
from planner.units import GIB


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
    """The constants file anew: medians over the launches of each entry's versions, and the errors seen.

    Only entries that say `fit` are; one that no launch of the fitting half speaks for keeps its value and says so
    (`launches: 0`). The others state their source.
    """
    half = [launch for launch in launches if for_fitting(launch) and not launch.inferred]
    fitted: dict[str, Any] = {**old}
    for name, key, value, kind, digits in (
        ("sampler_bytes_per_logit", "value", bytes_per_logit, _runner, 2),
        ("non_torch_bytes", "value", non_torch, _link, None),
        ("cuda_graph_bytes", "per_layer_and_size", graph_bytes, _runner, None),
    ):
        fitted[name] = [_refit(entry, half, old[name], key, value, kind, digits) for entry in old[name]]
    fitted["available_kv_error"] = [_error_entry(entry, launches) for entry in old["available_kv_error"]]
    return fitted


def _error_entry(entry: Mapping[str, Any], launches: Iterable[Launch]) -> dict[str, Any]:
    """Where 90 % of the launches with this model runner landed, every source weighing alike: both halves."""
    errors: list[tuple[float, str]] = []
    for launch in launches:
        ours, theirs = _available(launch), launch.measured("available_kv_gib")
        if launch.flags_known and _runner(launch)["runner"] == entry["runner"] and None not in (ours, theirs):
            errors.append((abs((ours or 0) - (theirs or 0)), launch.source))
    if not errors:
        return {**entry, "launches": 0}
    return {**entry, "value": round(_by_source(errors, 0.9) * GIB), "launches": len(errors)}


def _by_source(errors: Sequence[tuple[float, str]], share: float) -> float:
    """The error below which this share lies, when each source counts as one."""
    rows_of = Counter(source for _, source in errors)
    reached = 0.0
    for error, source in sorted(errors):
        reached += 1 / rows_of[source] / len(rows_of)
        if reached >= share:
            return error
    return max(error for error, _ in errors)


def _available(launch: Launch) -> float | None:
    ranks = launch.estimate.ranks
    return ranks[0].available_kv_bytes / GIB if ranks else None


def _refit(
    entry: Mapping[str, Any],
    launches: Iterable[Launch],
    siblings: Sequence[Mapping[str, Any]],
    key: str,
    value: Callable[[Launch], float | None],
    kind: Callable[[Launch], Mapping[str, object]],
    digits: int | None,
) -> dict[str, Any]:
    if not entry.get("fit"):
        return dict(entry)
    values = []
    for launch in launches:
        number = value(launch)
        if number is not None and overhead.of_version(siblings, launch.version, **kind(launch)) == entry:
            values.append(number)
    if not values:
        return {**entry, "launches": 0}
    return {**entry, key: round(median(values), digits), "launches": len(values)}


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
    """Non-torch memory in bytes, where vLLM printed it."""
    measured, engine = launch.measured("non_torch_gib"), launch.estimate.engine
    return None if measured is None or engine is None else measured * GIB


def graph_bytes(launch: Launch) -> float | None:
    """Bytes of CUDA graphs for each layer of each captured size; older logs print less than nothing at times."""
    measured, engine, model = launch.measured("cudagraph_gib"), launch.estimate.engine, launch.inputs.model
    if measured is None or measured <= 0 or engine is None or not engine.cudagraph_capture_sizes or model.is_moe:
        return None
    base = float(overhead.graph_entry(engine)["base"])
    layers = len(model.layers) / engine.pipeline_parallel_size
    return (measured * GIB - base) / (layers * len(engine.cudagraph_capture_sizes))
