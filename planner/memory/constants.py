"""The few constants that are fitted on measured launches (data/constants.json, written by `vllm-fit fit-constants`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from planner.engine.version import VllmVersion

CONSTANTS = Path(__file__).parent / "data" / "constants.json"


@cache
def constants() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(CONSTANTS.read_text(encoding="utf-8"))
    return loaded


def of_version(entries: Sequence[Mapping[str, Any]], version: VllmVersion, **match: object) -> Mapping[str, Any]:
    """The newest of the matching entries that this version has reached; an entry without a key matches any value."""
    found: Mapping[str, Any] = {}
    for entry in entries:
        start = tuple(int(part) for part in entry["from"].split("."))
        if version >= start and all(entry.get(key, value) == value for key, value in match.items()):
            found = entry
    return found
