"""The same cards used in several ways: one engine with larger TP, data parallel, or several independent engines.

Of the ways that reach the goal at the least cost in quality, the one with the most predicted output tokens/s is best:
engines that share nothing need no all-reduce in every layer, but each holds and reads the weights again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner.errors import InputError, Reason
from planner.memory.budget import Estimate
from planner.planning.goal import Goal
from planner.planning.ladder import Plan, fit
from planner.planning.throughput import Throughput, predict
from planner.request import Inputs, Workload

BUSY = 8
"""Requests at once below which an engine of its own would idle: a single request is faster on more cards."""
_PARALLEL = frozenset({"tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"})


def fit_with_replicas(
    inputs: Inputs,
    goal: Goal,
    keep: frozenset[str] = frozenset(),
    *,
    order: tuple[str, ...] = (),
    forbid: tuple[str, ...] = (),
    one_way: bool = False,
) -> Plan:
    """The best of the ways to use the cards, the others in its `splits`; only the one asked for where one is pinned.

    one_way: goal.engines is what is wanted, even where it is 1. A plan that misses a limit of TTFT or TPOT is none.
    """

    def climb(inputs: Inputs, goal: Goal) -> Plan:
        return _with_speed(fit(inputs, goal, keep, order=order, forbid=forbid))

    whole = climb(inputs, goal)
    if one_way or goal.engines > 1 or (_PARALLEL & (keep | set(inputs.args))):
        return whole
    plans = [whole]
    for engines in _counts(goal):
        plans.append(climb(inputs, replace(goal, engines=engines)))
        plans.append(climb(_data_parallel(inputs, engines), goal))
    best = min(plans, key=_rank)
    return replace(best, splits=tuple(plans)) if len(plans) > 1 else best


def _with_speed(plan: Plan) -> Plan:
    if not plan.met:
        return plan
    speed = speed_of(plan.inputs, plan.goal, plan.estimate)
    missed = _missed(plan.goal, speed)
    return replace(plan, speed=speed, met=missed is None, binding=missed)


def speed_of(inputs: Inputs, goal: Goal, estimate: Estimate) -> Throughput | None:
    """Of one engine with its part of the requests; None where it cannot be said."""
    load = load_of(goal, estimate)
    if load is None:
        return None
    try:
        return predict(inputs, estimate, load)
    except InputError:  # a card whose bandwidth is not known
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


def _missed(goal: Goal, speed: Throughput | None) -> Reason | None:
    if speed is None:
        return None
    limits = (
        ("ttft", "time to the first token", speed.point.ttft_ms, goal.ttft_ms),
        ("tpot", "time per output token", speed.point.tpot_ms, goal.tpot_ms),
    )
    for code, words, predicted, limit in limits:
        if limit is not None and predicted > limit:
            message = f"the predicted mean {words} is {predicted:,.1f} ms, at most {limit:g} ms are wanted"
            return Reason(code=code, message=message, flag="--tensor-parallel-size")
    return None


def _counts(goal: Goal) -> Iterator[int]:
    for engines in range(2, goal.gpus + 1):
        if goal.gpus % engines == 0 and goal.concurrency >= BUSY * engines:
            yield engines


def _data_parallel(inputs: Inputs, ranks: int) -> Inputs:
    """Experts are then spread over all cards; a dense model is simply there several times."""
    experts = {"enable_expert_parallel": True} if inputs.model.is_moe else {}
    return replace(inputs, args=inputs.args.with_(data_parallel_size=ranks, **experts))


def _rank(plan: Plan) -> tuple[bool, int, int, float, int, bool]:
    """The smallest is the best: reaches the goal, costs least quality, is fastest, has most engines of their own."""
    costly = sum(change.cost > 0 for change in plan.changes)
    parallel = plan.inputs.args.get("data_parallel_size", 1)
    fast = -round(plan.output_tokens_per_s, 1)
    return not plan.met, plan.cost, costly, fast, -plan.engines * parallel, parallel > 1


def split_words(plan: Plan) -> str:
    """How a plan uses its cards."""
    engine = plan.estimate.engine
    if engine is None:
        return "as given"
    parts = [f"TP {engine.tensor_parallel_size}"]
    if engine.pipeline_parallel_size > 1:
        parts.append(f"PP {engine.pipeline_parallel_size}")
    if engine.data_parallel_size > 1:
        parts.append(f"DP {engine.data_parallel_size}")
    if engine.enable_expert_parallel:
        parts.append("EP")
    count = f"{plan.engines} engines" if plan.engines > 1 else "one engine"
    return f"{count}, {', '.join(parts)}"
