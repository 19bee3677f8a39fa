"""What became of a trial, as plain data: stored, printed and exported in this form."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import psutil

from planner import __version__
from planner.engine.launch import LaunchError
from planner.engine.measure import Measurement
from planner.errors import InputError
from planner.hardware.cpu_speed import cpu_name
from planner.hardware.detect import this_machine
from planner.validate.compare import compare, compare_speed
from planner.validate.trial import Trial

Status = Literal["running", "measured", "failed", "timeout", "interrupted", "not_started"]
Record = dict[str, Any]

FINAL = ("measured", "failed")
"""What the engine itself decided: such a result holds, and need not be had again."""

_LOG_CHARACTERS = 200_000


def begun(trial: Trial) -> Record:
    """A trial that has been begun: what is known before anything is measured."""
    return {
        "status": "running",
        "key": trial.key,
        "label": trial.label,
        "model": trial.inputs.model.name,
        "device": trial.device,
        "way": trial.spec.way if trial.spec else None,
        "weights": trial.weights,
        "started": _now(),
        "finished": None,
        "request": trial.request,
        "goal": dict(trial.goal) if trial.goal else None,
        "estimate": trial.estimate.to_dict(),
        "predicted_speed": trial.speeds if trial.spec and trial.estimate.fits else [],
        "measurement": None,
        "comparisons": [],
        "agrees": None,
        "error": None,
        "explanation": None,
        "versions": {"vllm_fit": __version__, "vllm": str(trial.inputs.version), "python": platform.python_version()},
        "hardware": hardware(),
    }


def with_measurement(record: Record, trial: Trial, measurement: Measurement, *, complete: bool) -> Record:
    """What was measured so far, beside the predictions."""
    rows = compare(trial.estimate, measurement) if trial.estimate.stages else []
    for predicted, load in zip(record["predicted_speed"], measurement.loads, strict=False):
        rows += compare_speed(predicted, load)
    exact = [row for row in rows if row.exact]
    made = {
        **record,
        "measurement": measurement.to_dict(),
        "comparisons": [row.to_dict() for row in rows],
        "agrees": all(row.difference == 0 for row in exact) and trial.estimate.fits,
    }
    if measurement.soak is not None:
        made["soak"] = {"held": measurement.soak.held, "findings": list(measurement.soak.findings)}
    return {**made, "status": "measured", "finished": _now()} if complete else made


def with_error(record: Record, trial: Trial, error: LaunchError) -> Record:
    """A launch that failed: its log explained, beside what was predicted."""
    status = {"cancelled": "interrupted"}.get(error.kind, error.kind)
    told = {
        "message": str(error),
        "log": error.log[-_LOG_CHARACTERS:],
        "log_path": str(error.log_path) if error.log_path else None,
    }
    made = {**record, "status": status, "finished": _now(), "error": told}
    if status != "failed":
        return made
    explanation = _explained(trial, error.log)
    # A failure of another kind, such as a port that is taken, is none that a prediction could have met.
    foreseeable = explanation is None or explanation["foreseen"] is not None
    agrees = foreseeable and not trial.estimate.fits
    return {**made, "explanation": explanation, "agrees": agrees}


def interrupted(record: Record) -> Record:
    """The record of a run that was ended before its launch was: such a candidate is launched again."""
    return {**record, "status": "interrupted", "finished": _now()}


def _explained(trial: Trial, log: str) -> dict[str, Any] | None:
    from planner.logs import explain

    overrides = {name: value for name, value in trial.request.items() if name != "workload"}
    try:
        told = explain(log, overrides=overrides).to_dict()
    except InputError:  # it failed before vLLM said anything
        return None
    printed = {name: figure["value"] for name, figure in told["log"]["figures"].items()}
    kept = ("foreseen", "diagnosis", "remedies", "comparisons", "not_predicted")
    return {**{name: told[name] for name in kept}, "printed": printed}


def hardware() -> dict[str, Any]:
    """This machine, in the words that a result depends on."""
    return {
        "gpus": list(this_machine()),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def best_load(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The load with most output tokens a second."""
    loads: Sequence[Mapping[str, Any]] = (record["measurement"] or {}).get("loads") or ()
    return max(loads, key=lambda load: load["output_tokens_per_s"], default=None)
