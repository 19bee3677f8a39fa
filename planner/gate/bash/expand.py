"""Words of a script as the shell would expand them, where the script decides it.

What it does not decide stays as written and is marked: "$TP" of a variable that is set nowhere, "$(nvidia-smi …)".
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from planner.gate.bash.parse import MAX_DEPTH, text_of, tree_of
from planner.gate.bash.state import MAX_TEXT, MAX_WORDS, TOO_LONG, State, Value, only_text
from planner.gate.launch import Place, Word

if TYPE_CHECKING:
    from tree_sitter import Node


def expanded(text: str, state: State, line: int) -> Word:
    """A text with $NAME and ${NAME:-default} replaced, as in double quotes; quotes in it are kept."""
    if "$" not in text:
        return Word(text=text, line=line)
    escaped = text.replace('"', '\\"')
    root = tree_of(f'x="{escaped}"', "text")
    assignment = root.named_children[0] if root.named_child_count == 1 else None
    value = assignment.child_by_field_name("value") if assignment is not None else None
    if value is None or root.has_error:
        return Word(text=text, line=line, unknown=text)
    return replace(Expander(state, Lines(line, line)).value(value)[0], line=line)


@dataclass(frozen=True)
class Lines:
    """The lines of a file on which a script stands."""

    first: int
    last: int

    def of(self, row: int) -> int:
        """That of a row of the script: what is put together from variables may have more rows than stand there."""
        return min(self.first + row, self.last)


class Expander:
    """Expands the words of one file in one state."""

    def __init__(self, state: State, lines: Lines, file: str | None = None) -> None:
        self.state, self.lines, self.file = state, lines, file

    def words(self, node: Node) -> list[Word]:
        """An argument: none, one or several words."""
        if node.type == "comment":
            return []
        builder = _Builder(self.lines.of(node.start_point.row), self.file)
        self._add(node, builder, quoted=False, depth=0)
        written = text_of(node)
        place = Place(text=written, line=self.lines.of(node.end_point.row))
        return [word if word.text == written else replace(word, place=place) for word in builder.finish()]

    def value(self, node: Node) -> Value:
        """The right side of an assignment: no splitting; an array's items."""
        if node.type == "array":
            return tuple(word for item in node.named_children for word in self.words(item))[:MAX_WORDS]
        builder = _Builder(self.lines.of(node.start_point.row), self.file)
        self._add(node, builder, quoted=True, depth=0)
        builder.ensure()
        words = builder.finish()
        if len(words) == 1:
            return (words[0],)
        unknown = next((word.unknown for word in words if word.unknown), None)
        return (Word(text=" ".join(word.text for word in words), line=words[0].line, unknown=unknown, file=self.file),)

    def is_set(self, name: str) -> bool:
        """Whether the script or its environment has set the variable."""
        return name in self.state.variables

    def _add(self, node: Node, builder: _Builder, *, quoted: bool, depth: int) -> None:
        if depth > MAX_DEPTH:
            builder.unknown(text_of(node)[:40])
            return
        kind = node.type
        if kind in _LITERAL:
            builder.ensure()
            builder.text(_LITERAL[kind](text_of(node)))
        elif kind == "string":
            if node.named_child_count != 1 or not self._is_empty_list(node.named_children[0]):
                builder.ensure(self.lines.of(node.start_point.row))
            self._inside(node, builder, depth)
        elif kind == "concatenation" or kind == "command_name":
            for child in node.children:
                self._add(child, builder, quoted=quoted, depth=depth + 1)
        elif kind == "simple_expansion":
            self._variable(text_of(node)[1:], text_of(node), builder, quoted=quoted)
        elif kind == "expansion":
            self._expansion(node, builder, quoted=quoted, depth=depth)
        elif kind == "command_substitution" and self.state.gpus is not None and _COUNTS_GPUS.match(text_of(node)):
            builder.ensure()
            builder.text(str(self.state.gpus))
        else:
            builder.ensure()
            builder.unknown(text_of(node))

    def _is_empty_list(self, node: Node) -> bool:
        """ "$@" and "${A[@]}" of nothing are no word at all, not an empty one."""
        written = text_of(node)
        if written in ("$@", "${@}"):
            return self.state.positional == ()
        name = written.removeprefix("${").removesuffix("[@]}")
        return written.endswith("[@]}") and self.state.variables.get(name) == ()

    def _inside(self, node: Node, builder: _Builder, depth: int) -> None:
        """A double-quoted string: what stands between its parts is text too."""
        content = (node.text or b"")[:-1]
        start, at = node.start_byte, 1
        for child in node.children:
            if child.type in ('"', '$"'):
                at = max(at, child.end_byte - start) if child.start_byte == start else at
                continue
            builder.text(_unescape_quoted(content[at : child.start_byte - start].decode("utf-8", "replace")))
            if child.type == "string_content":
                builder.text(_unescape_quoted(text_of(child)))
            else:
                self._add(child, builder, quoted=True, depth=depth + 1)
            at = child.end_byte - start
        builder.text(_unescape_quoted(content[at:].decode("utf-8", "replace")))

    def _variable(self, name: str, written: str, builder: _Builder, *, quoted: bool) -> None:
        value = self._lookup(name)
        if value is None:
            builder.ensure()
            builder.unknown(written)
        else:
            builder.value(value, quoted=quoted, joined=name == "*")

    def _lookup(self, name: str) -> Value | None:
        """None for what the file does not set."""
        if name in ("@", "*"):
            return self.state.positional
        if name.isdigit():
            given = self.state.positional
            return None if given is None or name == "0" else given[int(name) - 1 : int(name)]
        value = self.state.variables.get(name)
        return value if value is None else value[:1] or value

    def _expansion(self, node: Node, builder: _Builder, *, quoted: bool, depth: int) -> None:
        written = text_of(node)
        parts = node.children[1:-1]
        if not parts or parts[0].type in ("#", "!") or node.has_error:
            builder.ensure()
            builder.unknown(written)
            return
        name, rest = parts[0], parts[1:]
        value, joined = self._named(name)
        if not rest:
            if value is None:
                builder.ensure()
                builder.unknown(written)
            else:
                builder.value(value, quoted=quoted, joined=joined)
            return
        operator = rest[0].type
        if operator in _DEFAULTS:
            self._default(operator, value, rest[1:], written, builder, quoted=quoted, depth=depth)
            return
        text = None if value is None else only_text(value)
        change = _CHANGES.get(operator)
        if text is None or change is None:
            builder.ensure()
            builder.unknown(written)
        else:
            pattern = "".join(text_of(part) for part in rest[1:] if part.is_named)
            changed = change(text, pattern) if not re.search(r"[$`\\]", pattern) else None
            builder.ensure()
            builder.text(changed) if changed is not None else builder.unknown(written)

    def _named(self, node: Node) -> tuple[Value | None, bool]:
        """(value, whether its words are joined to one) of NAME, NAME[@], NAME[*] and NAME[2]."""
        if node.type != "subscript":
            name = text_of(node)
            return self._lookup(name), name == "*"
        name_node, index = node.child_by_field_name("name"), node.child_by_field_name("index")
        if name_node is None or index is None:
            return None, False
        whole, key = self.state.variables.get(text_of(name_node)), text_of(index)
        if whole is None or key in ("@", "*"):
            return whole, key == "*"
        return (whole[int(key) : int(key) + 1], False) if key.isdigit() and len(key) < 6 else (None, False)

    def _default(
        self,
        operator: str,
        value: Value | None,
        alternative: list[Node],
        written: str,
        builder: _Builder,
        *,
        quoted: bool,
        depth: int,
    ) -> None:
        """${A:-x} and its like. A variable that the file does not set counts as not set: the default is the file's."""
        known = None if value is None else only_text(value)
        empty = value is None or (known == "" and operator.startswith(":")) or value == ()
        if value is not None and known is None:
            builder.value(value, quoted=quoted)
        elif operator in (":+", "+"):
            if not empty:
                self._alternative(alternative, builder, quoted=quoted, depth=depth)
            elif quoted:
                builder.ensure()
        elif not empty:
            assert value is not None
            builder.value(value, quoted=quoted)
        elif operator in (":?", "?"):
            builder.ensure()
            builder.unknown(written)
        else:
            self._alternative(alternative, builder, quoted=quoted, depth=depth)

    def _alternative(self, nodes: list[Node], builder: _Builder, *, quoted: bool, depth: int) -> None:
        if quoted:
            builder.ensure()
        for node in nodes:
            if quoted or node.type not in ("word", "concatenation"):
                self._add(node, builder, quoted=quoted, depth=depth + 1)
            else:
                one = _Builder(self.lines.of(node.start_point.row), self.file)
                self._add(node, one, quoted=False, depth=depth + 1)
                builder.value(tuple(one.finish()), quoted=False)


