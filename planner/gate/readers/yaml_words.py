"""Values of a YAML tree as the words of a command line, each with its line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence

from planner.gate.launch import Word
from planner.gate.yaml_nodes import AnyNode, Scalar, Table
from planner.gate.yaml_nodes import Sequence as List

Variables = Mapping[str, str | None]
"""None: set to something that the file does not say."""
Replace = Callable[[str], tuple[str, str | None]]
"""A text -> (the text with its variables replaced, the first one that stays unknown, as written)."""


def as_written(text: str) -> tuple[str, str | None]:
    """Where nothing is replaced."""
    return text, None


def listed(nodes: Sequence[AnyNode], replace: Replace = as_written) -> list[Word]:
    """One word for each item of a list."""
    return [word_of(node, replace) for node in nodes if isinstance(node, Scalar)]


def word_of(node: Scalar, replace: Replace = as_written) -> Word:
    """A scalar as a word of a command, its line kept, its variables replaced."""
    text, unknown = replace(node.text)
    return Word(text=text, line=node.first_line, unknown=unknown)


def split(node: Scalar, replace: Replace, lines: Sequence[str]) -> list[Word]:
    """The words of a text that is split as a shell splits, but by no shell: compose's `command`, an environment
    variable of arguments. lines: those of the file, to find each word's own.
    """
    text, _ = replace(node.text)
    text = _TEMPLATE.sub(lambda found: "{{" + re.sub(r"\s+", "", found[1]) + "}}", text)  # one word, not three
    try:
        found = shlex.split(text, comments=False)
    except ValueError:  # a quote that nothing closes
        found = text.split()
    words = []
    line = node.first_line
    for word in found:
        line = _line_of(word, lines, line, node.end_line)
        unknown = _UNKNOWN.search(word)
        words.append(Word(text=word, line=line, unknown=unknown[0] if unknown else None))
    return words


def environment_of(node: AnyNode | None, replace: Replace = as_written) -> dict[str, str | None]:
    """Variables as a mapping (compose, CI), as "NAME=value" in a list (compose), or as name and value (Kubernetes)."""
    found: dict[str, str | None] = {}
    if isinstance(node, Table):
        for name, value in node.entries.items():
            found[name] = _value(value, replace)
    elif isinstance(node, List):
        for item in node.items:
            if isinstance(item, Scalar):
                name, equals, content = item.text.partition("=")
                text, unknown = replace(content)
                found[name] = text if equals and unknown is None else None
            elif isinstance(item, Table) and (named := item.text("name")) is not None:
                found[named] = _value(item.get("value"), replace)
    return found


def over(upper: Table, lower: Table) -> Table:
    """A mapping over another: mappings in them merge, everything else of the upper one replaces."""
    entries = dict(lower.entries)
    for key, value in upper.entries.items():
        old = entries.get(key)
        entries[key] = over(value, old) if isinstance(value, Table) and isinstance(old, Table) else value
    return Table(upper.line, upper.end_line, entries, {**lower.key_lines, **upper.key_lines})


def _value(node: AnyNode | None, replace: Replace) -> str | None:
    if isinstance(node, Table):  # GitLab's {value: …, description: …}
        node = node.get("value")
    if not isinstance(node, Scalar) or node.is_null:
        return None
    text, unknown = replace(node.text)
    return text if unknown is None else None


def _line_of(word: str, lines: Sequence[str], first: int, last: int) -> int:
    """The first line from `first` on that holds the word, or what it begins with."""
    head = re.split(r"[\"'$\\]", word)[0][:40]
    if not head:
        return first
    return next((line for line in range(first, min(last, len(lines)) + 1) if head in lines[line - 1]), first)


_TEMPLATE = re.compile(r"\{\{([^{}]*)\}\}")
_UNKNOWN = re.compile(r"\$\{?\w+\}?|\{\{.*?\}\}")
