"""Python files: LLM(...), EngineArgs(...) and the commands they start, read as syntax and never run."""

from __future__ import annotations

from collections.abc import Iterable

from planner.gate.command import Context
from planner.gate.launch import Launch
from planner.gate.source import Lookup, Source


def read(source: Source, lookup: Lookup) -> Iterable[Launch]:
    return code(source.text, Context(source=source, lookup=lookup, line=1, end_line=len(source.lines)), 1)


def code(text: str, context: Context, first_line: int) -> list[Launch]:
    """The launches in a program that stands in the file from first_line on."""
    return []
