"""Which modules a checkpoint's lists mean: each of vLLM's ways of matching a module's name against a list.

vLLM matches its own name of a module ("model.layers.3.self_attn.qkv_proj"), and for a fused one the names of its parts
in the checkpoint ("...q_proj"); the parts must agree. Lists are compiled once: most entries are plain names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import translate
from functools import cached_property
from typing import Generic, TypeVar

from planner.errors import InputError, Refusal

Matcher = Callable[[str], bool]
T = TypeVar("T")

_WILD = {*"*?["}
_NUMBER = re.compile(r"\.\d+\.")
_NUMBERS = re.compile(r"(?<=\.)\d+(?=\.)")


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
    """A list of module names and patterns, with vLLM's ways of asking whether it contains a name.

    Published lists name every layer: entries are kept by the layer that they name, so that a name is compared with few.
    """

    def __init__(self, entries: Iterable[str], key: str) -> None:
        self.entries = tuple(entries)
        self.key = key
        _ = self._regexes  # a wrong pattern is found here, not with the first module

    def __bool__(self) -> bool:
        return bool(self.entries)

    @cached_property
    def _plain(self) -> frozenset[str]:
        return frozenset(entry for entry in self.entries if not entry.startswith("re:"))

    @cached_property
    def _regexes(self) -> tuple[re.Pattern[str], ...]:
        return tuple(compiled(entry[3:], self.key) for entry in self.entries if entry.startswith("re:"))

    @cached_property
    def _parts(self) -> ByLayer[str]:
        return ByLayer((entry, entry) for entry in self.entries)

    @cached_property
    def _wildcards(self) -> ByLayer[Matcher]:
        return ByLayer((entry, wildcard(entry)) for entry in self.entries if _WILD & {*entry})

    def exact(self, name: str) -> bool:
        """The name itself is an entry."""
        return name in self._plain

    def inside(self, name: str) -> bool:
        """An entry is a part of the name, anywhere."""
        return any(entry in name for entry in self._parts.near(name))

    def wildcard(self, name: str) -> bool:
        """A shell-style entry matches the whole name."""
        return any(match(name) for match in self._wildcards.near(name))

    def exact_or_regex(self, name: str) -> bool:
        """The name is an entry, or an entry "re:..." matches its start (config_utils.is_equal_or_regex_match)."""
        return name in self._plain or any(regex.match(name) for regex in self._regexes)

    def inside_entries(self, name: str) -> bool:
        """The name is a part of an entry about experts: how an exact list excludes a stack of experts."""
        return any(name in entry for entry in self._about_experts)

    @cached_property
    def _about_experts(self) -> tuple[str, ...]:
        return tuple(entry for entry in self.entries if "experts" in entry)


class ByLayer(Generic[T]):
    """Things filed under a number that stands alone in their name (".12."), which a matching name must contain too."""

    def __init__(self, named: Iterable[tuple[str, T]]) -> None:
        self.anywhere: list[T] = []
        self.by_number: dict[str, list[T]] = {}
        for name, thing in named:
            number = _NUMBER.search(name) if "[" not in name else None
            (self.by_number.setdefault(number[0], []) if number else self.anywhere).append(thing)

    def near(self, name: str) -> Iterator[T]:
        """What may match the name."""
        yield from self.anywhere
        for number in {*_NUMBERS.findall(name)}:
            yield from self.by_number.get(f".{number}.", ())


def wildcard(pattern: str) -> Matcher:
    """A shell-style pattern as a function; the usual ones without a regular expression."""
    head, star, tail = pattern.partition("*")
    if star and not _WILD & {*head, *tail}:
        return lambda name: len(name) >= len(pattern) - 1 and name.startswith(head) and name.endswith(tail)
    matches = re.compile(translate(pattern)).match
    return lambda name: matches(name) is not None


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
