"""Where the ladder ended, and what became of each rung: what `fit -o plan.json` writes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from planner.errors import Reason
from planner.memory.budget import Estimate
from planner.planning.change import Change, request_of
from planner.planning.goal import Goal, Snapshot, finite
from planner.planning.speed_goal import speed_of
from planner.request import Inputs

if TYPE_CHECKING:
    from planner.planning.throughput import Throughput


@dataclass(frozen=True, kw_only=True)
class Step:
    """What became of one rung."""

    rung: str
    outcome: str
    """taken, skipped, taken back or softened (replaced by a gentler change of the same rung)."""
    summary: str
    why: str
    quality_cost: str
    before: Snapshot
    after: Snapshot

    def to_dict(self) -> dict[str, Any]:
        """As an entry of a plan's `steps`."""
        return {
            "rung": self.rung,
            "outcome": self.outcome,
            "summary": self.summary,
            "why": self.why,
            "quality_cost": self.quality_cost,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where the ladder ended: a launch that fits, or the constraint that binds."""

    inputs: Inputs
    goal: Goal
    start: Estimate
    estimate: Estimate
    steps: tuple[Step, ...]
    met: bool
    base: Inputs
    """Where the climb began."""
    changes: tuple[Change, ...] = ()
    """What was taken and kept: applied to base, they give inputs."""
    binding: Reason | None = None
    """Why no plan was found."""
    splits: tuple[Plan, ...] = ()
    """Other ways to use the same cards, this one among them (planner.planning.replicas)."""

    @cached_property
    def speed(self) -> Throughput | None:
        """Of one engine with its part of the requests; predicted when first asked for."""
        return speed_of(self.inputs, self.goal, self.estimate) if self.estimate.fits else None

    @property
    def engines(self) -> int:
        """Engines of this kind to launch, behind a balancer."""
        return self.goal.engines

    @property
    def start_snapshot(self) -> Snapshot:
        """The figures of the launch that the climb began with."""
        return Snapshot.of(self.start, self.goal)

    @property
    def cost(self) -> int:
        """What the dearest change costs (Change.cost)."""
        return max((change.cost for change in self.changes), default=0)

    @property
    def serve_command(self) -> str:
        """The `vllm serve` line of one engine."""
        return self.inputs.serve_command

    def to_dict(self) -> dict[str, Any]:
        """The plan's file: what `fit -o plan.json` writes and outputs.read_plan reads."""
        return {
            "plan": 1,
            "met": self.met,
            "goal": self.goal.to_dict(),
            "engines": self.engines,
            "request": request_of(self.inputs),
            "serve": self.serve_command if self.met else None,
            "steps": [step.to_dict() for step in self.steps],
            "binding": self.binding.to_dict() if self.binding else None,
            "start": self.start_snapshot.to_dict(),
            "estimate": self.estimate.to_dict(),
            "speed": self.speed.to_dict() if self.speed is not None else None,
            "splits": [split.summary() for split in self.splits],
        }

    def summary(self) -> dict[str, Any]:
        """The plan as one of several: how it uses the cards, and what that reaches."""
        args = self.inputs.args
        return {
            "engines": self.engines,
            "tensor_parallel_size": args.get("tensor_parallel_size", 1),
            "data_parallel_size": args.get("data_parallel_size", 1),
            "met": self.met,
            "quality_cost": self.cost,
            "concurrency": finite(self.concurrency),
            "output_tokens_per_s": round(self.output_tokens_per_s, 1) if self.speed is not None else None,
            "serve": self.serve_command if self.met else None,
        }

    @property
    def concurrency(self) -> float:
        """Requests of the goal's length at once, over all engines; 0 without a plan."""
        return self.goal.held(self.estimate) * self.engines if self.met else 0.0

    @property
    def output_tokens_per_s(self) -> float:
        """Predicted, of all engines; 0 where that cannot be."""
        return self.speed.point.output_tokens_per_s * self.engines if self.speed is not None else 0.0