_COUNTS_GPUS = re.compile(r"(\$\(|`)\s*nvidia-smi [^|;&]*\|\s*(wc -l|grep -c \w+)\s*(\)|`)$")


class _Builder:
    """Words in the making."""

    def __init__(self, line: int, file: str | None) -> None:
        self.line, self.file = line, file
        self.done: list[Word] = []
        self.parts: list[str] | None = None
        self.size = 0
        self.missing: str | None = None
        self.at: tuple[int, str | None] | None = None

    def ensure(self, line: int | None = None) -> None:
        """There is a word, if only an empty one."""
        if self.parts is None:
            self.parts = []
            self.at = (line if line is not None else self.line, self.file)

    def text(self, text: str) -> None:
        if text:
            self.ensure()
            assert self.parts is not None
            if self.size > MAX_TEXT:
                self.missing = self.missing or TOO_LONG
            else:
                self.parts.append(text)
                self.size += len(text)

    def unknown(self, written: str) -> None:
        self.text(written)
        self.missing = self.missing or written

    def value(self, value: Value, *, quoted: bool, joined: bool = False) -> None:
        """A variable's words: split at white space unless quoted; an array's stay apart."""
        if joined and quoted:
            value = tuple(
                Word(
                    text=word.text if i == 0 else f" {word.text}", line=word.line, unknown=word.unknown, file=word.file
                )
                for i, word in enumerate(value)
            )
        for index, word in enumerate(value):
            if index and not (joined and quoted):
                self.end()
            pieces = [word.text] if quoted or word.unknown == word.text else re.split(r"[ \t\n]+", word.text)
            for number, piece in enumerate(pieces):
                if number:
                    self.end()
                if piece or quoted:
                    fresh = self.parts is None
                    self.ensure()
                    self.text(piece)
                    if fresh:
                        self.at = (word.line, word.file)
                    if word.unknown is not None and (len(pieces) == 1 or word.unknown in piece):
                        self.missing = self.missing or word.unknown

    def end(self) -> None:
        if self.parts is not None and len(self.done) < MAX_WORDS:
            line, file = self.at or (self.line, self.file)
            self.done.append(Word(text="".join(self.parts), line=line, unknown=self.missing, file=file))
        self.parts, self.missing, self.at = None, None, None

    def finish(self) -> list[Word]:
        self.end()
        return self.done


