"""A vLLM start-up log explained: printed figures beside predicted ones, why the launch failed, and what fixes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planner.errors import InputError
from planner.logs.failures import Diagnosis, Outcome, outcome
from planner.logs.prediction import Asked, Comparison, ask, compare, predict
from planner.logs.reader import Facts, read
from planner.logs.remedies import Remedy, remedies
from planner.memory.budget import Estimate
from planner.request import Inputs


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a log says, what was predicted for the same launch, and what to do."""

    facts: Facts
    outcome: Outcome
    asked: Asked
    inputs: Inputs | None = None
    estimate: Estimate | None = None
    comparisons: tuple[Comparison, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    not_predicted: str | None = None
    """Why there is no prediction, and what to pass for one."""

    @property
    def diagnosis(self) -> Diagnosis | None:
        """Why the launch failed; None for one that did not."""
        return self.outcome.diagnosis

    @property
    def foreseen(self) -> bool | None:
        """Whether the planner predicts how the launch ended; None where that is no question of memory or flags."""
        diagnosis, estimate = self.diagnosis, self.estimate
        if estimate is None or self.outcome.word == "unknown":
            return None
        if diagnosis is None or self.outcome.word == "started":
            return estimate.fits
        if diagnosis.about not in ("memory", "flags") or diagnosis.code in _NOT_FORESEEABLE:
            return None
        return not estimate.fits

    def to_dict(self) -> dict[str, Any]:
        """The answer of `explain-log --format json`; sizes as the log prints them, in GiB."""
        return {
            "outcome": self.outcome.word,
            "foreseen": self.foreseen,
            "diagnosis": self.diagnosis.to_dict() if self.diagnosis else None,
            "remedies": [remedy.to_dict() for remedy in self.remedies],
            "comparisons": [row.to_dict() for row in self.comparisons],
            "log": self.facts.to_dict(),
            "request": dict(self.asked.request),
            "notes": list(self.asked.notes),
            "not_predicted": self.not_predicted,
            "estimate": self.estimate.to_dict() if self.estimate else None,
        }


_NOT_FORESEEABLE = frozenset(
    (
        "killed_host_oom",
        "memory_profiling_error",
        "oom_runtime",
        "oom_graph_capture",
        "oom_kv_cache",
        "oom_warmup",
        "unknown_flag",
        "lora_rank",
    )
)
"""Of memory or flags, but decided by what the planner is not asked: the host, other programs, requests."""


def explain(text: str, *, overrides: Mapping[str, Any]) -> Explanation:
    """Explain a log. `overrides` are keys of a request (model, gpu, vllm_version, engine arguments …) that the log
    lacks or has wrong.

    InputError when the text is no vLLM log, or when it shows no failure and does not say enough for a prediction. With
    a failure, the explanation is given without a prediction, and says what to pass for one.
    """
    facts, log = read(text)
    result = outcome(facts, log)
    if facts.empty and result.diagnosis is None:
        raise InputError("no line of a vLLM start-up log was found; pass what `vllm serve` or the container printed")
    asked = ask(facts, overrides, result.diagnosis)
    try:
        inputs, estimate = predict(asked)
    except InputError as error:
        if result.diagnosis is None:
            raise
        return Explanation(
            facts=facts,
            outcome=result,
            asked=asked,
            comparisons=compare(facts, None),
            not_predicted=str(error),
        )
    fixes = remedies(result.diagnosis, inputs, estimate, facts) if result.diagnosis is not None else ()
    return Explanation(
        facts=facts,
        outcome=result,
        asked=asked,
        inputs=inputs,
        estimate=estimate,
        comparisons=compare(facts, estimate),
        remedies=fixes,
    )
