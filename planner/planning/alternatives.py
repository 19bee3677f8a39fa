"""Alternatives side by side: the launches none of which is beaten in cards, quality cost, concurrency and predicted
speed at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from planner.memory.budget import Estimate
from planner.planning.change import Change
from planner.planning.goal import Goal
from planner.planning.rungs import tensor_parallel_sizes
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
    concurrency: float
    """Requests of the goal's length at once, over all engines."""

    @property
    def gpus(self) -> int:
        """Cards that it uses, over all engines."""
        return self.goal.gpus

    @property
    def engines(self) -> int:
        """Equal engines behind a balancer."""
        return self.goal.engines

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
        """The largest cost in quality of its changes: 0 none, 3 noticeable."""
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
        args, source = self.inputs.args, self.inputs.source
        name = source if isinstance(source, str) else self.inputs.model.name
        return {
            "gpus": self.gpus,
            "engines": self.engines,
            "tensor_parallel_size": args.get("tensor_parallel_size", 1),
            "summary": self.summary,
            "quality_cost": self.quality_cost,
            "concurrency": round(self.concurrency, 2) if math.isfinite(self.concurrency) else None,
            "serve": args.serve_command(name),
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
    for variant in _variants(inputs):
        start = _applied(inputs, variant)
        for kv in _kv(inputs):
            made = _applied(start, kv)
            changes = (*variant, *kv)
            for gpus, tensor in _splits(inputs, goal):
                sized = replace(made, args=made.args.with_(tensor_parallel_size=tensor)) if tensor > 1 else made
                estimate = sized.estimate()
                engines = gpus // tensor
                held = goal.held(estimate) * engines if estimate.fits else 0.0
                yield Option(
                    goal=replace(goal, gpus=gpus, engines=engines),
                    inputs=sized,
                    estimate=estimate,
                    changes=changes,
                    concurrency=held,
                )


def _variants(inputs: Inputs) -> Iterator[tuple[Change, ...]]:
    yield ()
    if "quantization" in inputs.args:
        return
    for variant in quantized_variants(inputs):
        yield (
            Change(
                summary=variant.summary,
                args=variant.args,
                model=variant.model,
                what_if_quantization=variant.what_if_quantization,
                quality_cost=variant.quality_cost,
                cost=variant.cost,
            ),
        )


def _kv(inputs: Inputs) -> Iterator[tuple[Change, ...]]:
    yield ()
    if "kv_cache_dtype" not in inputs.args:
        fp8 = {"kv_cache_dtype": "fp8"}
        yield (Change(summary="KV cache in fp8", args=fp8, quality_cost="very small: KV cache in fp8", cost=1),)


def _splits(inputs: Inputs, goal: Goal) -> Iterator[tuple[int, int]]:
    """(cards, tensor parallel size) of equal engines."""
    pinned = inputs.args.get("tensor_parallel_size")
    for gpus in dict.fromkeys((1, 2, 4, 8, goal.gpus)):
        if gpus <= goal.gpus:
            sizes = [pinned] if pinned else tensor_parallel_sizes(gpus, goal.gpus_per_node)
            yield from ((gpus, size) for size in sizes if gpus % size == 0)


def _applied(inputs: Inputs, changes: tuple[Change, ...]) -> Inputs:
    for change in changes:
        inputs = change.apply(inputs)
    return inputs
