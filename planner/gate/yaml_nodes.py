"""YAML from strangers as a tree that knows its lines: safe tags only, bounded depth and size, aliases shared.

Built from PyYAML's events, which come one after another whatever the nesting, so neither a deep document nor a bomb of
aliases costs more than its limit. Every fault is an InputError of one line that says where.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from planner.errors import InputError
from planner.text import printable, shown

MAX_DEPTH = 60
"""Mappings and lists within each other; a rendered StatefulSet has about 15."""
MAX_NODES = 200_000
"""Values of a document, those of an alias counted each time. The largest rendered charts have some ten thousand."""
MAX_DOCUMENTS = 2_000


@dataclass(frozen=True, eq=False)
class Node:
    """A value with the lines (from 1) that it takes in the file."""

    line: int
    end_line: int


@dataclass(frozen=True, eq=False)
class Scalar(Node):
    """A text, number, flag or null, with the place where it stands."""

    text: str
    """As written, without quotes."""
    quoted: bool = False
    """Whether it is text whatever it looks like."""
    first_line: int = 0
    """The line of the first line of text: below a | or >, else `line`."""
    folded: bool = False
    """Whether lines of the text are no longer lines of the file."""

    @property
    def is_null(self) -> bool:
        """Whether YAML reads it as null: empty, ~ or null without quotes."""
        return not self.quoted and self.text in _NULLS

    @property
    def value(self) -> Any:
        """str, int, float, bool or None as YAML 1.1 reads it; a date stays text."""
        return self.text if self.quoted else _typed(self.text)


@dataclass(frozen=True, eq=False)
class Sequence(Node):
    """A list, with the place where it stands."""

    items: tuple[AnyNode, ...] = ()


@dataclass(frozen=True, eq=False)
class Table(Node):
    """A mapping, merge keys resolved."""

    entries: Mapping[str, AnyNode] = field(default_factory=dict)
    key_lines: Mapping[str, int] = field(default_factory=dict)

    def get(self, *path: str) -> AnyNode | None:
        """The value at a path of keys; None where there is none."""
        node: AnyNode | None = self
        for key in path:
            node = node.entries.get(key) if isinstance(node, Table) else None
        return node

    def table(self, *path: str) -> Table:
        """The mapping at a path, empty where there is none."""
        node = self.get(*path)
        return node if isinstance(node, Table) else Table(self.line, self.line)

    def items(self, *path: str) -> tuple[AnyNode, ...]:
        """The items of the list at a path, none where there is no list."""
        node = self.get(*path)
        return node.items if isinstance(node, Sequence) else ()

    def tables(self, *path: str) -> tuple[Table, ...]:
        """The mappings in the list at a path."""
        return tuple(item for item in self.items(*path) if isinstance(item, Table))

    def text(self, *path: str) -> str | None:
        """The text of the scalar at a path, as written; None where there is none, or null."""
        node = self.get(*path)
        return node.text if isinstance(node, Scalar) and not node.is_null else None

    def number(self, *path: str) -> int | None:
        """The whole number at a path, quoted or not; None where there is none."""
        text = self.text(*path)
        return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else None


AnyNode = Scalar | Sequence | Table


def documents(text: str, where: str) -> list[AnyNode]:
    """The documents of a YAML text, those that are empty left out."""
    builder = _Builder(where)
    try:
        for event in yaml.parse(text.translate(_OTHER_BREAKS), _LOADER):
            builder.add(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        raise InputError(
            f"{where}{line}: not YAML, {printable(error.problem or error.context or 'unreadable')}"
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # a character that YAML does not allow
        raise InputError(f"{where}: not YAML, {printable(str(error).splitlines()[0])}") from None
    return builder.documents


def documents_in(node: Scalar) -> list[AnyNode]:
    """The documents of a YAML text within a YAML file, at their lines of the file; none where it cannot be read."""
    if node.folded:
        return []
    try:
        return documents("\n" * (node.first_line - 1) + node.text, "")
    except InputError:
        return []


def plain(node: AnyNode) -> Any:
    """The value without its lines."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return {key: plain(value) for key, value in node.entries.items()}


def walk(node: AnyNode) -> Iterator[AnyNode]:
    """The node and everything in it, each shared node once."""
    seen: set[int] = set()
    queue = [node]
    while queue:
        node = queue.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, Sequence):
            queue.extend(reversed(node.items))
        elif isinstance(node, Table):
            queue.extend(reversed(list(node.entries.values())))


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_OTHER_BREAKS = dict.fromkeys((0x0D, 0x85, 0x2028, 0x2029), " ")
"""What ends a line for YAML 1.1 and for no editor: lines would be counted otherwise than everywhere else."""
_MERGE = "<<"
_NULLS = ("", "~", "null", "Null", "NULL")


