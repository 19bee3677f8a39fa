"""The few constants that are fitted on measured launches (data/constants.json, written by `vllm-fit fit-constants`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from planner.engine.version import VllmVersion

CONSTANTS = Path(__file__).parent / "data" / "constants.json"


_instead: list[dict[str, Any]] = []


def constants() -> dict[str, Any]:
    """The content of constants.json (units stand there), or what `using` has put in its place."""
    return _instead[-1] if _instead else _shipped()


@contextmanager
def using(values: dict[str, Any]) -> Iterator[None]:
    """Other constants than the shipped ones, to judge a launch by constants that were fitted without it."""
    _instead.append(values)
    try:
        yield
    finally:
        _instead.pop()


@cache
def _shipped() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(CONSTANTS.read_text(encoding="utf-8"))
    return loaded


def read_again() -> None:
    """After the file was written."""
    _shipped.cache_clear()


def of_version(entries: Sequence[Mapping[str, Any]], version: VllmVersion, **match: object) -> Mapping[str, Any]:
    """The newest of the matching entries that this version has reached; an entry without a key matches any value."""
    found: Mapping[str, Any] = {}
    for entry in entries:
        start = tuple(int(part) for part in entry["from"].split("."))
        if version >= start and all(entry.get(key, value) == value for key, value in match.items()):
            found = entry
    return found