def _unescape(text: str) -> str:
    return re.sub(r"\\(\n|.)", lambda match: "" if match[1] == "\n" else match[1], text, flags=re.DOTALL)


def _unescape_quoted(text: str) -> str:
    return re.sub(r'\\([\n"\\$`])', lambda match: "" if match[1] == "\n" else match[1], text)


_ANSI = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


def _ansi(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: _ANSI.get(match[1], match[0]), text[2:-1], flags=re.DOTALL)


_LITERAL: Mapping[str, Callable[[str], str]] = {
    "word": _unescape,
    "number": str,
    "raw_string": lambda text: text[1:-1],
    "ansi_c_string": _ansi,
    "string_content": _unescape_quoted,
    "extglob_pattern": _unescape,
    "variable_name": str,
    "regex": str,
    "test_operator": str,
}
_DEFAULTS = frozenset((":-", "-", ":=", "=", ":?", "?", ":+", "+"))


_MAX_CUT = 500


def _cut(text: str, pattern: str, *, front: bool, longest: bool) -> str | None:
    """${A#pattern} and its like; None for a text so long that trying every piece of it would take too long."""
    if len(text) > _MAX_CUT:
        return None
    matches = re.compile(fnmatch.translate(pattern)).match
    lengths = range(len(text) + 1)
    for length in reversed(lengths) if longest else lengths:
        piece = text[:length] if front else text[len(text) - length :]
        if matches(piece):
            return text[length:] if front else text[: len(text) - length]
    return text


_CHANGES: Mapping[str, Callable[[str, str], str | None]] = {
    "#": lambda text, pattern: _cut(text, pattern, front=True, longest=False),
    "##": lambda text, pattern: _cut(text, pattern, front=True, longest=True),
    "%": lambda text, pattern: _cut(text, pattern, front=False, longest=False),
    "%%": lambda text, pattern: _cut(text, pattern, front=False, longest=True),
    "^^": lambda text, pattern: None if pattern else text.upper(),
    ",,": lambda text, pattern: None if pattern else text.lower(),
}
"""Operators on a known value; a pattern that itself has variables is not followed."""
