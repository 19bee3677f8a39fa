"""The forms in which the gate's outcome is written. One more is a module here and an entry in FORMATS."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.gate.outcome import Outcome

FORMATS: tuple[str, ...] = ("text", "json", "junit", "sarif", "github", "markdown")
"""Each is a module here."""


def render(form: str, outcomes: Sequence[Outcome]) -> str:
    """The outcomes in one of FORMATS, ending in a newline."""
    text: str = importlib.import_module(f"planner.gate.formats.{form}").render(outcomes)
    return text
