"""The smallest change that makes a failing launch pass: a correction of what is refused, else the ladder's first rung.

A rung may also turn a flag that the file gives: what is asked for is that the launch starts and the policy is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from planner.engine.args import find_flag
from planner.errors import InputError, Reason
from planner.gate.judge import failures, gpus_of
from planner.gate.launch import Launch
from planner.gate.limits import goal_of, too_few_gpus
from planner.gate.policy import Rules
from planner.memory.budget import Estimate
from planner.planning.cards import cards_of, tensor_parallel_sizes
from planner.planning.change import Change
from planner.planning.goal import Goal
from planner.planning.ladder import fit
from planner.planning.rungs import RUNGS
from planner.request import Inputs


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """What to change in the file."""

    args: Mapping[str, Any] = field(default_factory=dict)
    """Engine arguments and their new values; None for one to leave out."""
    model: str | None = None
    """Another checkpoint."""

    def after(self, change: Change) -> Remedy:
        """With a change before it."""
        return Remedy(args={**change.args, **self.args}, model=self.model or change.model)


def remedy(launch: Launch, inputs: Inputs, estimate: Estimate, rules: Rules) -> Remedy | None:
    """None where no change of flags or checkpoint is enough."""
    if inputs.ask_vllm or not isinstance(inputs.source, str):
        return None
    given = gpus_of(launch, rules)
    goal = goal_of(rules, max(1, given if given is not None else cards_of(inputs)))
    case = _Case(launch=launch, inputs=inputs, estimate=estimate, rules=rules, goal=goal)
    return _first(case, _corrections(case)) or _up(case) or _corrected(case, _CORRECTIONS)


def _up(case: _Case) -> Remedy | None:
    return _first(case, _rungs(case)) or _climb(case)


def _corrected(case: _Case, left: int) -> Remedy | None:
    """A correction of what is wrong first, and what the launch then still needs: room, or another correction."""
    others: list[tuple[Change, _Case]] = []
    for change in itertools.islice(_corrections(case), _CORRECTIONS):
        try:
            inputs = change.apply(case.inputs)
            after = replace(case, inputs=inputs, estimate=inputs.estimate())
        except InputError:
            continue
        if not after.is_refused and (more := _up(after)) is not None:
            return more.after(change)
        if after.is_refused and after.first != case.first:
            others.append((change, after))
    for change, after in others if left else ():
        more = _first(after, _corrections(after)) or _corrected(after, left - 1)
        if more is not None:
            return more.after(change)
    return None


_CORRECTIONS = 4
"""Tried of each, and one after another."""


@dataclass(frozen=True, kw_only=True)
class _Case:
    launch: Launch
    inputs: Inputs
    estimate: Estimate
    rules: Rules
    goal: Goal

    @property
    def reasons(self) -> list[Reason]:
        """What is wrong, failures first."""
        return [breach.reason for breach in failures(self.launch, self.rules, self.inputs, self.estimate)]

    @property
    def first(self) -> tuple[str, str | None]:
        """Code and flag of the first of them: numbers in a message differ with each change."""
        return self.reasons[0].code, self.reasons[0].flag

    @property
    def is_refused(self) -> bool:
        """Whether it would not start however much memory its cards had."""
        given = gpus_of(self.launch, self.rules)
        few = too_few_gpus(self.inputs.args, given, whole_cluster=self.launch.whole_cluster)
        return self.estimate.status == "refused" or few is not None

    def passes(self, inputs: Inputs) -> bool:
        try:
            estimate = inputs.estimate()
            return all(b.severity != "fail" for b in failures(self.launch, self.rules, inputs, estimate))
        except InputError:
            return False


def _first(case: _Case, changes: Iterator[Change]) -> Remedy | None:
    for change in changes:
        try:
            inputs = change.apply(case.inputs)
        except InputError:
            continue
        if case.passes(inputs):
            return Remedy(args=change.args, model=change.model)
    return None


def _rungs(case: _Case) -> Iterator[Change]:
    def enough(change: Change) -> bool:
        return case.goal.met(change.apply(case.inputs).estimate())

    for rung in RUNGS:
        for change in rung.changes(case.inputs, case.goal, case.estimate, enough):
            if change.what_if_quantization is None:  # a checkpoint that must be made first is no diff
                yield change


def _climb(case: _Case) -> Remedy | None:
    """Several rungs, flags that the file gives left as they are."""
    try:
        forbid = ("quantization",) if case.rules.allowed_quantizations is not None else ()
        plan = fit(case.inputs, case.goal, forbid=forbid)
    except InputError:
        return None
    inputs = plan.inputs
    if not plan.met or inputs.what_if_quantization is not None or not case.passes(inputs):
        return None
    changed = {name: value for name, value in inputs.args.items() if case.inputs.args.get(name) != value}
    model = inputs.source if isinstance(inputs.source, str) and inputs.source != case.inputs.source else None
    return Remedy(args=changed, model=model)


# --- corrections of what is refused, by the reason's code: one entry each ---------------------------------------------


def _corrections(case: _Case) -> Iterator[Change]:
    reasons = case.reasons
    for reason in reasons:
        correction = CORRECTIONS.get(reason.code)
        if correction is not None:
            yield from correction(case)
    for reason in reasons if case.estimate.status == "refused" else ():
        flag = find_flag(reason.flag or "")
        if flag is not None and flag.name in case.inputs.args:
            yield Change(summary=f"{reason.flag} left to vLLM", args={flag.name: None})


def _legal_tp(case: _Case) -> Iterator[Change]:
    current = case.inputs.args.get("tensor_parallel_size", 1)
    sizes = tensor_parallel_sizes(case.goal.gpus)
    for size in (*(size for size in sizes if size < current), *reversed([size for size in sizes if size > current])):
        yield Change(summary=f"tensor parallel size {size}", args={"tensor_parallel_size": size})


def _allowed_length(case: _Case) -> Iterator[Change]:
    yield Change(summary="what the model allows", args={"max_model_len": case.inputs.model.max_position})


def _half(case: _Case) -> Iterator[Change]:
    yield Change(summary="half precision", args={"dtype": "half"})


def _auto_dtype(case: _Case) -> Iterator[Change]:
    yield Change(summary="the checkpoint's dtype", args={"dtype": "auto"})


def _longer_context(case: _Case) -> Iterator[Change]:
    if case.rules.min_context is not None:
        yield Change(summary="the context asked for", args={"max_model_len": case.rules.min_context})


def _lower_share(case: _Case) -> Iterator[Change]:
    share = case.estimate.engine.gpu_memory_utilization if case.estimate.engine is not None else 0.9
    for percent in range(round(share * 100) - 1, 49, -1):
        yield Change(summary="a smaller share of the card", args={"gpu_memory_utilization": percent / 100})


def _larger_batch(case: _Case) -> Iterator[Change]:
    engine_args = case.inputs.args
    for name in ("max_model_len", "max_num_seqs"):
        size = engine_args.get(name)
        if isinstance(size, int) and size > engine_args.get("max_num_batched_tokens", 0):
            yield Change(summary="batches as large as needed", args={"max_num_batched_tokens": size})


CORRECTIONS: Mapping[str, Callable[[_Case], Iterator[Change]]] = {
    "heads_not_divisible": _legal_tp,
    "too_few_gpus": _legal_tp,
    "max_model_len_too_large": _allowed_length,
    "dtype_needs_capability": _half,
    "float16_unstable": _auto_dtype,
    "oom_graph_capture": _lower_share,
    "policy_context": _longer_context,
    "batched_tokens_too_small": _larger_batch,
    "batched_tokens_below_seqs": _larger_batch,
    "quantization_dtype": _half,
}
