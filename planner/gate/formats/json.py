"""For programs: {"launches": […], "summary": {…}}."""

from __future__ import annotations

import json
from collections.abc import Sequence

from planner.gate.outcome import Outcome, summary


def render(outcomes: Sequence[Outcome]) -> str:
    """As docs/gate.md describes it: `launches` and a `summary` of counts."""
    found = {"launches": [outcome.to_dict() for outcome in outcomes], "summary": summary(outcomes)}
    return json.dumps(found, indent=2) + "\n"
