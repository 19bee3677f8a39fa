"""Shell scripts, and the scripts inside other files."""

from __future__ import annotations

from collections.abc import Iterable

from planner.gate.command import Context
from planner.gate.launch import Launch
from planner.gate.source import Lookup, Source


def read(source: Source, lookup: Lookup) -> Iterable[Launch]:
    return script(source.text, Context(source=source, lookup=lookup, line=1, end_line=len(source.lines)), first_line=1)


def script(text: str, context: Context, first_line: int) -> list[Launch]:
    """The launches in a script that stands in the file from `first_line` on, line by line as `text` has them.

    A launch's own lines are those of its command.
    """
    raise NotImplementedError
