"""The same cards used in several ways: one engine with larger TP, data parallel, or several independent engines.

Of the ways that reach the goal at the least cost in quality, the one with the most predicted output tokens/s is best:
engines that share nothing need no all-reduce in every layer, but each holds and reads the weights again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from planner.planning.cards import PARALLEL_SIZES
from planner.planning.goal import Goal
from planner.planning.ladder import fit
from planner.planning.plan import Plan
from planner.planning.speed_goal import excess
from planner.request import Inputs

BUSY = 8
"""Requests at once below which an engine of its own would idle: a single request is faster on more cards."""


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

    one_way: goal.engines is what is wanted, even where it is 1.
    """

    def climb(inputs: Inputs, goal: Goal) -> Plan:
        return fit(inputs, goal, keep, order=order, forbid=forbid)

    whole = climb(inputs, goal)
    if one_way or goal.engines > 1 or not (keep | set(inputs.args)).isdisjoint(PARALLEL_SIZES):
        return whole
    if not whole.estimate.fits and not inputs.model.is_moe:  # experts may be spread in another way
        return whole
    plans = [whole]
    for engines in _counts(goal):
        plans.append(climb(inputs, replace(goal, engines=engines)))
        plans.append(climb(_data_parallel(inputs, engines), goal))
    best = min(plans, key=_rank)
    return replace(best, splits=tuple(plans)) if len(plans) > 1 else best


def _counts(goal: Goal) -> Iterator[int]:
    for engines in range(2, goal.gpus + 1):
        if goal.gpus % engines == 0 and goal.concurrency >= BUSY * engines:
            yield engines


def _data_parallel(inputs: Inputs, ranks: int) -> Inputs:
    """Experts are then spread over all cards; a dense model is simply there several times."""
    experts = {"enable_expert_parallel": True} if inputs.model.is_moe else {}
    return replace(inputs, args=inputs.args.with_(data_parallel_size=ranks, **experts))


def _rank(plan: Plan) -> tuple[float, int, int, float, int, bool]:
    """The smallest is the best: reaches the goal, costs least quality, is fastest, has most engines of their own."""
    short = 0.0 if plan.met else excess(plan.goal, plan.speed) or math.inf
    costly = sum(change.cost > 0 for change in plan.changes)
    parallel = plan.inputs.args.get("data_parallel_size", 1)
    fast = -round(plan.output_tokens_per_s, 1)
    return short, plan.cost, costly, fast, -plan.engines * parallel, parallel > 1


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
