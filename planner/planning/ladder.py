"""The ladder: from "does not fit" to the smallest legal change that fits, one explained rung at a time.

Climb rung by rung (planner/planning/rungs.py), keeping each legal change that helps, until the goal is met; then take
back every change that turns out not to be needed, the dearest first, and put a gentler one of the same rung in its
place where that is enough.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from planner.errors import Reason
from planner.memory.budget import Estimate
from planner.planning.cards import cards_of, tensor_parallel_sizes, with_tensor_parallel
from planner.planning.change import Change
from planner.planning.goal import Goal, Snapshot
from planner.planning.plan import Plan, Step
from planner.planning.rungs import Rung, ordered
from planner.planning.speed_goal import excess, missing, shortfall, speed_of
from planner.request import Inputs
from planner.text import flag
from planner.units import ceil_div, gib

if TYPE_CHECKING:
    from planner.planning.throughput import Throughput


def fit(
    inputs: Inputs,
    goal: Goal,
    keep: frozenset[str] = frozenset(),
    *,
    order: tuple[str, ...] = (),
    forbid: tuple[str, ...] = (),
) -> Plan:
    """Climb until the goal is met, then take back what is not needed. keep: flags that must stay as they are.

    order: rungs to try first; forbid: rungs not to try. The cards of the goal are used from the start, by the largest
    tensor parallel size that is legal, where none is given; flags that take more cards than the goal has enlarge it.
    """
    goal = goal.checked(inputs)
    if goal.gpus_per_engine < cards_of(inputs):
        goal = replace(goal, gpus=cards_of(inputs) * goal.engines)
    given = keep | set(inputs.args)
    climb = _Climb(_use_the_cards(inputs, goal, given), goal, given, ordered(order, forbid))
    climb.run()
    return climb.plan()


def _use_the_cards(inputs: Inputs, goal: Goal, given: frozenset[str]) -> Inputs:
    """The cards given are there to be used: the largest legal tensor parallel size, where none is asked for."""
    if "tensor_parallel_size" in given:
        return with_tensor_parallel(inputs, inputs.args.get("tensor_parallel_size", 1), goal.gpus_per_node)
    *larger, least = tensor_parallel_sizes(goal.gpus_per_engine // cards_of(inputs), goal.gpus_per_node)
    for size in larger:
        candidate = with_tensor_parallel(inputs, size, goal.gpus_per_node)
        if candidate.estimate().status != "refused":
            return candidate
    return with_tensor_parallel(inputs, least, goal.gpus_per_node)


@dataclass(frozen=True, kw_only=True)
class _Taken:
    rung: Rung
    change: Change
    gentler: tuple[Change, ...]
    """Changes of the same rung that are to be preferred, the gentlest first."""


def _key(inputs: Inputs) -> str:
    """Of what a climb changes."""
    return json.dumps([inputs.source, inputs.what_if_quantization, dict(inputs.args)], sort_keys=True, default=str)


class _Climb:
    """The state of one climb."""

    def __init__(self, base: Inputs, goal: Goal, given: frozenset[str], rungs: Sequence[Rung]) -> None:
        self.base, self.goal, self.rungs = base, goal, rungs
        self.given = given
        self.pinned = given | frozenset(base.args)
        self._known: dict[str, Estimate] = {}
        self._speeds: dict[str, Throughput | None] = {}
        self.inputs = base
        self.start = self.estimate = self._estimate(base)
        self.steps: list[Step] = []
        self.taken: list[_Taken] = []
        self.waiting: list[Rung] = []
        """Rungs that did not help."""

    def run(self) -> None:
        """Rung by rung until the goal is met, then back as far as that holds."""
        for rung in self.rungs:
            if self._met(self.inputs):
                break
            if set(rung.flags) <= self.pinned:
                given = set(rung.flags) <= self.given
                self._skip(rung, f"{flag(rung.flags[0])} is kept as given" if given else rung.nothing)
            elif self._try(rung):
                self._try_again()
            else:
                self.waiting.append(rung)
        if self._met(self.inputs):
            while self._take_back() or self._soften() or self._soften_with_another():
                pass

    def _try_again(self) -> None:
        """What did not help before may now: a smaller KV cache once the weights fit."""
        for rung in list(self.waiting):
            if self._met(self.inputs):
                return
            if self._try(rung, again=True):
                self.waiting.remove(rung)

    def _estimate(self, inputs: Inputs) -> Estimate:
        key = _key(inputs)
        if key not in self._known:
            self._known[key] = inputs.estimate()
        return self._known[key]

    def _met(self, inputs: Inputs) -> bool:
        estimate = self._estimate(inputs)
        return self.goal.met(estimate) and shortfall(self.goal, self._speed(inputs)) is None

    def _speed(self, inputs: Inputs) -> Throughput | None:
        """None where the goal does not ask for it."""
        key = _key(inputs)
        if key not in self._speeds:
            wanted = self.goal.wants_speed
            self._speeds[key] = speed_of(inputs, self.goal, self._estimate(inputs)) if wanted else None
        return self._speeds[key]

    def _enough(self, change: Change) -> bool:
        return self._met(change.apply(self.inputs))

    def _try(self, rung: Rung, *, again: bool = False) -> bool:
        """Whether it was taken. again: what is not, is not told a second time."""
        best: tuple[Change, Inputs, Estimate] | None = None
        refusal: Reason | None = None
        tried: list[Change] = []
        for change in rung.changes(self.inputs, self.goal, self.estimate, self._enough):
            if change.flags & self.given:
                continue
            inputs = change.apply(self.inputs)
            estimate = self._estimate(inputs)
            if estimate.status == "refused":
                refusal = refusal or estimate.reasons[0]
                continue
            tried.append(change)
            if best is None or self._room(inputs) > self._room(best[1]):
                best = change, inputs, estimate
            if self._met(inputs):
                best = change, inputs, estimate
                break
        why = None
        if best is None:
            why = self._not_legal(refusal) if refusal else rung.nothing
        elif self._room(best[1]) <= self._room(self.inputs) and not self._met(best[1]):
            why = "it would not help"
        if best is None or why is not None:
            if not again:
                self._skip(rung, why or "")
            return False
        # A rung's changes come from the gentlest on.
        gentler = tuple(change for change in tried[: tried.index(best[0])] if change.cost <= best[0].cost)
        self._take(_Taken(rung=rung, change=best[0], gentler=gentler), best[1], best[2])
        return True

    def _not_legal(self, refusal: Reason) -> str:
        if refusal.code in {reason.code for reason in self.estimate.reasons}:
            return "it would be refused for the same reason"
        return f"not legal here: {refusal.message}"

    def _room(self, inputs: Inputs) -> tuple[float, ...]:
        """How far along a launch is: requests it runs, then room for them, negative when short, then how fast."""
        estimate = self._estimate(inputs)
        if not estimate.ranks:
            return float("-inf"), float("-inf")
        room = min(rank.available_kv_bytes for rank in estimate.ranks)
        kv, engine = estimate.kv_cache, estimate.engine
        if kv is None or engine is None or not kv.bytes_for_one_request:
            return 0.0, float(room)
        runs = min(float(engine.max_num_seqs * engine.data_parallel_size), self.goal.per_engine)
        if room <= 0:
            return runs, room / kv.bytes_for_one_request
        held = self.goal.held(estimate)
        if not self.goal.wants_speed:
            return runs, held
        return runs, min(held, self.goal.per_engine), -excess(self.goal, self._speed(inputs)), held

    def _take(self, taken: _Taken, inputs: Inputs, estimate: Estimate) -> None:
        why = "meets the goal" if self._met(inputs) else "helps, but is not enough"
        self._record(taken.rung, "taken", taken.change, why, estimate)
        self.taken.append(taken)
        self.inputs, self.estimate = inputs, estimate

    def _skip(self, rung: Rung, why: str) -> None:
        if why:
            self._record(rung, "skipped", Change(summary=rung.name), why, self.estimate)

    def _record(self, rung: Rung, outcome: str, change: Change, why: str, after: Estimate) -> None:
        self.steps.append(
            Step(
                rung=rung.name,
                outcome=outcome,
                summary=change.summary,
                why=why,
                quality_cost=change.quality_cost,
                before=Snapshot.of(self.estimate, self.goal),
                after=Snapshot.of(after, self.goal),
            )
        )

    def _with(self, changes: Sequence[Change]) -> tuple[Inputs, Estimate]:
        inputs = self.base
        for change in changes:
            inputs = change.apply(inputs)
        return inputs, self._estimate(inputs)

    def _take_back(self) -> bool:
        """Drop the dearest change without which the goal is still met; False where every one is needed."""
        for index in sorted(range(len(self.taken)), key=lambda i: (-self.taken[i].change.cost, -i)):
            rest = [taken.change for i, taken in enumerate(self.taken) if i != index]
            inputs, estimate = self._with(rest)
            if self._met(inputs):
                taken = self.taken.pop(index)
                self._record(taken.rung, "taken back", taken.change, "the goal is met without it", estimate)
                self.inputs, self.estimate = inputs, estimate
                return True
        return False

    def _soften(self) -> bool:
        """Replace one change by a gentler one of its rung that is enough; False where there is none."""
        for index, taken in enumerate(self.taken):
            for gentler in taken.gentler:
                inputs, estimate = self._with(self._exchanged(index, gentler))
                if self._met(inputs):
                    self._exchange(index, gentler, inputs, estimate)
                    return True
        return False

    def _soften_with_another(self) -> bool:
        """The same beside a change of a rung that did not help before; it may cost no more than the gentler one."""
        for index, gentler, rung, change in self._pairs():
            inputs, estimate = self._with([*self._exchanged(index, gentler), change])
            if self._met(inputs):
                self._take(_Taken(rung=rung, change=change, gentler=()), *self._with([*self._changes, change]))
                self.waiting.remove(rung)
                self._exchange(index, gentler, inputs, estimate)
                return True
        return False

    def _pairs(self) -> Iterator[tuple[int, Change, Rung, Change]]:
        """(which of the changes taken, a gentler one of its rung, another rung, its change)."""
        for index, taken in enumerate(self.taken):
            for gentler in (change for change in taken.gentler if change.cost < taken.change.cost):
                inputs, estimate = self._with(self._exchanged(index, gentler))
                for rung in self.waiting:
                    for change in rung.changes(inputs, self.goal, estimate, lambda _: False):
                        if change.cost <= gentler.cost and not change.flags & self.given:
                            yield index, gentler, rung, change

    @property
    def _changes(self) -> list[Change]:
        return [taken.change for taken in self.taken]

    def _exchanged(self, index: int, gentler: Change) -> list[Change]:
        changes = self._changes
        changes[index] = gentler
        return changes

    def _exchange(self, index: int, gentler: Change, inputs: Inputs, estimate: Estimate) -> None:
        taken = self.taken[index]
        self._record(taken.rung, "softened", gentler, f"enough in place of {taken.change.summary}", estimate)
        kept = taken.gentler[: taken.gentler.index(gentler)]
        self.taken[index] = _Taken(rung=taken.rung, change=gentler, gentler=kept)
        self.inputs, self.estimate = inputs, estimate

    def plan(self) -> Plan:
        met = self._met(self.inputs)
        return Plan(
            inputs=self.inputs,
            goal=self.goal,
            start=self.start,
            estimate=self.estimate,
            steps=tuple(self.steps),
            met=met,
            base=self.base,
            changes=tuple(self._changes),
            binding=None if met else self._binding(),
        )

    def _binding(self) -> Reason:
        if self.estimate.reasons:
            return _no_room(self.estimate) or self.estimate.reasons[0]
        lacking = missing(self.inputs, self.goal, self.estimate)
        assert lacking is not None
        return lacking


def _no_room(estimate: Estimate) -> Reason | None:
    """In place of vLLM's sentence on a cache without memory: what takes the memory."""
    requested, engine = estimate.requested_bytes, estimate.engine
    if requested is None or engine is None or not estimate.ranks or estimate.reasons[0].code != "no_cache_blocks":
        return None
    stage = min(range(len(estimate.ranks)), key=lambda index: estimate.ranks[index].available_kv_bytes)
    weights = estimate.ranks[stage].loading_bytes - estimate.offloaded_bytes
    if weights < requested:
        beside = estimate.overheads[stage]
        rest = beside.in_budget - beside.activation_peak
        return Reason(
            code="no_cache_blocks",
            message=f"of the {gib(requested)} GiB of a card that vLLM may use, weights take {gib(weights)}, the "
            f"largest batch {gib(beside.activation_peak)} and the rest {gib(rest)}: nothing is left "
            "for KV cache",
            flag="--gpu-memory-utilization",
        )
    total = engine.tensor_parallel_size * sum(rank.loading_bytes for rank in estimate.ranks)
    return Reason(
        code="weights_exceed_card",
        message=f"the weights take {gib(weights)} GiB of a card even so, and vLLM may use {gib(requested)} GiB of it; "
        f"all of them are {gib(total)} GiB, for at least {ceil_div(total, requested)} such cards",
        flag="--tensor-parallel-size",
    )
