"""What a person uploads: data, limited in size; a config.json is kept in a private folder until the server ends."""

from __future__ import annotations

import hashlib
import re
import tempfile
from functools import cache
from pathlib import Path

from planner import strict_json
from planner.errors import InputError
from planner.text import printable

MAX_BYTES = 5 << 20
"""The largest real config.json, of a model with a scheme for each layer, has 3 MB."""


def keep(name: str, content: bytes) -> str:
    """The path under which the planner finds it. InputError when it is too large or no JSON object."""
    where = printable(name, 60)
    if len(content) > MAX_BYTES:
        raise InputError(f"{where}: has {len(content) >> 20} MiB, more than the {MAX_BYTES >> 20} MiB that are read")
    strict_json.parse_object(content, where, infinity=True)
    folder = Path(_folder().name) / hashlib.sha256(content).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    path = folder / "config.json"
    path.write_bytes(content)
    return str(path)


def named(text: str) -> str:
    """A sentence for people: an uploaded file by what it is instead of by the path under which it is kept."""
    return re.sub(_kept() + r"/config\.json", "the uploaded config.json", text)


def as_path(text: str) -> str:
    """What is to be taken along, a command or a plan: an uploaded file's folder as a path to put one's own in."""
    return re.sub(_kept(), "/path/to/model", text)


def _kept() -> str:
    return re.escape(_folder().name) + r"/\w+"


def decoded(name: str, content: bytes) -> str:
    """An uploaded text. InputError when it is none."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{printable(name, 60)}: not UTF-8 text (byte {error.start})") from None


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="vllm-fit-")
