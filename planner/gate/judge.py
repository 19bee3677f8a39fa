"""A launch becomes an outcome: the planner's estimate, the policy's rules, and the smallest fix."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from planner.errors import InputError, Reason
from planner.gate import gpus
from planner.gate.launch import Launch
from planner.gate.limits import Breach, breaches, too_few_gpus
from planner.gate.outcome import Outcome, Verdict
from planner.gate.policy import Rules
from planner.gate.redact import redacted
from planner.hardware.catalogue import find_gpu
from planner.memory.budget import Estimate
from planner.request import Inputs, prepare
from planner.text import printable

Fix = Callable[[Launch, Inputs, Estimate, Rules], "str | None"]


def judge(launch: Launch, rules: Rules, fix: Fix) -> Outcome:
    """The verdict on one launch. fix: makes the diff, for a launch that fails."""
    outcome = _with_ignore(_judged(launch, rules, fix), rules)
    unknown_fails = outcome.verdict == "unknown" and rules.unknown == "fail"
    reasons = tuple(replace(reason, message=redacted(reason.message, launch)) for reason in outcome.reasons)
    return replace(outcome, reasons=reasons, fails=outcome.verdict == "fail" or unknown_fails)


def unreadable(file: str, message: str, rules: Rules) -> Outcome:
    """The outcome of a file that has something of vLLM in it and cannot be read."""
    launch = Launch(file=file, line=1, end_line=1, problem=message)
    return replace(_unknown(launch, "cannot_be_read", message), fails=rules.unknown == "fail")


def request_of(launch: Launch, rules: Rules) -> dict[str, Any]:
    """The launch as a request to the planner. InputError where the card is not known."""
    card = gpus.combined(launch.gpu or None, rules.gpu)
    if not card:
        named = f"{launch.gpu} of no card that is named" if launch.gpu else "neither the file nor the policy names it"
        raise InputError(f"which GPU it runs on is not known: {named}; pass --gpu, or defaults.gpu in vllm-fit.yaml")
    request: dict[str, Any] = {**launch.args, **launch.request}
    request |= {"gpu": card, "usage": launch.usage}
    if launch.model is not None:
        request["model"] = rules.models.get(launch.model, launch.model)
    version = launch.version or rules.vllm_version
    if version is not None:
        request["vllm_version"] = version
    if rules.workload is not None:
        request["workload"] = rules.workload
    return request


def gpus_of(launch: Launch, rules: Rules) -> int | None:
    """The cards that the launch is given, where that is known."""
    return launch.gpus if launch.gpus is not None else rules.gpus


def failures(launch: Launch, rules: Rules, inputs: Inputs, estimate: Estimate) -> list[Breach]:
    """Everything that is wrong with a launch, failures first; empty for one that passes."""
    found = [Breach(severity="fail", reason=reason) for reason in estimate.reasons]
    few = too_few_gpus(inputs.args, gpus_of(launch, rules), whole_cluster=launch.whole_cluster)
    found += [few] if few is not None else []
    found += breaches(rules, inputs, estimate)
    found += [
        Breach(severity="warn", reason=Reason(code="under_load", message=text, flag="--gpu-memory-utilization"))
        for text in estimate.warnings
        if text.startswith("starts, but")
    ]
    return sorted(found, key=lambda breach: breach.severity != "fail")


def _judged(launch: Launch, rules: Rules, fix: Fix) -> Outcome:
    if launch.refusal is not None:
        reason = Reason(code="bad_arguments", message=launch.refusal)
        return Outcome(launch=launch, verdict="fail", gpu=_card(launch, rules), reasons=(reason,))
    if launch.problem is not None:
        return _unknown(launch, "cannot_be_read", launch.problem)
    try:
        request = request_of(launch, rules)
        card = find_gpu(request["gpu"])
    except InputError as error:
        return _unknown(launch, "gpu_unknown", str(error))
    try:
        _check_place(request.get("model", ""))
        inputs = prepare(request)
        estimate = inputs.estimate()
        doubt = _doubt(launch, estimate)
        if doubt is not None:
            return replace(_unknown(launch, *doubt), gpu=card.name)
        found = failures(launch, rules, inputs, estimate)
        verdict = _verdict(found)
        return Outcome(
            launch=launch,
            verdict=verdict,
            gpu=card.name,
            reasons=tuple(breach.reason for breach in found),
            fix=fix(launch, inputs, estimate, rules) if verdict == "fail" else None,
            kv_tokens=estimate.kv_cache.tokens if estimate.fits and estimate.kv_cache is not None else None,
        )
    except InputError as error:
        return replace(_unknown(launch, "not_known", str(error)), gpu=card.name)


def _check_place(model: str) -> None:
    """InputError for a path or a URI of which only the cluster knows what lies there."""
    if "://" in model or (model.startswith("/") and not Path(model).exists()):
        raise InputError(
            f"which model lies at {printable(model)} is not known here; name it under defaults.models in vllm-fit.yaml"
        )


def _card(launch: Launch, rules: Rules) -> str | None:
    try:
        return find_gpu(request_of(launch, rules)["gpu"]).name
    except InputError:
        return None


def _unknown(launch: Launch, code: str, message: str) -> Outcome:
    return Outcome(launch=launch, verdict="unknown", reasons=(Reason(code=code, message=message),))


def _verdict(found: Sequence[Breach]) -> Verdict:
    return found[0].severity if found else "pass"


def _doubt(launch: Launch, estimate: Estimate) -> tuple[str, str] | None:
    """(code, message) where a variable of the environment makes vLLM something else than what is estimated."""
    environment, engine = launch.environment, estimate.engine
    if environment.get("VLLM_USE_V1") == "0" and engine is not None and (0, 8) <= engine.vllm_version < (0, 11):
        return "environment", "VLLM_USE_V1=0 selects the V0 engine, whose memory is not known for this version"
    too_long = any(reason.code == "max_model_len_too_large" for reason in estimate.reasons)
    if too_long and environment.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") in ("1", "true", "True"):
        return "environment", (
            "VLLM_ALLOW_LONG_MAX_MODEL_LEN lets max_model_len exceed what the model has positions for, which may give "
            "wrong results; what it then needs is not worked out here"
        )
    return None


def _with_ignore(outcome: Outcome, rules: Rules) -> Outcome:
    """A failure that the policy ignores only warns, until the day that it names."""
    if outcome.verdict not in ("fail", "unknown"):
        return outcome
    entry = rules.ignore_of(outcome.launch.model, frozenset(reason.code for reason in outcome.reasons))
    if entry is None:
        return outcome
    if entry.until < datetime.date.today():
        message = f"ignored until {entry.until}, which has passed: {entry.reason}"
        return replace(outcome, reasons=(*outcome.reasons, Reason(code="ignore_expired", message=message)))
    ignored = Reason(code="ignored", message=f"ignored until {entry.until}: {entry.reason}")
    return replace(outcome, verdict="warn", reasons=(*outcome.reasons, ignored))
