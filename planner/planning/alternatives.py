"""Alternatives side by side: the launches none of which is beaten in cards, quality cost, concurrency and predicted
speed at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from planner.memory.budget import Estimate
from planner.planning.cards import cards_of, tensor_parallel_sizes, with_tensor_parallel
from planner.planning.change import Change
from planner.planning.goal import Goal, finite
from planner.planning.rungs import KV_FP8
from planner.planning.speed_goal import missing, speed_of
from planner.planning.variants import quantized_variants
from planner.request import Inputs

if TYPE_CHECKING:
    from planner.planning.throughput import Throughput


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to launch the model."""

    goal: Goal
    """With the cards and engines of this way."""
    inputs: Inputs
    estimate: Estimate
    changes: tuple[Change, ...]

    @property
    def gpus(self) -> int:
        """Cards that it uses, over all engines."""
        return self.goal.gpus

    @property
    def engines(self) -> int:
        """Equal engines behind a balancer."""
        return self.goal.engines

    @cached_property
    def concurrency(self) -> float:
        """Requests of the goal's length at once, over all engines."""
        return self.goal.held(self.estimate) * self.engines if self.estimate.fits else 0.0

    @cached_property
    def speed(self) -> Throughput | None:
        """Predicted, of one engine with its part of the goal's requests; None where that cannot be."""
        return speed_of(self.inputs, replace(self.goal, **_NO_LIMITS), self.estimate)

    @property
    def output_tokens_per_s(self) -> float:
        """Predicted, of all engines; 0 where that cannot be."""
        return self.speed.point.output_tokens_per_s * self.engines if self.speed is not None else 0.0

    @cached_property
    def meets_goal(self) -> bool:
        """Whether it runs the goal's requests at once and is as fast as asked for."""
        return missing(self.inputs, self.goal, self.estimate) is None

    @property
    def cost(self) -> int:
        """What the dearest of its changes costs (Change.cost)."""
        return max((change.cost for change in self.changes), default=0)

    @property
    def quality_cost(self) -> str:
        """What its changes cost in quality, in words."""
        return "; ".join(change.quality_cost for change in self.changes if change.cost) or "none"

    @property
    def summary(self) -> str:
        """Its changes, in words."""
        return "; ".join(change.summary for change in self.changes) or "as it is"

    def to_dict(self) -> dict[str, Any]:
        """As an entry of the JSON answer's `alternatives`."""
        return {
            "gpus": self.gpus,
            "engines": self.engines,
            "tensor_parallel_size": self.inputs.args.get("tensor_parallel_size", 1),
            "summary": self.summary,
            "quality_cost": self.quality_cost,
            "concurrency": finite(self.concurrency),
            "serve": self.inputs.serve_command,
            "what_if_quantization": self.inputs.what_if_quantization,
            "speed": self.speed.to_dict() if self.speed is not None else None,
            "meets_goal": self.meets_goal,
        }


_NO_LIMITS: Mapping[str, Any] = {"ttft_ms": None, "tpot_ms": None, "output_tokens_per_s": None}
_AS_FAST = 0.98
"""Of another's tokens/s: less of a difference than any prediction can tell."""


def alternatives(inputs: Inputs, goal: Goal) -> tuple[Option, ...]:
    """The frontier over cards used, quality cost, concurrency and predicted speed; the most cards last."""
    options = [option for option in _all(inputs, goal) if option.estimate.fits and option.concurrency >= 1]
    return tuple(sorted(frontier(options), key=lambda o: (o.gpus, o.cost, o.concurrency)))


def frontier(options: Iterable[Option]) -> list[Option]:
    """Those that no other beats or equals in everything; of equals the first."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.gpus, o.cost, -o.concurrency, -o.output_tokens_per_s)):
        if not any(_beats(other, option) for other in kept):
            kept.append(option)
    return kept


def _beats(other: Option, option: Option) -> bool:
    return (
        other.gpus <= option.gpus
        and other.cost <= option.cost
        and other.concurrency >= option.concurrency
        and other.output_tokens_per_s >= _AS_FAST * option.output_tokens_per_s
        and other.meets_goal >= option.meets_goal
    )


def _all(inputs: Inputs, goal: Goal) -> Iterator[Option]:
    for quantized in (None, *quantized_variants(inputs)):
        start = inputs if quantized is None else quantized.apply(inputs)
        for kv in (None,) if "kv_cache_dtype" in inputs.args else (None, KV_FP8):
            made = start if kv is None else kv.apply(start)
            for gpus, sized in _splits(made, goal):
                yield Option(
                    goal=replace(goal, gpus=gpus, engines=gpus // cards_of(sized)),
                    inputs=sized,
                    estimate=sized.estimate(),
                    changes=tuple(change for change in (quantized, kv) if change is not None),
                )


def _splits(inputs: Inputs, goal: Goal) -> Iterator[tuple[int, Inputs]]:
    """(cards, the launch of one of equal engines on them): other parallel sizes than the tensor's stay as given."""
    pinned = inputs.args.get("tensor_parallel_size")
    for gpus in sorted({1, 2, 4, 8, goal.gpus}):
        if gpus <= goal.gpus:
            for size in [pinned] if pinned else tensor_parallel_sizes(gpus, goal.gpus_per_node):
                sized = with_tensor_parallel(inputs, size, goal.gpus_per_node)
                if gpus % cards_of(sized) == 0:
                    yield gpus, sized
