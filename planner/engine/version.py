"""vLLM versions: which are known, and how one is read from text."""

from __future__ import annotations

import re
from typing import NamedTuple

from planner.errors import InputError


class VllmVersion(NamedTuple):
    """A release of vLLM; compares with plain tuples: `version >= (0, 28)`."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


NEWEST = VllmVersion(0, 33, 0)
OLDEST = VllmVersion(0, 6, 0)


def parse_version(text: str) -> VllmVersion:
    """ "0.26.0", "v0.26.0", "0.26", "0.26.1rc1.dev608" -> VllmVersion. InputError when unknown or too old."""
    match = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", text.strip())
    if not match:
        raise InputError(f"vllm_version {text!r}: not a version; pass one like {NEWEST}")
    version = VllmVersion(int(match[1]), int(match[2]), int(match[3] or 0))
    if version < OLDEST:
        raise InputError(f"vllm_version {text}: older than {OLDEST}, whose memory rules are not known here")
    if version[:2] > NEWEST[:2]:
        raise InputError(f"vllm_version {text}: newer than {NEWEST}, the newest known; pass --vllm-version {NEWEST}")
    return version
