"""Which cards, and how many, would do: the smallest count of every card that reaches a goal, by price or by memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from planner.hardware.catalogue import Gpu, all_gpus
from planner.planning.goal import Goal, finite
from planner.planning.plan import Plan
from planner.planning.replicas import fit_with_replicas, split_words
from planner.request import Inputs

COUNTS = (1, 2, 4, 8, 16)
"""Two nodes are tried only where one does not do."""
NOT_RUNGS = ("context", "cpu-offload")
"""A card for which the goal must be given up, or that reads weights over PCIe, is no recommendation."""
_SMALLEST_WEIGHT = 0.5
"""Bytes per parameter below which no format known here goes: to pass over cards without an estimate."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """One card, in the smallest number that will do."""

    gpu: Gpu
    plan: Plan
    price_per_hour: float | None = None
    """Of all the cards."""

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.plan.goal.gpus

    @property
    def price_per_million(self) -> float | None:
        """Of a million output tokens at the predicted speed; None where the price or the speed is not known."""
        rate = self.plan.output_tokens_per_s
        return None if self.price_per_hour is None or not rate else self.price_per_hour / (rate * 3600) * 1e6

    def at(self, prices: Mapping[str, float]) -> Recommendation:
        """With what these prices of one card make of it; by the card's name."""
        price = prices.get(self.gpu.name)
        return replace(self, price_per_hour=None if price is None else price * self.gpus)

    def to_dict(self) -> dict[str, Any]:
        """As an entry of the JSON answer; the price per hour in the currency of --prices."""
        million = self.price_per_million
        return {
            "gpu": self.gpu.name,
            "gpus": self.gpus,
            "split": split_words(self.plan),
            "changes": [change.summary for change in self.plan.changes],
            "quality_cost": self.plan.cost,
            "concurrency": finite(self.plan.concurrency),
            "output_tokens_per_s": round(self.plan.output_tokens_per_s, 1) if self.plan.speed is not None else None,
            "price_per_hour": self.price_per_hour,
            "price_per_million_output_tokens": None if million is None else round(million, 4),
            "serve": self.plan.serve_command,
            "what_if_quantization": self.plan.inputs.what_if_quantization,
        }


def recommend(
    inputs: Inputs,
    goal: Goal,
    cards: Sequence[Gpu] = (),
    prices: Mapping[str, float] | None = None,
    *,
    forbid: tuple[str, ...] = (),
) -> tuple[Recommendation, ...]:
    """For each card the fewest that reach the goal, and the fewest that do so without a cost in quality.

    Cheapest first where there are prices, else by the memory of all cards. cards: empty for the whole catalogue.
    """
    found = [
        one.at(prices or {}) for gpu in cards or worth_trying() for one in _of_card(_on(gpu, inputs), goal, forbid)
    ]
    return tuple(sorted(found, key=rank))


def worth_trying() -> tuple[Gpu, ...]:
    """Cards whose memory is known and is theirs alone."""
    return tuple(
        gpu for gpu in all_gpus() if gpu.memory_bytes is not None and not gpu.unified and gpu.kind in ("cuda", "rocm")
    )


def _on(gpu: Gpu, inputs: Inputs) -> Inputs:
    """The launch on another card, of which others hold as much."""
    if gpu == inputs.gpu:
        return inputs
    used = {key: value for key, value in inputs.gpu_request.items() if key == "gpu_memory_used_gib"}
    return replace(inputs, gpu=gpu, gpu_request={"gpu": gpu.name, **used})


def _of_card(inputs: Inputs, goal: Goal, forbid: tuple[str, ...]) -> Iterator[Recommendation]:
    cheapest: int | None = None
    for gpus in COUNTS:
        if inputs.model.parameters * _SMALLEST_WEIGHT > gpus * inputs.gpu.known_memory():
            continue
        if gpus > goal.gpus_per_node and cheapest is not None:
            return
        wanted = replace(goal, gpus=gpus)
        plan = fit_with_replicas(inputs, wanted, forbid=tuple({*NOT_RUNGS, *forbid}))
        if plan.met and (cheapest is None or plan.cost < cheapest):
            yield Recommendation(gpu=inputs.gpu, plan=plan)
            cheapest = plan.cost
        if cheapest == 0:
            return


def rank(one: Recommendation) -> tuple[float, int, int, str]:
    """What recommendations are sorted by: price, memory of all cards, cost in quality."""
    memory = one.gpus * (one.gpu.memory_bytes or 0)
    price = math.inf if one.price_per_hour is None else one.price_per_hour
    return price, memory, one.plan.cost, one.gpu.name
