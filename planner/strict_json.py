"""JSON read as data from strangers: bounded, UTF-8, without NaN, duplicate keys or endless nesting.

Every fault is an InputError of one line that begins with where it was found.
"""

from __future__ import annotations

import json
import math
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from planner.errors import InputError
from planner.text import printable, shown

MAX_BYTES = 20 << 20
"""The largest file read. The largest real config.json, of a model with a scheme for each layer, has 3 MB."""
MAX_DEPTH = 100
"""Objects and lists within each other; real configs have under 10."""


def read_object(path: Path, where: str | None = None, *, infinity: bool = False) -> dict[str, Any]:
    """The object in a JSON file; `where` names the file in messages (default: its path)."""
    where = where or printable(path)
    return parse_object(read_bytes(path, where), where, infinity=infinity)


def parse_object(text: str | bytes, where: str, *, infinity: bool = False) -> dict[str, Any]:
    """The object that a JSON text is."""
    value = parse(text, where, infinity=infinity)
    if not isinstance(value, dict):
        raise InputError(f"{where}: must hold a JSON object {{…}}, holds {shown(value)}")
    return value


def parse(text: str | bytes, where: str, *, infinity: bool = False) -> Any:
    """Any JSON value. `infinity` lets Infinity pass, which Python writes and real configs hold (time_step_limit)."""
    if isinstance(text, bytes):
        text = _decode(text, where)
    if len(text) > MAX_BYTES:
        raise InputError(f"{where}: has more than the {MAX_BYTES >> 20} MiB that are read")
    if text.startswith("\ufeff"):
        raise InputError(f"{where}: begins with a byte-order mark, which JSON does not allow; save it as plain UTF-8")
    if not text.strip():
        raise InputError(f"{where}: is empty; it must hold JSON")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_not_nan if infinity else _no_constant,
            parse_float=_finite,
            parse_int=_bounded_int,
        )
    except _FaultError as fault:
        raise InputError(f"{where}: {fault}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON, {error.msg} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise _too_deep(where) from None
    # Counting brackets, some of them in strings, is far cheaper than walking, and settles nearly every file.
    if text.count("{") + text.count("[") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise _too_deep(where)
    return value


def read_text(path: Path, where: str) -> str:
    """A text file that need not be JSON, in the same bounds."""
    return _decode(read_bytes(path, where), where)


def read_bytes(path: Path, where: str, limit: int = MAX_BYTES) -> bytes:
    """A regular file of at most `limit` bytes, refused by its size before anything is read."""
    with open_regular(path, where) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise InputError(f"{where}: has {size >> 20} MiB, more than the {limit >> 20} MiB that are read")
        try:
            content = file.read(limit + 1)
        except OSError as error:
            raise InputError(f"{where}: cannot be read ({_reason(error)})") from None
    if len(content) > limit:  # it grew meanwhile
        raise InputError(f"{where}: has more than the {limit >> 20} MiB that are read")
    return content


def open_regular(path: Path, where: str) -> BinaryIO:
    """An ordinary file, opened; not a folder, nor a pipe or device, which could give bytes for ever."""
    try:
        # Not blocking: opening a named pipe would wait for its writer.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"{where}: cannot be read ({_reason(error)})") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise InputError(
            f"{where}: is a folder; pass a file" if stat.S_ISDIR(mode) else f"{where}: is not a regular file"
        )
    return os.fdopen(descriptor, "rb")


@contextmanager
def open_lines(source: str) -> Iterator[Iterator[str]]:
    """The lines of a file, or of standard input for "-"; of one longer than MAX_BYTES, so much that `parse` refuses it.

    What is not UTF-8 comes as surrogates, which `parse` passes into strings: a wrong line is that line's fault alone.
    """
    if source == "-":
        yield _bounded_lines(sys.stdin.buffer, "standard input")
        return
    where = printable(source)
    with open_regular(Path(source), where) as file:
        yield _bounded_lines(file, where)


def _bounded_lines(file: BinaryIO, where: str) -> Iterator[str]:
    try:
        while line := file.readline(MAX_BYTES + 1):
            yield line.decode("utf-8", "surrogateescape")
            while len(line) > MAX_BYTES and not line.endswith(b"\n"):
                line = file.readline(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({_reason(error)})") from None


class _FaultError(Exception):
    """What is wrong, found inside a parser hook that does not know where."""


def _decode(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text (byte {error.start})") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _FaultError(f"has the key {shown(key)} twice in one object; keep one")
            seen.add(key)
    return values


def _no_constant(name: str) -> NoReturn:
    raise _FaultError(f"holds {name}, which JSON does not allow; give a number or null")


def _not_nan(name: str) -> float:
    if name == "NaN":
        _no_constant(name)
    return float(name)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _FaultError(f"holds the number {shown(digits)[1:-1]}, too large for any computer")
    return value


def _bounded_int(digits: str) -> int:
    if len(digits) > 400:  # Python needs quadratic time for long ones, and refuses from 4300 digits on
        raise _FaultError(f"holds a whole number of {len(digits)} digits")
    return int(digits)


def _deeper_than(value: object, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        following: list[object] = []
        for item in level:
            if isinstance(item, dict):
                following.extend(child for child in item.values() if isinstance(child, (dict, list)))
            elif isinstance(item, list):
                following.extend(child for child in item if isinstance(child, (dict, list)))
        if not following:
            return False
        level = following
    return True


def _too_deep(where: str) -> InputError:
    return InputError(f"{where}: nested more than {MAX_DEPTH} levels deep")


def _reason(error: OSError | ValueError) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(text[:1].lower() + text[1:])
