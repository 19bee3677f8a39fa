"""Makefiles: the recipes of their rules, with the variables that the file itself sets."""

from __future__ import annotations

import re
from collections.abc import Iterable

from planner.gate.bash.walk import launches_in
from planner.gate.command import Context
from planner.gate.launch import Launch
from planner.gate.source import Lookup, Source

_MAX_TEXT = 1 << 16
"""Characters of a recipe, and of a variable."""
_MAX_NESTED = 50
"""Variables within variables."""
_ASSIGNMENT = re.compile(r"\s*(?:export\s+|override\s+)*([\w.\-]+)\s*(:{0,3}=|\?=|\+=|!=)\s*(.*)", re.DOTALL)
_REFERENCE = re.compile(r"\$(?:\$|\(([\w.\-]+)\)|\{([\w.\-]+)\}|\([^()]*\)|[@<^?*%+|])")


def read(source: Source, lookup: Lookup) -> Iterable[Launch]:
    """What the recipes start, with the file's variables expanded."""
    variables, exported = _variables(source.lines)
    expander = _Expander(variables)
    environment = {name: expander.text(variables[name]) for name in exported if name in variables}
    context = Context(source=source, lookup=lookup, line=1, end_line=len(source.lines), environment=environment)
    launches: list[Launch] = []
    for first_line, text in _recipes(source.lines):
        expanded = expander.text(text)
        if "vllm" in expanded.lower():
            launches += launches_in(expanded, context, first_line)
    return launches


def _variables(lines: tuple[str, ...]) -> tuple[dict[str, str], set[str]]:
    """(what the file sets, what it exports); ?= counts as =, since nothing is known of the environment."""
    variables = _defined(lines)
    exported: set[str] = set()
    for _, text in _logical(lines, recipes=False):
        plain = _joined(text)
        named = re.fullmatch(r"\s*export\s+([\w\s]+)", plain)
        if named:
            exported |= set(named[1].split())
        found = _ASSIGNMENT.fullmatch(plain.split(" #")[0])
        if found is None:
            continue
        name, operator, value = found.groups()
        if plain.lstrip().startswith("export"):
            exported.add(name)
        if operator == "!=":
            variables.pop(name, None)
        elif operator == "+=" and name in variables:
            variables[name] = f"{variables[name]} {value}"[:_MAX_TEXT]
        elif operator != "?=" or name not in variables:
            variables[name] = value.rstrip()[:_MAX_TEXT]
    return variables, exported


def _defined(lines: tuple[str, ...]) -> dict[str, str]:
    """Those between `define NAME` and `endef`."""
    found: dict[str, str] = {}
    name: str | None = None
    for line in lines:
        begins = re.fullmatch(r"\s*(?:export\s+|override\s+)?define\s+([\w.\-]+)\s*[:?+!]*=?\s*", line)
        if begins:
            name = begins[1]
            found[name] = ""
        elif line.strip() == "endef":
            name = None
        elif name is not None:
            found[name] = f"{found[name]}\n{line}".lstrip("\n")[:_MAX_TEXT]
    return found


def _recipes(lines: tuple[str, ...]) -> Iterable[tuple[int, str]]:
    """(first line, text without the tab and @ - +) of each line of a recipe, continued ones together."""
    for first_line, text in _logical(lines, recipes=True):
        text = re.sub(r"(?m)^\t", " ", text)
        yield first_line, re.sub(r"^(\s*)[@+\-]+", r"\1", text)


def _logical(lines: tuple[str, ...], *, recipes: bool) -> Iterable[tuple[int, str]]:
    """Lines that belong together by \\ at their ends, those of recipes or the others."""
    index = 0
    while index < len(lines):
        first = index
        while lines[index].endswith("\\") and index + 1 < len(lines):
            index += 1
        index += 1
        if lines[first].startswith("\t") == recipes:
            yield first + 1, "\n".join(lines[first:index])


def _joined(text: str) -> str:
    return re.sub(r"\\\n[ \t]*", " ", text)


class _Expander:
    """$(NAME) replaced; what the file does not set becomes a variable of the shell, which does not know it either."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables
        self._known: dict[str, str] = {}
        self._open: set[str] = set()

    def text(self, text: str) -> str:
        return _REFERENCE.sub(self._replaced, text)[:_MAX_TEXT]

    def _replaced(self, found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if found[0] == "$$":
            return "$"
        if name is None:  # a function, or what only a rule knows
            return "${make_" + re.sub(r"\W+", "_", found[0][1:]).strip("_")[:40] + "}"
        if name not in self.variables or name in self._open or len(self._open) > _MAX_NESTED:
            # Set nowhere, or within itself, which make refuses.
            return "${" + re.sub(r"\W", "_", name) + "}"
        if name not in self._known:
            self._open.add(name)
            self._known[name] = self.text(self.variables[name])
            self._open.discard(name)
        return self._known[name]