@dataclass
class _Open:
    """A mapping or list whose end has not come yet."""

    start: int
    anchor: str | None
    is_table: bool
    children: list[tuple[AnyNode, int]] = field(default_factory=list)
    """(value, its size); in a mapping, keys and values by turns."""


class _Builder:
    def __init__(self, where: str) -> None:
        self.where = where
        self.documents: list[AnyNode] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[AnyNode, int] | None] = {}
        """None: begun, not ended."""

    def add(self, event: Any) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._put(_scalar(event), 1, event.anchor)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._begin(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end(event)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._anchors = {}
            if len(self.documents) >= MAX_DOCUMENTS:
                raise self._fault(event, f"more than {MAX_DOCUMENTS:,} documents in one file")

    def _begin(self, event: Any) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise self._fault(event, f"nested more than {MAX_DEPTH} levels deep")
        if event.anchor:
            self._anchors[event.anchor] = None
        self._open.append(_Open(event.start_mark.line + 1, event.anchor, isinstance(event, yaml.MappingStartEvent)))

    def _end(self, event: Any) -> None:
        done = self._open.pop()
        size = 1 + sum(child for _, child in done.children)
        if size > MAX_NODES:
            raise self._fault(event, f"holds more than {MAX_NODES:,} values, those of aliases counted each time")
        nodes = [node for node, _ in done.children]
        end = max((node.end_line for node in nodes if node.end_line >= done.start), default=done.start)
        if done.is_table:
            self._put(self._table(done.start, end, nodes), size, done.anchor)
        else:
            self._put(Sequence(done.start, end, tuple(nodes)), size, done.anchor)

    def _alias(self, event: Any) -> None:
        if event.anchor not in self._anchors:
            raise self._fault(event, f"unknown alias *{printable(event.anchor)}")
        found = self._anchors[event.anchor]
        if found is None:
            raise self._fault(event, f"*{printable(event.anchor)} stands within its own anchor")
        self._put(*found, None)

    def _put(self, node: AnyNode, size: int, anchor: str | None) -> None:
        if anchor:
            self._anchors[anchor] = node, size
        if self._open:
            self._open[-1].children.append((node, size))
        elif not (isinstance(node, Scalar) and node.is_null):
            self.documents.append(node)

    def _table(self, start: int, end: int, nodes: list[AnyNode]) -> Table:
        entries: dict[str, AnyNode] = {}
        lines: dict[str, int] = {}
        merged: list[AnyNode] = []
        for key, value in zip(nodes[::2], nodes[1::2], strict=True):
            if not isinstance(key, Scalar):
                raise InputError(f"{self.where}:{key.line}: a key must be text, not a list or a mapping")
            if key.text == _MERGE:
                merged += value.items if isinstance(value, Sequence) else [value]
            elif key.text in entries:
                raise InputError(
                    f"{self.where}:{key.line}: has the key {shown(key.text)} twice in one mapping; keep one"
                )
            else:
                entries[key.text], lines[key.text] = value, key.line
        for source in merged:
            if not isinstance(source, Table):
                raise InputError(f"{self.where}:{source.line}: << takes a mapping or a list of mappings")
            for name, value in source.entries.items():
                if name not in entries:
                    entries[name], lines[name] = value, source.key_lines[name]
        return Table(start, end, entries, lines)

    def _fault(self, event: Any, what: str) -> InputError:
        return InputError(f"{self.where}:{event.start_mark.line + 1}: {what}")


_RESOLVER: Any = yaml.SafeLoader("")
_KEPT_AS_TEXT = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value", "tag:yaml.org,2002:merge"}


def _scalar(event: Any) -> Scalar:
    line = event.start_mark.line + 1
    last = event.end_mark.line + (1 if event.end_mark.column else 0)
    block = event.style in ("|", ">")
    folded = event.style == ">" or (not block and last > line)
    return Scalar(
        line,
        max(line, last),
        text=event.value,
        quoted=not event.implicit[0],
        first_line=line + 1 if block else line,
        folded=folded,
    )


def _typed(text: str) -> Any:
    """A plain scalar by YAML 1.1's rules; text for what they cannot read."""
    tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))
    if tag in _KEPT_AS_TEXT or len(text) > 400:
        return text
    try:
        return _RESOLVER.construct_object(yaml.ScalarNode(tag, text), deep=True)
    except (yaml.YAMLError, ValueError, OverflowError):
        return text
