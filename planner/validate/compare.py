"""Predicted beside measured, quantity by quantity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from planner.engine.measure import LoadResult, Measurement
from planner.errors import InputError
from planner.memory.budget import Estimate
from planner.request import Inputs
from planner.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One quantity, predicted and measured."""

    name: str
    predicted: float
    measured: float
    unit: str
    exact: bool
    """Whether the prediction claims to be exact."""

    @property
    def difference(self) -> float:
        """Measured less predicted, in the row's unit."""
        return self.measured - self.predicted

    def to_dict(self) -> dict[str, Any]:
        """As an entry of a record's `comparisons`."""
        return {
            "name": self.name,
            "predicted": self.predicted,
            "measured": self.measured,
            "difference": self.difference,
            "unit": self.unit,
            "exact": self.exact,
        }


def compare(estimate: Estimate, measurement: Measurement) -> list[Comparison]:
    """Sizes: every one that the engine tells, of itself or in its log."""
    rows = [*_weights(estimate, measurement), *_cache(estimate, measurement)]
    overhead = estimate.overhead
    if overhead and measurement.peak_activation_bytes is not None:
        rows.append(_row("peak activation", overhead.activation_peak, measurement.peak_activation_bytes, "bytes"))
    if overhead and measurement.cuda_graph_bytes is not None:
        rows.append(_row("CUDA graphs", overhead.cuda_graph, measurement.cuda_graph_bytes, "bytes"))
    names = {row.name for row in rows}
    return [*rows, *(row for row in _printed(estimate, measurement.printed) if row.name not in names)]


def predicted_speeds(inputs: Inputs, estimate: Estimate, loads: tuple[Mapping[str, int], ...]) -> list[dict[str, Any]]:
    """The speed predicted for each load; empty where none can be. Called before an engine keeps the CPU busy."""
    from planner.planning.throughput import sent_together

    speeds = []
    for load in loads:
        workload = Workload(**{name: load[name] for name in ("concurrency", "input_len", "output_len")})
        try:
            found = replace(inputs, workload=workload).throughput(estimate)
        except InputError:  # a card whose bandwidth is not known
            return []
        if found is None:
            return []
        speeds.append(sent_together(found, load["requests"]).to_dict())
    return speeds


def compare_speed(predicted: Mapping[str, Any], measured: LoadResult) -> list[Comparison]:
    """Throughput and mean latencies of one load."""
    at = f"at {measured.load.concurrency}"
    rows = [
        _row(f"output tokens/s {at}", predicted["output_tokens_per_s"], measured.output_tokens_per_s, "tokens/s"),
        _row(f"TTFT {at}", predicted["ttft_ms"], measured.ttft_ms.mean, "ms"),
    ]
    if measured.tpot_ms is not None:
        rows.append(_row(f"TPOT {at}", predicted["tpot_ms"], measured.tpot_ms.mean, "ms"))
    return rows


def _weights(estimate: Estimate, measurement: Measurement) -> Iterator[Comparison]:
    tp = estimate.engine.tensor_parallel_size if estimate.engine else 1
    for rank, measured in zip(measurement.weights, measurement.weights_bytes, strict=True):
        stage = estimate.stages[rank.rank // tp % len(estimate.stages)]  # data-parallel replicas count from 0 each
        told = rank.loaded is not None
        yield _row(f"weights, rank {rank.rank}", stage.parameter_bytes, measured, "bytes", exact=told)


def _cache(estimate: Estimate, measurement: Measurement) -> Iterator[Comparison]:
    kv, cache = estimate.kv_cache, measurement.kv_cache
    if kv is None:
        return
    told_exactly = estimate.basis.get("kv_cache") == "exact"
    for name, predicted, found, unit, exact in (
        ("block size", kv.block_size, cache.block_size, "tokens", True),
        ("KV cache blocks", kv.num_blocks, cache.num_blocks, "blocks", told_exactly),
        ("KV cache size", kv.tokens, cache.tokens, "tokens", told_exactly),
        ("maximum concurrency", round(kv.max_concurrency, 2), cache.max_concurrency, "x", told_exactly),
    ):
        if found is not None:
            yield _row(name, predicted, round(found, 2), unit, exact=exact)
    if not told_exactly and cache.available_kv_bytes is not None:
        room = min(rank.available_kv_bytes for rank in estimate.ranks)
        yield _row("available KV cache memory", room, cache.available_kv_bytes, "bytes")


def _printed(estimate: Estimate, printed: Mapping[str, float]) -> Iterator[Comparison]:
    """The log's figures, as explain-log compares them: rounded to what is printed, so none is exact."""
    from planner.logs.prediction import compare as compare_log
    from planner.logs.reader import Facts, Figure

    figures = {name: Figure(name=name, value=value, line=0) for name, value in printed.items()}
    for row in compare_log(Facts(figures=figures), estimate):
        if isinstance(row.printed, int | float) and isinstance(row.predicted, int | float):
            yield _row(row.name, round(row.predicted, 2), row.printed, row.unit)


def _row(name: str, predicted: float, measured: float, unit: str, *, exact: bool = False) -> Comparison:
    return Comparison(name=name, predicted=predicted, measured=measured, unit=unit, exact=exact)
