"""Real Hugging Face configs, `ORG--NAME/config.json`, with the source of each in INDEX.jsonl."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from planner.errors import InputError
from planner.text import did_you_mean, nearest, printable

_FOLDER = Path(__file__).parent
_INDEX = "INDEX.jsonl"
_ALIASES = "ALIASES.json"
"""Repositories whose config.json is, in every size, that of a model here: renamed, or another training of it."""


@dataclass(frozen=True, kw_only=True)
class IndexEntry:
    """Where a config comes from and what is known about its parameter count."""

    model: str
    how: str
    """ "verbatim" (a copy of the file) or "reconstructed" (from a model card)."""
    source: str
    check: str
    """How the published count and the one on torch's meta device compare, in words."""
    params_published: int | None = None
    params_meta: int | None = None
    explained: Mapping[str, int] = field(default_factory=dict)
    """What the published count holds beside vLLM's parameters, by cause (tools/explain_parameters.py)."""


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """All models of the catalogue, as `org/name`, sorted."""
    folders = (entry.name for entry in os.scandir(_FOLDER) if "--" in entry.name)
    return tuple(sorted((name.replace("--", "/", 1) for name in folders), key=str.lower))


@lru_cache(maxsize=1)
def index() -> dict[str, IndexEntry]:
    """The index entry of each model."""
    lines = (_FOLDER / _INDEX).read_text(encoding="utf-8").splitlines()
    return {entry.model: entry for entry in (IndexEntry(**json.loads(line)) for line in lines)}


def find(name: str) -> str | None:
    """The catalogue's `org/name` for that, or for `name` alone where one model has it, in any case; None: not here."""
    exact, by_name = _by_key()
    key = name.lower()
    if "/" in key:
        return exact.get(key)
    found = by_name.get(key, ())
    return found[0] if len(found) == 1 else None


def path(name: str) -> Path:
    """The config.json of a model, named as in `find`. InputError, with the nearest names, for one not here."""
    found = find(name)
    if found is not None:
        return _FOLDER / found.replace("/", "--", 1) / "config.json"
    several = _by_key()[1].get(name.lower(), ())
    if several:
        raise InputError(
            f"model {printable(name)} is in the catalogue more than once; pass one of {', '.join(several)}"
        )
    raise InputError(f"model {printable(name)} is not in the catalogue{suggestion(name)}")


def suggestion(name: str) -> str:
    """ "; did you mean …?" with the catalogue's names nearest to `name`, or ""."""
    if "/" in name:
        return did_you_mean(nearest(name, names()))
    by_short = {model.split("/", 1)[1]: model for model in names()}
    return did_you_mean([by_short[short] for short in nearest(name, by_short)])


@lru_cache(maxsize=1)
def _by_key() -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    exact: dict[str, str] = {}
    by_name: dict[str, tuple[str, ...]] = {}
    for model in names():
        exact[model.lower()] = model
        short = model.split("/", 1)[1].lower()
        by_name[short] = (*by_name.get(short, ()), model)
    for alias, model in json.loads((_FOLDER / _ALIASES).read_text(encoding="utf-8")).items():
        exact.setdefault(alias.lower(), model)
        by_name.setdefault(alias.split("/", 1)[1].lower(), (model,))
    return exact, by_name
