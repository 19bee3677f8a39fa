"""A plan with what a real engine measured: `validation` in its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from planner.errors import InputError
from planner.validate.store import Store


def with_validation(plans: Sequence[Mapping[str, Any]], run: int) -> dict[str, Any]:
    """The one plan, with this run of the history. InputError for several plans, or for no such run."""
    if len(plans) != 1:
        raise InputError("--run belongs to one plan")
    record = Store(create=False).get(run)
    if record is None:
        raise InputError(f"--run {run}: no such run (`vllm-fit history` lists them)")
    if not record["comparisons"]:
        raise InputError(f"--run {run}: nothing was measured ({record['status']})")
    kept = ("id", "started", "device", "label", "versions", "hardware", "agrees", "comparisons")
    return {**plans[0], "validation": {name: record[name] for name in kept}}
