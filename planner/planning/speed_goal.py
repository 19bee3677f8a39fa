"""The part of a goal that is about speed: TTFT, time per output token and tokens/s, against the predicted ones.

A prediction is wrong by the median errors that it states; a limit is held against the prediction itself, and whoever
reads the plan is told when it lies within the error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.errors import InputError, Reason
from planner.memory.budget import Estimate
from planner.planning.goal import Goal
from planner.request import Inputs
from planner.workload import Workload

if TYPE_CHECKING:
    from planner.planning.throughput import Throughput


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One limit of a goal beside what is predicted."""

    code: str
    flag: str
    wanted: str
    predicted: str
    excess: float
    """How many times too slow: above 1 where the limit is missed."""
    error: float | None
    """Median error of such predictions, as a share."""

    @property
    def missed(self) -> bool:
        """Whether the prediction is beyond the limit."""
        return self.excess > 1

    @property
    def close(self) -> bool:
        """Whether the error of the prediction is enough to turn it over."""
        return self.error is not None and abs(self.excess - 1) < self.error

    @property
    def error_words(self) -> str:
        """The error seen on measured servers, in brackets; empty where none is known."""
        return "" if self.error is None else f" (median error {self.error:.0%})"


def missing(inputs: Inputs, goal: Goal, estimate: Estimate) -> Reason | None:
    """What an estimate that starts still lacks, in memory first, then in speed; None when nothing."""
    room = goal.missing(estimate)
    return room if room is not None or not goal.wants_speed else shortfall(goal, speed_of(inputs, goal, estimate))


def met(inputs: Inputs, goal: Goal, estimate: Estimate) -> bool:
    """Whether it fits, holds the concurrency and is as fast as asked for."""
    return estimate.fits and missing(inputs, goal, estimate) is None


def speed_of(inputs: Inputs, goal: Goal, estimate: Estimate) -> Throughput | None:
    """Of one engine with its part of the requests; None where it does not start, generates nothing or cannot be said.

    InputError where the goal has a limit that cannot be held against anything.
    """
    load = None if inputs.ask_vllm else load_of(goal, estimate)
    if load is None:
        if goal.wants_speed and estimate.fits:
            raise InputError(f"{estimate.model.name}: its speed cannot be predicted, so leave the limits on it out")
        return None
    from planner.planning.throughput import predict  # an estimate of memory starts faster without it

    try:
        return predict(inputs, estimate, load)
    except InputError:  # a card whose bandwidth is not known
        if goal.wants_speed:
            raise
        return None


def load_of(goal: Goal, estimate: Estimate) -> Workload | None:
    """One engine's part of the goal's requests, full-length where it gives no length; None: nothing is generated."""
    kv = estimate.kv_cache
    if kv is None or estimate.model.is_pooling:
        return None
    whole = goal.request_len or kv.max_model_len
    output = goal.output_len if goal.output_len is not None else max(1, min(256, whole // 4))
    prompt = goal.input_len if goal.input_len is not None else max(1, whole - output)
    return Workload(concurrency=max(1, round(goal.per_engine)), input_len=max(1, prompt), output_len=max(1, output))


def shortfall(goal: Goal, speed: Throughput | None) -> Reason | None:
    """The first limit that is missed, and what binds; None where none is."""
    missed = None if speed is None else next((limit for limit in limits(goal, speed) if limit.missed), None)
    if speed is None or missed is None:
        return None
    message = f"{missed.predicted}{missed.error_words}, {missed.wanted}; {speed.bound_by}"
    return Reason(code=missed.code, message=message, flag=missed.flag)


def excess(goal: Goal, speed: Throughput | None) -> float:
    """How many times too slow by the worst limit; infinite where it does not start."""
    return math.inf if speed is None else max((limit.excess for limit in limits(goal, speed)), default=0.0)


def limits(goal: Goal, speed: Throughput) -> Iterator[Limit]:
    """Every limit that the goal has. speed: of one of its engines."""
    point, errors = speed.point, speed.errors
    latencies = (
        ("ttft", "time to the first token", point.ttft_ms, goal.ttft_ms),
        ("tpot", "time per output token", point.tpot_ms, goal.tpot_ms),
    )
    for code, words, predicted, wanted in latencies:
        if wanted is not None:
            yield Limit(
                code=code,
                flag="--tensor-parallel-size",
                wanted=f"at most {wanted:g} ms are wanted",
                predicted=f"the predicted mean {words} is {predicted:,.1f} ms",
                excess=predicted / wanted,
                error=errors.get(code),
            )
    if goal.output_tokens_per_s is not None:
        made = point.output_tokens_per_s * goal.engines
        yield Limit(
            code="output_tokens_per_s",
            flag="--concurrency",
            wanted=f"{goal.output_tokens_per_s:,g} are wanted",
            predicted=f"the predicted output at {goal.concurrency:g} at once is {made:,.0f} tokens/s",
            excess=goal.output_tokens_per_s / made,
            error=errors.get("output"),
        )
