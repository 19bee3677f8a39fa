"""Which modules a checkpoint's lists mean: each of vLLM's ways of matching a module's name against a list.

vLLM matches its own name of a module ("model.layers.3.self_attn.qkv_proj"), and for a fused one the names of its parts
in the checkpoint ("...q_proj"); the parts must agree. Lists are compiled once: most entries are plain names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import translate
from functools import cached_property

from planner.errors import InputError, Refusal

Matcher = Callable[[str], bool]


def shard_names(name: str, packed: Sequence[str]) -> tuple[str, ...]:
    """The checkpoint's names of a fused module's parts; vLLM replaces the last component wherever it occurs."""
    last = name.rsplit(".", 1)[-1]
    return tuple(name.replace(last, part) for part in packed)


def compiled(pattern: str, key: str) -> re.Pattern[str]:
    """A regular expression from a config; InputError where it is none."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"{key}: {pattern!r} is not a regular expression: {error}") from None


class NameList:
    """A list of module names and patterns, with vLLM's ways of asking whether it contains a name."""

    def __init__(self, entries: Iterable[str], key: str) -> None:
        self.entries = tuple(entries)
        self.key = key

    def __bool__(self) -> bool:
        return bool(self.entries)

    @cached_property
    def _plain(self) -> frozenset[str]:
        return frozenset(entry for entry in self.entries if not entry.startswith("re:"))

    @cached_property
    def _regexes(self) -> tuple[re.Pattern[str], ...]:
        return tuple(compiled(entry[3:], self.key) for entry in self.entries if entry.startswith("re:"))

    @cached_property
    def _anywhere(self) -> re.Pattern[str] | None:
        return re.compile("|".join(map(re.escape, self.entries))) if self.entries else None

    @cached_property
    def _wildcards(self) -> re.Pattern[str] | None:
        patterns = [translate(entry) for entry in self.entries if any(c in entry for c in "*?[")]
        return re.compile("|".join(patterns)) if patterns else None

    def exact(self, name: str) -> bool:
        """The name itself is an entry."""
        return name in self._plain

    def inside(self, name: str) -> bool:
        """An entry is a part of the name, anywhere."""
        return self._anywhere is not None and self._anywhere.search(name) is not None

    def wildcard(self, name: str) -> bool:
        """A shell-style entry matches the whole name."""
        return self._wildcards is not None and self._wildcards.match(name) is not None

    def exact_or_regex(self, name: str) -> bool:
        """The name is an entry, or an entry "re:..." matches its start (config_utils.is_equal_or_regex_match)."""
        return name in self._plain or any(regex.match(name) for regex in self._regexes)

    def inside_entries(self, name: str) -> bool:
        """The name is a part of an entry about experts: how an exact list excludes a stack of experts."""
        return any(name in entry for entry in self.entries if "experts" in entry)


def skipped(names: NameList, match: Matcher, name: str, packed: Sequence[str]) -> bool:
    """quant_utils.is_layer_skipped (0.33): the fused name counts, else all parts or none of them."""
    if not names:
        return False
    if packed:
        return match(name) or all_or_none([match(shard) for shard in shard_names(name, packed)], name)
    if "experts" in name and match == names.exact:
        return names.inside_entries(name)
    return match(name)


def all_or_none(parts: Sequence[bool], name: str) -> bool:
    """What is said of all parts of a fused module; a Refusal where they differ, in vLLM's words."""
    if any(parts) and not all(parts):
        raise Refusal(
            "mixed_fused_layer",
            f"Detected some but not all shards of {name} are quantized. All shards of fused layers to have the "
            "same precision.",
            "--quantization",
        )
    return all(parts)


def renamed(name: str, prefixes: Sequence[tuple[str, str]]) -> str:
    """A checkpoint's name with its prefix replaced, each rule in turn (models/utils.py WeightsMapper)."""
    for old, new in prefixes:
        if name.startswith(old):
            name = name.replace(old, new, 1)
    return name
