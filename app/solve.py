"""What the pages show of a state: asks planner, and remembers the last answers for models that cannot change."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, TypeVar

import hf_configs
from app import uploads
from app.state import State
from planner.errors import InputError
from planner.planning import throughput
from planner.planning.alternatives import Option, alternatives
from planner.planning.cards import cards_of
from planner.planning.curve import Point, curve
from planner.planning.goal import Goal
from planner.planning.plan import Plan
from planner.planning.recommend import Recommendation, rank, recommend, worth_trying
from planner.planning.replicas import fit_with_replicas
from planner.planning.speed_goal import load_of, speed_of
from planner.planning.suggestions import suggestions
from planner.request import Inputs, answer_of, prepare

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Solved:
    """The launch as entered, and the ladder's plan."""

    state: State
    inputs: Inputs
    """As entered."""
    goal: Goal
    plan: Plan
    entered: Plan
    """The ladder from the launch as entered; `plan` may split the cards in another way."""
    now: dict[str, Any]
    """The answer for the inputs as they are."""
    speed: dict[str, Any] | None
    """Of one engine, as entered; None where it does not start or its speed is not known."""

    @property
    def base(self) -> Inputs:
        """As entered, on all the cards."""
        return self.entered.base

    @property
    def met(self) -> bool:
        """Whether the launch as entered reaches the goal."""
        return self.entered.met and not self.entered.changes

    @property
    def engine(self) -> dict[str, Any]:
        """The engine as vLLM would resolve it; empty for a launch that is refused."""
        return self.now["engine"] or {}

    @property
    def name(self) -> str:
        """The model's, for people."""
        return str(self.now["model"]["name"])

    @property
    def serve_now(self) -> str:
        """The line of the inputs as they are."""
        return uploads.as_path(self.base.serve_command)


def remembered(size: int) -> Callable[[Callable[..., _Result]], Callable[..., _Result]]:
    """Remembers the answers for a state whose model cannot change: one of the catalogue or one of numbers."""

    def decorate(function: Callable[..., _Result]) -> Callable[..., _Result]:
        known = lru_cache(maxsize=size)(function)

        @wraps(function)
        def call(state: State, *more: Any) -> _Result:
            fixed = state.by == "numbers" or hf_configs.find(state.model) is not None
            return known(state, *more) if fixed else function(state, *more)

        return call

    return decorate


@remembered(128)
def solve(state: State) -> Solved:
    """InputError where the inputs make no sense."""
    inputs = prepare(state.to_request())
    goal = state.goal().checked(inputs)
    _enough_cards(inputs, goal)
    # The other ways to use the cards are asked for only where the one entered is not enough: each is a climb.
    plan = entered = fit_with_replicas(inputs, goal, one_way=True)
    if goal.gpus > 1 and not state.engines and (entered.changes or not entered.met):
        plan = fit_with_replicas(inputs, goal)
    speed = speed_of(entered.base, entered.goal, entered.start) if entered.start.fits else None
    return Solved(
        state=state,
        inputs=inputs,
        goal=goal,
        plan=plan,
        entered=entered,
        now=_named(answer_of(entered.base, entered.start)),
        speed=speed.to_dict() if speed is not None else None,
    )


@remembered(32)
def ways(state: State) -> tuple[Plan, ...]:
    """The ways to use the same cards, the best first; one where the flags leave no choice."""
    found = solve(state)
    best = fit_with_replicas(found.inputs, found.goal, one_way=bool(state.engines))
    return best.splits or (best,)


@remembered(32)
def context_curve(state: State) -> tuple[Point, ...]:
    """Concurrency at each context length; empty where there is no KV cache."""
    found = solve(state)
    if found.entered.start.status == "refused" or found.now["kv_cache"] is None:
        return ()
    return curve(found.base)


@remembered(32)
def speed_curve(state: State) -> tuple[throughput.Point, ...]:
    """Speed of one engine at each number of requests at once. InputError where the card's bandwidth is not known."""
    found = solve(state)
    load = load_of(found.entered.goal, found.entered.start)
    if load is None or not found.entered.start.fits:
        return ()
    return throughput.curve(throughput.speed_of(found.base, found.entered.start, load), load)


@remembered(32)
def frontier(state: State) -> tuple[Option, ...]:
    """The alternatives that no other beats in cards, quality, concurrency and predicted speed."""
    found = solve(state)
    return alternatives(found.inputs, found.goal)


@remembered(16)
def plan_file(state: State) -> dict[str, Any]:
    """The plan as `vllm-fit fit --alternatives -o` writes it."""
    plan = solve(state).plan
    ideas = suggestions(plan.inputs, plan.goal, plan.estimate) if plan.met else ()
    made = {
        **plan.to_dict(),
        "suggestions": [idea.to_dict() for idea in ideas],
        "alternatives": [option.to_dict() for option in frontier(state)],
    }
    answer: dict[str, Any] = json.loads(uploads.as_path(json.dumps(made)))
    return answer


@remembered(8)
def cards_for(state: State, show: Callable[[float, str], object]) -> tuple[Recommendation, ...]:
    """Cards that would do, least memory first; show is told the share done and the card. The state's own is ignored."""
    found = solve(state)
    cards = worth_trying()
    some: list[Recommendation] = []
    for number, gpu in enumerate(cards):
        show(number / len(cards), gpu.name)
        some += recommend(found.inputs, found.goal, (gpu,))
    return tuple(sorted(some, key=rank))


def _named(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "model": {**answer["model"], "name": uploads.named(answer["model"]["name"])}}


def _enough_cards(inputs: Inputs, goal: Goal) -> None:
    needed = cards_of(inputs) * goal.engines
    if needed > goal.gpus:
        raise InputError(
            f"these flags need {needed} cards (tensor x pipeline x data parallel size x engines); {goal.gpus} given: "
            "raise the number of cards or lower the sizes"
        )
