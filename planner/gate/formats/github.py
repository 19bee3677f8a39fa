"""Annotations of GitHub Actions: workflow commands that mark the lines of a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from planner.gate.formats.text import render as render_text
from planner.gate.outcome import Outcome
from planner.text import printable

_COMMANDS = {"warn": "warning", "fail": "error", "unknown": "error"}


def render(outcomes: Sequence[Outcome]) -> str:
    """The text, for the log of the step, then the annotations."""
    return render_text(outcomes) + "".join(_annotation(outcome) for outcome in outcomes if outcome.verdict != "pass")


def _annotation(outcome: Outcome) -> str:
    command = _COMMANDS[outcome.verdict] if outcome.fails else "warning"
    launch = outcome.launch
    place = {
        "file": launch.file,
        "line": str(launch.line),
        "endLine": str(launch.end_line),
        "title": f"vllm-fit: {launch.model or 'vLLM launch'} {_STATES[outcome.verdict]}",
    }
    properties = ",".join(f"{name}={_escaped(printable(value), ':,')}" for name, value in place.items())
    return f"::{command} {properties}::{_escaped(outcome.explanation)}\n"


_STATES = {"warn": "starts, with a warning", "fail": "would not start or breaks the policy", "unknown": "is unknown"}


def _escaped(text: str, more: str = "") -> str:
    """As actions/toolkit's escapeData and escapeProperty do."""
    for character in ("%", "\r", "\n", *more):
        text = text.replace(character, f"%{ord(character):02X}")
    return text
