"""Fits the constants of planner/memory on measured launches, and says how wrong they are on others.

One half of the sources (never of the rows; a source is a repository with all its files and threads, or one log) is for
fitting, the other for the report. What is fitted, each a median over the launches of an entry's versions:

- bytes per logit of the sampler before 0.17; since then the source says it;
- non-torch memory, by version and by what ranks share;
- CUDA graphs, for each layer and size;
- the error of available KV cache memory, by model runner: the 90th percentile over all launches with known
  flags, each judged by constants fitted without its own source, every source weighing alike.

What no launch speaks for keeps its value, which is a figure read off the source or off a public launch.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from planner.calibration.errors import Judged
from planner.calibration.launches import Launch
from planner.memory import activation, overhead
from planner.memory.constants import constants, using
from planner.units import GIB


def for_fitting(launch: Launch) -> bool:
    """Which half a launch's source belongs to: by a hash of its name, so that it stays there as rows are added."""
    return hashlib.sha256(launch.source.encode()).digest()[0] % 2 == 0


# --- fitting --------------------------------------------------------------------------------------------------------


def fit(launches: Sequence[Launch], old: Mapping[str, Any]) -> dict[str, Any]:
    """The constants file anew: medians over the launches of each entry's versions, and the errors seen.

    Only entries that say `fit` are; one that no launch of the fitting half speaks for keeps its value and says so
    (`launches: 0`). The others state their source.
    """
    fitted = _fit_on([launch for launch in launches if for_fitting(launch)], old)
    fitted["available_kv_error"] = _ranges(old, crosswise(launches, old))
    return fitted


def _fit_on(launches: Iterable[Launch], old: Mapping[str, Any]) -> dict[str, Any]:
    chosen = [launch for launch in launches if not launch.inferred and launch.environment is None]
    fitted: dict[str, Any] = {**old}
    for name, key, value, kind, digits in _CONSTANTS:
        fitted[name] = [_refit(entry, chosen, old[name], key, value, kind, digits) for entry in old[name]]
    return fitted


def crosswise(launches: Sequence[Launch], old: Mapping[str, Any]) -> list[Judged]:
    """Every launch of which all is known, judged by constants that were fitted on all sources but its own.

    The stated range too is that of the other sources' errors.
    """
    first = _without_own(launches, old, lambda _: old["available_kv_error"])
    return _without_own(launches, old, lambda source: _ranges(old, first, without=source))


def _without_own(
    launches: Sequence[Launch], old: Mapping[str, Any], ranges: Callable[[str], Sequence[Mapping[str, Any]]]
) -> list[Judged]:
    found = []
    for source in sorted({launch.source for launch in launches if launch.flags_known}):
        constants = _fit_on([launch for launch in launches if launch.source != source], old)
        with using({**constants, "available_kv_error": ranges(source)}):
            found += [
                Judged(launch=launch, estimate=launch.inputs.estimate(), alone=_alone(launch, constants))
                for launch in launches
                if launch.source == source and launch.flags_known
            ]
    return found


def _alone(launch: Launch, constants: Mapping[str, Any]) -> str | None:
    for name, _, _, kind, _ in _CONSTANTS:
        entry = overhead.of_version(constants[name], launch.version, **kind(launch))
        counted = name != "cuda_graph_bytes" or _counts_graphs(launch)
        if counted and entry.get("fit") and not entry["launches"]:
            return f"{name}, {' '.join(str(value) for value in kind(launch).values())} since {entry['from']}"
    return None


def _counts_graphs(launch: Launch) -> bool:
    beside = launch.estimate.overhead
    return beside is not None and beside.graphs_in_budget and beside.cuda_graph > 0


def _ranges(old: Mapping[str, Any], judged: Iterable[Judged], *, without: str | None = None) -> list[dict[str, Any]]:
    """Where 90 % of the launches with each model runner landed, judged without their source, each weighing alike.

    The share is that of split conformal prediction, 0.9 (n + 1) / n of n sources. Of fewer than three nothing is
    concluded: the value stays as it is, an assumption.
    """
    judged, found = tuple(judged), []
    for entry in old["available_kv_error"]:
        errors = [
            (abs(each.error), each.launch.source)
            for each in judged
            if each.alone is None and each.error is not None and each.launch.source != without
            if _runner(each.launch)["runner"] == entry["runner"]
        ]
        sources = len({source for _, source in errors})
        if sources < _ENOUGH_SOURCES:
            found.append({**entry, "launches": 0})
        else:
            value = _by_source(errors, min(1.0, 0.9 * (sources + 1) / sources))
            found.append({**entry, "value": round(value * GIB), "launches": len(errors)})
    return found


_ENOUGH_SOURCES = 3


def _by_source(errors: Sequence[tuple[float, str]], share: float) -> float:
    """The error below which this share lies, when each source counts as one."""
    rows_of = Counter(source for _, source in errors)
    reached = 0.0
    for error, source in sorted(errors):
        reached += 1 / rows_of[source] / len(rows_of)
        if reached >= share:
            return error
    return max(error for error, _ in errors)


def _refit(
    entry: Mapping[str, Any],
    launches: Iterable[Launch],
    siblings: Sequence[Mapping[str, Any]],
    key: str,
    value: Callable[[Launch], float | None],
    kind: Callable[[Launch], Mapping[str, object]],
    digits: int | None,
) -> dict[str, Any]:
    values = []
    for launch in launches:
        number = value(launch)
        if number is not None and overhead.of_version(siblings, launch.version, **kind(launch)) == entry:
            values.append(number)
    if not entry.get("fit"):
        return {**entry, "seen": sum(abs(number - entry[key]) <= 0.1 * entry[key] for number in values)}
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
    """Non-torch memory in bytes, as vLLM printed it; or what is left where all else is printed or follows from the
    source alone (peak activation since 0.17)."""
    printed, estimate = launch.measured("non_torch_gib"), launch.estimate
    if printed is not None:
        return printed * GIB
    weights, available = launch.measured("model_loading_gib"), launch.measured("available_kv_gib")
    beside, requested = estimate.overhead, estimate.requested_bytes
    if beside is None or requested is None or weights is None or available is None or not launch.flags_known:
        return None
    sampler = overhead.of_version(constants()["sampler_bytes_per_logit"], launch.version, **_runner(launch))
    if sampler.get("fit") or launch.inputs.model.is_multimodal or _counts_graphs(launch):
        return None
    return requested - (weights + available) * GIB - (beside.in_budget - beside.non_torch)


def graph_bytes(launch: Launch) -> float | None:
    """Bytes of CUDA graphs for each layer of each captured size; older logs print less than nothing at times."""
    measured, engine, model = launch.measured("cudagraph_gib"), launch.estimate.engine, launch.inputs.model
    if measured is None or measured <= 0 or engine is None or not engine.cudagraph_capture_sizes or model.is_moe:
        return None
    base = float(overhead.graph_entry(engine)["base"])
    layers = len(model.layers) / engine.pipeline_parallel_size
    return (measured * GIB - base) / (layers * len(engine.cudagraph_capture_sizes))


_CONSTANTS: tuple[
    tuple[
        str,
        str,
        Callable[[Launch], float | None],
        Callable[[Launch], Mapping[str, object]],
        int | None,
    ],
    ...,
] = (
    ("sampler_bytes_per_logit", "value", bytes_per_logit, _runner, 2),
    ("non_torch_bytes", "value", non_torch, _link, None),
    ("cuda_graph_bytes", "per_layer_and_size", graph_bytes, _runner, None),
)
"""(name, the key that is fitted, what a launch says of it, which entry is a launch's, digits)."""
