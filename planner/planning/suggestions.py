"""When it fits: flags that raise concurrency or speed at no cost in quality, with their numbers. One entry each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from planner.memory.budget import Estimate
from planner.planning.goal import Goal
from planner.request import Inputs
from planner.units import ceil_div, gib


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """One flag to consider."""

    flag: str
    why: str
    concurrency_before: float
    concurrency_after: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "flag": self.flag,
            "why": self.why,
            "concurrency_before": round(self.concurrency_before, 2),
            "concurrency_after": round(self.concurrency_after, 2),
        }


_Idea = tuple[str, dict[str, Any], str]
"""(flag as typed, arguments, why)"""


def suggestions(inputs: Inputs, goal: Goal, estimate: Estimate) -> tuple[Suggestion, ...]:
    """Those that still meet the goal; none where it does not fit or nothing is cached."""
    if not estimate.fits or estimate.kv_cache is None or not math.isfinite(goal.held(estimate)):
        return ()
    before = goal.held(estimate)
    made = []
    for rule in RULES:
        for flag, args, why in rule(inputs, goal, estimate):
            after = replace(inputs, args=inputs.args.with_(**args)).estimate() if args else estimate
            if goal.met(after):
                held = goal.held(after)
                made.append(Suggestion(flag=flag, why=why, concurrency_before=before, concurrency_after=held))
    return tuple(made)


def _utilization(inputs: Inputs, goal: Goal, estimate: Estimate) -> Iterator[_Idea]:
    engine = estimate.engine
    if engine is None or "gpu_memory_utilization" in inputs.args or inputs.memory_used or inputs.gpu.unified:
        return
    if engine.kv_cache_memory_bytes is None and engine.gpu_memory_utilization < 0.95:
        yield (
            "--gpu-memory-utilization 0.95",
            {"gpu_memory_utilization": 0.95},
            "more KV cache, where nothing else uses the card",
        )


def _fewer_sequences(inputs: Inputs, goal: Goal, estimate: Estimate) -> Iterator[_Idea]:
    engine = estimate.engine
    if engine is None or "max_num_seqs" in inputs.args:
        return
    wanted = max(16, ceil_div(math.ceil(max(goal.per_engine, goal.held(estimate))), 16) * 16)
    if wanted * 2 <= engine.max_num_seqs:
        yield (
            f"--max-num-seqs {wanted}",
            {"max_num_seqs": wanted},
            f"no more than {wanted} requests fit at once, and buffers are made for {engine.max_num_seqs}",
        )


def _more_sequences(inputs: Inputs, goal: Goal, estimate: Estimate) -> Iterator[_Idea]:
    engine = estimate.engine
    if engine is None or "max_num_seqs" in inputs.args or goal.held(estimate) < 1.25 * engine.max_num_seqs:
        return
    wanted = min(int(goal.held(estimate)) // 64 * 64, 4096)
    if wanted > engine.max_num_seqs and wanted <= engine.max_num_batched_tokens:
        yield (
            f"--max-num-seqs {wanted}",
            {"max_num_seqs": wanted},
            f"the KV cache holds more requests than the {engine.max_num_seqs} that run at once",
        )


def _batched_tokens(inputs: Inputs, goal: Goal, estimate: Estimate) -> Iterator[_Idea]:
    engine = estimate.engine
    if engine is None or "max_num_batched_tokens" in inputs.args:
        return
    if engine.max_num_batched_tokens < 8192:
        yield "--max-num-batched-tokens 8192", {"max_num_batched_tokens": 8192}, "prompts are computed in fewer steps"


def _eager(inputs: Inputs, goal: Goal, estimate: Estimate) -> Iterator[_Idea]:
    if inputs.args.get("enforce_eager"):
        yield "without --enforce-eager", {"enforce_eager": None}, "CUDA graphs make decoding faster"


def _prefix_caching(inputs: Inputs, goal: Goal, estimate: Estimate) -> Iterator[_Idea]:
    engine = estimate.engine
    if engine is not None and inputs.args.get("enable_prefix_caching") is False:
        yield (
            "--enable-prefix-caching",
            {"enable_prefix_caching": True},
            "prompts that begin alike are computed once",
        )


def _host_cache(inputs: Inputs, goal: Goal, estimate: Estimate) -> Iterator[_Idea]:
    """Running requests need their blocks on the GPU, so this never makes a launch fit."""
    engine = estimate.engine
    if engine is None or engine.kv_offloading_size or not engine.enable_prefix_caching:
        return
    room = min(rank.available_kv_bytes for rank in estimate.ranks) * engine.tensor_parallel_size
    why = "prefixes that are evicted wait in host memory; concurrency stays the same"
    if engine.vllm_version >= (0, 12):
        size = max(1, round(float(gib(room))))
        yield f"--kv-offloading-size {size}", {"kv_offloading_size": size}, why
    elif engine.vllm_version < (0, 8):
        yield "--swap-space 16", {"swap_space": 16}, "preempted requests wait in host memory"


RULES: tuple[Callable[[Inputs, Goal, Estimate], Iterator[_Idea]], ...] = (
    _utilization,
    _fewer_sequences,
    _more_sequences,
    _batched_tokens,
    _eager,
    _prefix_caching,
    _host_cache,
)
