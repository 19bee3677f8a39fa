"""The answer to a state: asks planner, and remembers the last answers for models that cannot change."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import hf_configs
from app.state import State
from planner.errors import InputError
from planner.planning.curve import Point, curve
from planner.planning.ladder import Goal, Plan, fit
from planner.request import prepare


@dataclass(frozen=True, kw_only=True)
class Solved:
    """What the page shows: the launch as entered, the ladder's plan, and the curve."""

    plan: Plan
    now: dict[str, Any]
    """The answer for the inputs as they are."""
    goal_met_now: bool
    points: tuple[Point, ...]

    @property
    def engine(self) -> dict[str, Any]:
        return self.now["engine"] or {}

    @property
    def serve_now(self) -> str:
        """The line of the inputs as they are."""
        base = self.plan.base
        return base.args.serve_command(base.source if isinstance(base.source, str) else base.model.name)


def solve(state: State) -> Solved:
    """InputError where the inputs make no sense."""
    return _remembered(state) if hf_configs.find(state.model) is not None else _solve(state)


def _solve(state: State) -> Solved:
    inputs = prepare(state.to_request())
    goal = Goal(gpus=state.cards, concurrency=float(state.concurrency))
    plan = fit(inputs, goal)
    _enough_cards(plan, state.cards)
    points = curve(plan.base) if plan.start.status != "refused" and plan.start.kv_cache is not None else ()
    return Solved(plan=plan, now=plan.start.to_dict(), goal_met_now=goal.met(plan.start), points=points)


_remembered = lru_cache(maxsize=128)(_solve)


def _enough_cards(plan: Plan, cards: int) -> None:
    engine = plan.start.engine
    if engine is None:
        return
    needed = engine.gpus_per_replica * engine.data_parallel_size
    if needed > cards:
        raise InputError(
            f"these flags need {needed} cards (tensor x pipeline x data parallel size); {cards} given: "
            "raise the number of cards or lower the sizes"
        )
