"""For a terminal: what passes in one line each, the rest with its reasons and the fix."""

from __future__ import annotations

from collections.abc import Sequence

from planner.gate.outcome import Outcome, summary
from planner.text import printable

_WORDS = {"pass": "pass", "warn": "WARN", "fail": "FAIL", "unknown": "UNKNOWN"}


def render(outcomes: Sequence[Outcome]) -> str:
    """For a terminal: what was found, line by line, and a count."""
    lines = [line for outcome in outcomes for line in _lines(outcome)]
    counts = summary(outcomes)
    if not outcomes:
        return "no vLLM launch found\n"
    said = ", ".join(f"{counts[name]} {word}" for name, word in _SUMMARY if counts[name])
    total = counts["launches"]
    return "\n".join([*lines, "", f"{total} launch{'es' if total != 1 else ''}: {said}"]) + "\n"


_SUMMARY = (("pass", "pass"), ("warn", "with a warning"), ("fail", "fail"), ("unknown", "unknown"))


def _lines(outcome: Outcome) -> list[str]:
    launch = outcome.launch
    what = " on ".join(printable(part) for part in (launch.model, outcome.gpu) if part)
    lines = [f"{printable(launch.file)}:{launch.line}: {_WORDS[outcome.verdict]}" + (f"  {what}" if what else "")]
    for reason in outcome.reasons:
        flag = f"  [{reason.flag}]" if reason.flag else ""
        lines.append(f"    {printable(reason.message, 600)}{flag}")
    if outcome.fix is not None:
        lines += ["    fix:", *(f"        {_shown(line)}" for line in outcome.fix.split("\n")[:-1])]
    return lines


def _shown(line: str) -> str:
    """A line of a diff; its tabs belong to it."""
    return "\t".join(printable(part, 400) for part in line.removesuffix("\r").split("\t"))
