"""A log as text: decoded, without colours and carriage returns, and searched in time linear in its length.

Every pattern here is found by a literal that it contains (str.find, which reads gigabytes a second); its regular
expression sees a short window of the line around that literal and nothing else. A hostile log cannot make it slow.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from planner import strict_json
from planner.errors import InputError

HEAD_BYTES = 8 << 20
TAIL_BYTES = 24 << 20
"""What is read of a log: a start is at the head, what killed it at the tail."""

BEFORE, AFTER = 400, 2500
"""How much of a line around a literal a pattern sees."""
MAX_HITS = 1000
"""Of one literal, from each end of the log."""

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]{0,500}(?:\x07|\x1b\\)|\^\[\[[0-9;]{0,12}m")
"""Also as `cat -v` and copied terminals show them: ^[[0;36m."""
_PROCESS = re.compile(r"\(([A-Za-z]\w{0,60})(?: rank=(\d{1,5}))?,? pid=\d{1,9}")
_JSON_LINE = re.compile(r'^\{".*\}$', re.MULTILINE)
_MAX_JSON_LINE = 1 << 20
_JSON_KEYS = ("log", "message", "msg", "textPayload")
"""Where docker's json-file driver, vLLM's JSON format (logging_utils/formatter.py) and clouds keep a line."""


def read_log(path: Path) -> str:
    """The text of a log file; of one beyond 32 MiB, its head and tail. InputError when it cannot be read."""
    where = str(path)
    with strict_json.open_regular(path, where) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            content = file.read(HEAD_BYTES + TAIL_BYTES if size <= HEAD_BYTES + TAIL_BYTES else HEAD_BYTES)
            if size > HEAD_BYTES + TAIL_BYTES:
                file.seek(size - TAIL_BYTES)
                content += b"\n" + file.read(TAIL_BYTES)
        except OSError as error:
            raise InputError(f"{where}: cannot be read ({error.strerror})") from None
    return decode(content)


def decode(content: bytes) -> str:
    """UTF-8, or UTF-16 as PowerShell redirects it; what is neither is replaced."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    return content.decode("utf-8-sig", errors="replace")


def normalised(text: str) -> str:
    """Without colours, one record a line; progress bars end a line each time they are redrawn."""
    limit = HEAD_BYTES + TAIL_BYTES
    if len(text) > limit:
        text = f"{text[:HEAD_BYTES]}\n{text[-TAIL_BYTES:]}"
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\x1b" in text or "^[[" in text:
        text = _COLOURS.sub("", text)
    return _JSON_LINE.sub(_unwrapped, text) if '{"' in text else text


def _unwrapped(match: re.Match[str]) -> str:
    """The message inside a line of JSON; any other line as it is."""
    line = match[0]
    if len(line) > _MAX_JSON_LINE:
        return line
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return line
    message = next((record[key] for key in _JSON_KEYS if isinstance(record.get(key), str)), None)
    return line if message is None else message.rstrip("\n")


@dataclass(frozen=True)
class Hit:
    """Where a pattern matched."""

    match: re.Match[str]
    position: int
    """Of the match, in the log."""

    def groups(self) -> dict[str, str]:
        """The pattern's named groups that have matched."""
        return {name: value for name, value in self.match.groupdict().items() if value is not None}


class Log:
    """A normalised log that patterns are looked up in."""

    def __init__(self, text: str, first_line: int = 1) -> None:
        self.text = text
        self.first_line = first_line

    def positions(self, literal: str) -> Iterator[int]:
        """Where the literal occurs, in order; of too many, the first and the last."""
        first: list[int] = []
        position = self.text.find(literal)
        while position >= 0 and len(first) < MAX_HITS:
            first.append(position)
            position = self.text.find(literal, position + 1)
        yield from first
        if position < 0:
            return
        last: list[int] = []
        position = self.text.rfind(literal, first[-1] + 1)
        while position > first[-1] and len(last) < MAX_HITS:
            last.append(position)
            position = self.text.rfind(literal, first[-1] + 1, position)
        yield from reversed(last)

    def hits(self, literal: str, pattern: re.Pattern[str]) -> Iterator[Hit]:
        """Every match of the pattern in a line around the literal, each once."""
        seen = -1
        for position in self.positions(literal):
            start, window = self.window(position)
            match = pattern.search(window)
            if match is not None and start + match.start() > seen:
                seen = start + match.start()
                yield Hit(match, seen)

    def first(self, literal: str, pattern: re.Pattern[str]) -> Hit | None:
        """The first line that holds the literal and matches the pattern; None where there is none."""
        return next(self.hits(literal, pattern), None)

    def window(self, position: int, before: int = BEFORE, after: int = AFTER) -> tuple[int, str]:
        """(where it begins, the line around a position, cut on both sides)."""
        low = max(0, position - before)
        start = max(low, self.text.rfind("\n", low, position) + 1)
        end = self.text.find("\n", position, position + after)
        return start, self.text[start : end if end >= 0 else position + after]

    def line(self, position: int, limit: int = 600) -> str:
        """The rest of the line from a position on."""
        return self.window(position, 0, limit)[1]

    def process(self, position: int) -> str | None:
        """The process that a line says it comes from: EngineCore_DP0, Worker_TP1, VllmWorker rank 3."""
        _, window = self.window(position, BEFORE, 0)
        named = _PROCESS.findall(window)
        if not named:
            return None
        name, rank = named[-1]
        return f"{name} rank {rank}" if rank else str(name)

    def line_number(self, position: int) -> int:
        """The line, counted from 1 in the whole file, of a position in this part of the text."""
        return self.text.count("\n", 0, position) + self.first_line
