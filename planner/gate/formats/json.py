"""For programs: {"launches": […], "summary": {…}}."""

from __future__ import annotations

import json
from collections.abc import Sequence

from planner.gate.outcome import Outcome, summary


def render(outcomes: Sequence[Outcome]) -> str:
    """`launches`, each as Outcome.to_dict gives it, and a `summary` of counts by verdict."""
    found = {"launches": [outcome.to_dict() for outcome in outcomes], "summary": summary(outcomes)}
    return json.dumps(found, indent=2) + "\n"
