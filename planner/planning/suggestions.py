"""When it fits: flags that raise concurrency or speed at no cost in quality, with their numbers. RULES: one entry each.

Each is estimated and predicted before it is named. It is left out where it would not meet the goal any more, changes
next to nothing, or could bring down a launch that starts without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from planner.errors import InputError
from planner.memory.budget import Estimate
from planner.memory.verdict import taken_by_others
from planner.planning.goal import Goal
from planner.planning.speed_goal import met, speed_of
from planner.request import Inputs
from planner.units import ceil_div, gib

WORTH_NAMING = 0.02
"""The least gain, as a share, for which a flag is suggested."""
_DISPLAYS = ("geforce", "rtx", "titan", "quadro", "radeon")
"""Cards that people also look at: what the desktop takes of them is not known here."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a launch is judged by here."""

    concurrency: float
    """Requests of the goal's length that run at once in one engine."""
    output_tokens_per_s: float | None = None
    ttft_ms: float | None = None

    @classmethod
    def of(cls, inputs: Inputs, goal: Goal, estimate: Estimate) -> Figures:
        """Predicted for the goal; speed is None where it cannot be predicted."""
        engine, held = estimate.engine, goal.held(estimate)
        runs = held if engine is None else min(held, float(engine.max_num_seqs * engine.data_parallel_size))
        try:
            speed = speed_of(inputs, goal, estimate)
        except InputError:  # its speed cannot be predicted
            speed = None
        if speed is None:
            return cls(concurrency=runs)
        return cls(concurrency=runs, output_tokens_per_s=speed.point.output_tokens_per_s, ttft_ms=speed.point.ttft_ms)

    def gain(self, before: Figures) -> float:
        """The largest improvement over another launch, as a share."""
        gains = [self.concurrency / before.concurrency - 1]
        if self.output_tokens_per_s and before.output_tokens_per_s:
            gains.append(self.output_tokens_per_s / before.output_tokens_per_s - 1)
        if self.ttft_ms and before.ttft_ms:
            gains.append(before.ttft_ms / self.ttft_ms - 1)
        return max(gains)

    def to_dict(self) -> dict[str, float | None]:
        """As `before` and `after` of a suggestion."""
        return {name: None if value is None else round(value, 2) for name, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """One flag to consider."""

    flag: str
    why: str
    before: Figures
    after: Figures

    def to_dict(self) -> dict[str, Any]:
        """As an entry of the JSON answer's `suggestions`."""
        return {"flag": self.flag, "why": self.why, "before": self.before.to_dict(), "after": self.after.to_dict()}


@dataclass(frozen=True, kw_only=True)
class _Idea:
    flag: str
    """As typed."""
    why: str
    args: Mapping[str, Any] = field(default_factory=dict)
    measurable: bool = True
    """False where what it gains depends on the requests' contents, which no estimate knows."""


def suggestions(inputs: Inputs, goal: Goal, estimate: Estimate) -> tuple[Suggestion, ...]:
    """Those that still meet the goal; none where it does not fit or nothing is cached."""
    if not estimate.fits or estimate.kv_cache is None or not math.isfinite(goal.held(estimate)):
        return ()
    before = Figures.of(inputs, goal, estimate)
    found = []
    for rule in RULES:
        for idea in rule(inputs, goal, estimate):
            changed = replace(inputs, args=inputs.args.with_(**idea.args))
            after = changed.estimate()
            if not met(changed, goal, after) or len(after.warnings) > len(estimate.warnings):
                continue
            figures = Figures.of(changed, goal, after)
            if not idea.measurable or figures.gain(before) >= WORTH_NAMING:
                found.append(Suggestion(flag=idea.flag, why=idea.why, before=before, after=figures))
    return tuple(found)


def _utilization(inputs: Inputs, goal: Goal, estimate: Estimate) -> Iterator[_Idea]:
    """As far as the rest of the card holds what is outside the budget, with the error of the estimate to spare."""
    engine, gpu = estimate.engine, inputs.gpu
    if engine is None or engine.kv_cache_memory_bytes is not None or "gpu_memory_utilization" in inputs.args:
        return
    if inputs.memory_used or gpu.unified or any(word in gpu.name.lower() for word in _DISPLAYS):
        return
    low, high = estimate.available_range or (0, 0)
    outside = estimate.outside_budget_bytes + taken_by_others(0) + (high - low) // 2
    share = min(95, math.floor(100 - 100 * outside / gpu.known_memory()))
    if share > round(100 * engine.gpu_memory_utilization):
        yield _Idea(
            flag=f"--gpu-memory-utilization 0.{share}",
            args={"gpu_memory_utilization": share / 100},
            why="more KV cache, where nothing else uses the card",
        )


def _fewer_sequences(inputs: Inputs, goal: Goal, estimate: Estimate) -> Iterator[_Idea]:
    """Only where the length of the requests is known: shorter ones than full-length run in larger numbers."""
    engine = estimate.engine
    if engine is None or "max_num_seqs" in inputs.args or goal.request_len is None:
        return
    each = max(goal.per_engine, 1.25 * goal.held(estimate)) / engine.data_parallel_size
    wanted = max(16, ceil_div(math.ceil(each), 16) * 16)
    if wanted * 2 <= engine.max_num_seqs:
        yield _Idea(
            flag=f"--max-num-seqs {wanted}",
            args={"max_num_seqs": wanted},
            why=f"no more requests of this length fit at once, and buffers are made for {engine.max_num_seqs}",
        )


def _more_sequences(inputs: Inputs, goal: Goal, estimate: Estimate) -> Iterator[_Idea]:
    engine = estimate.engine
    if engine is None or "max_num_seqs" in inputs.args:
        return
    held = goal.held(estimate) / engine.data_parallel_size
    if held < 1.25 * engine.max_num_seqs:
        return
    wanted = min(int(held) // 64 * 64, 4096)
    if engine.max_num_seqs < wanted <= engine.max_num_batched_tokens:
        yield _Idea(
            flag=f"--max-num-seqs {wanted}",
            args={"max_num_seqs": wanted},
            why=f"the KV cache holds more requests than the {engine.max_num_seqs} that run at once",
        )


def _batched_tokens(inputs: Inputs, goal: Goal, estimate: Estimate) -> Iterator[_Idea]:
    engine = estimate.engine
    if engine is not None and "max_num_batched_tokens" not in inputs.args and engine.max_num_batched_tokens < 8192:
        yield _Idea(
            flag="--max-num-batched-tokens 8192",
            args={"max_num_batched_tokens": 8192},
            why="prompts are computed in fewer steps",
        )


def _eager(inputs: Inputs, goal: Goal, estimate: Estimate) -> Iterator[_Idea]:
    if inputs.args.get("enforce_eager"):
        yield _Idea(
            flag="without --enforce-eager", args={"enforce_eager": None}, why="CUDA graphs make decoding faster"
        )


def _prefix_caching(inputs: Inputs, goal: Goal, estimate: Estimate) -> Iterator[_Idea]:
    if inputs.args.get("enable_prefix_caching") is False:
        yield _Idea(
            flag="--enable-prefix-caching",
            args={"enable_prefix_caching": True},
            why="prompts that begin alike are computed once",
            measurable=False,
        )


def _host_cache(inputs: Inputs, goal: Goal, estimate: Estimate) -> Iterator[_Idea]:
    """Running requests need their blocks on the GPU, so this never makes a launch fit."""
    engine = estimate.engine
    if engine is None or engine.on_cpu or engine.kv_offloading_size or not engine.enable_prefix_caching:
        return
    size = max(1, round(float(gib(min(rank.available_kv_bytes for rank in estimate.ranks) * engine.gpus_per_replica))))
    if engine.vllm_version >= (0, 12):
        yield _Idea(
            flag=f"--kv-offloading-size {size}",
            args={"kv_offloading_size": size},
            why=f"prefixes that are evicted wait in {size} GiB of host memory, as many again as on the GPUs",
            measurable=False,
        )


RULES: tuple[Callable[[Inputs, Goal, Estimate], Iterator[_Idea]], ...] = (
    _utilization,
    _fewer_sequences,
    _more_sequences,
    _batched_tokens,
    _eager,
    _prefix_caching,
    _host_cache,
)
