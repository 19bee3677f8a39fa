"""For a step summary or a comment on a merge request."""

from __future__ import annotations

import re
from collections.abc import Sequence

from planner.gate.outcome import Outcome, summary
from planner.text import printable

_MARKS = {"pass": "✅ pass", "warn": "⚠️ warn", "fail": "❌ fail", "unknown": "❔ unknown"}


def render(outcomes: Sequence[Outcome]) -> str:
    """A table, then the fixes as code blocks: for a comment on a pull request."""
    counts = summary(outcomes)
    said = ", ".join(f"{counts[name]} {name}" for name in _MARKS if counts[name]) or "none found"
    lines = [f"### vLLM launches: {said}", ""]
    if outcomes:
        lines += ["| | where | model | GPU | why |", "|---|---|---|---|---|", *map(_row, outcomes), ""]
    for outcome in outcomes:
        if outcome.fix is not None:
            lines += [f"Fix for {_code(_place(outcome))}:", "", *_fence(outcome.fix), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _row(outcome: Outcome) -> str:
    why = "<br>".join(_escaped(reason.message) for reason in outcome.reasons)
    cells = (_MARKS[outcome.verdict], _code(_place(outcome)), _code(outcome.launch.model), _escaped(outcome.gpu or ""))
    return f"| {' | '.join((*cells, why))} |"


def _place(outcome: Outcome) -> str:
    return f"{outcome.launch.file}:{outcome.launch.line}"


def _code(text: str | None) -> str:
    plain = printable(text or "").replace("`", "'").replace("|", "\\|")
    return f"`{plain}`" if plain else ""


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|!~])", r"\\\1", printable(text, 600))


def _fence(text: str) -> list[str]:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}diff", *(printable(line, 400) for line in text.splitlines()), fence]
