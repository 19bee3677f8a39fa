"""What the numbers mean: graphs that do not fit beside the budget, trouble under load, and whether it is close."""

from __future__ import annotations

from collections.abc import Sequence

from planner.engine.defaults import Engine
from planner.errors import Reason
from planner.hardware.catalogue import Gpu
from planner.memory.constants import constants
from planner.memory.kv_cache import KVCachePlan
from planner.memory.overhead import Overhead
from planner.memory.weights import StageWeights
from planner.units import gib

_DECIDED = frozenset(("free_memory_below_requested",))
"""Failures that no uncertainty of the estimate changes."""


def taken_by_others(memory_used: int) -> int:
    """What is on the card beside the budget: what was there before, at least vLLM's own CUDA context."""
    return max(memory_used, int(constants()["context_bytes"]))


def after_start(
    gpu: Gpu, engine: Engine, beside: Overhead, held: int, memory_used: int
) -> tuple[list[Reason], list[str]]:
    """(failures while CUDA graphs are captured, warnings of what may happen under load).

    held: weights, KV cache and what else is there by then, as `held_at_capture` has it. Peak activation is free memory
    while graphs are captured, and needed again as soon as a full batch comes.
    """
    if gpu.memory_bytes is None or engine.on_cpu or gpu.unified:
        return [], []
    room = gpu.memory_bytes - taken_by_others(memory_used) - held
    if room < 0:
        return [_capture_failure(gpu, -room)], []
    under_load = beside.activation_peak + beside.warm_up
    if room < under_load:
        return [], [
            f"starts, but {gib(under_load - room)} GiB are missing once a full batch comes: vLLM {engine.vllm_version} "
            f"leaves {gib(beside.outside_budget)} GiB of CUDA graphs and buffers out of its budget; lower "
            "--gpu-memory-utilization"
        ]
    return [], []


def held_at_capture(offloaded: int, stage: StageWeights, available: int, beside: Overhead) -> int:
    """Weights, the whole KV cache, graphs and buffers."""
    return stage.block_bytes - offloaded + max(0, available) + beside.beside_kv


def _capture_failure(gpu: Gpu, missing: int) -> Reason:
    total = gib(gpu.memory_bytes or 0)
    return Reason(
        code="oom_graph_capture",
        message=f"CUDA out of memory while capturing CUDA graphs: of {total} GiB in all, {gib(missing)} GiB are "
        "missing beside the KV cache. Decrease `gpu_memory_utilization`, or capture fewer sizes "
        "(`max_cudagraph_capture_size`).",
        flag="--gpu-memory-utilization",
    )


def verdict(
    status: str,
    reasons: Sequence[Reason],
    plan: KVCachePlan | None,
    engine: Engine | None,
    expected: tuple[int, int] | None,
) -> str:
    """ "fits", "does not fit", or "too close to call, because …" where the answer flips within the stated range."""
    decided = "fits" if status == "fits" else "does not fit"
    if plan is None or engine is None or expected is None or any(reason.code in _DECIDED for reason in reasons):
        return decided
    low, high = expected
    held_back = plan.bytes_per_block if engine.vllm_version >= (0, 29) else 0
    request = plan.bytes_per_block if engine.auto_max_model_len else plan.bytes_for_one_request
    needed = request + held_back
    if low < needed <= high:
        return (
            f"too close to call, because {gib(low)} to {gib(high)} GiB are expected for KV cache, and one request "
            f"of {plan.max_model_len:,} tokens needs {gib(needed)} GiB"
        )
    return decided
