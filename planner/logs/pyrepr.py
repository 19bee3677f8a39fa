"""Python's own printing of arguments read back: `{'a': 1}`, `Namespace(a=1)`, `a=1, dtype=torch.bfloat16`.

What vLLM prints of its engine args is not JSON and not always Python either (`<LoadFormat.AUTO: 'auto'>`,
`dtype=torch.bfloat16`), so it is read by hand, in one pass, and what cannot be read is skipped.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 40
MAX_VALUES = 20_000

_WORDS: dict[str, Any] = {"None": None, "null": None, "True": True, "true": True, "False": False, "false": False}
_NUMBER = re.compile(r"-?\d{1,40}(?:\.\d{0,40})?(?:[eE][+-]?\d{1,3})?(?=[\s,)\]}>]|$)")
_NAME = re.compile(r"[A-Za-z_][\w.]{0,200}(?=\()")
_KEYWORD = re.compile(r"\s*([A-Za-z_]\w{0,100})\s?=(?!=)")
_ENUM = re.compile(r"<\w{1,100}\.(\w{1,100}): ([^<>\n]{0,200})>")
_BARE = re.compile(r"[^,)\]}>\n]{1,1000}")
_OPEN, _CLOSE = "([{<", ")]}>"


class UnreadableError(Exception):
    """A value that is not printed in a way known here."""


def read_dict(text: str, start: int) -> tuple[dict[str, Any], list[str]]:
    """(what the dictionary that opens at `start` holds, the keys whose values could not be read)."""
    return _Reader(text).pairs(start + 1, "}", keyword=False)


def read_keywords(text: str, start: int, close: str = "\n") -> tuple[dict[str, Any], list[str]]:
    """The same of `a=1, b='x'`, up to the closing bracket or the end of the line."""
    return _Reader(text).pairs(start, close, keyword=True)


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.values = 0

    def pairs(self, at: int, close: str, *, keyword: bool) -> tuple[dict[str, Any], list[str]]:
        """The pairs of one level; a value that cannot be read is skipped, and its key told."""
        values: dict[str, Any] = {}
        skipped: list[str] = []
        while True:
            at = self._space(at)
            if at >= len(self.text) or self.text[at] in (close, "\n"):
                return values, skipped
            try:
                key, at = self._keyword(at) if keyword else self._key(at)
            except UnreadableError:
                return values, skipped
            try:
                values[key], end = self._value(at, 0)
                if self._space(end) < len(self.text) and self.text[self._space(end)] not in f",{close}\n":
                    raise UnreadableError
            except UnreadableError:
                values.pop(key, None)
                skipped.append(key)
                end = self._skip(at)
            at = self._space(end)
            at += at < len(self.text) and self.text[at] == ","

    def _space(self, at: int) -> int:
        while at < len(self.text) and self.text[at] in " \t":
            at += 1
        return at

    def _blank(self, at: int) -> int:
        while at < len(self.text) and self.text[at] in " \t\n":
            at += 1
        return at

    def _keyword(self, at: int) -> tuple[str, int]:
        match = _KEYWORD.match(self.text, at)
        if match is None:
            raise UnreadableError
        return match[1], match.end()

    def _key(self, at: int) -> tuple[str, int]:
        key, at = self._value(at, 0)
        at = self._blank(at)
        if at >= len(self.text) or self.text[at] != ":" or not isinstance(key, str | int | float):
            raise UnreadableError
        return str(key)[:200], at + 1

    def _value(self, at: int, depth: int) -> tuple[Any, int]:
        self.values += 1
        at = self._blank(at)
        if depth > MAX_DEPTH or self.values > MAX_VALUES or at >= len(self.text):
            raise UnreadableError
        first = self.text[at]
        if first in "'\"":
            return self._string(at)
        if first in "[(":
            return self._items(at + 1, ")" if first == "(" else "]", depth)
        if first == "{":
            return self._braces(at + 1, depth)
        if first == "<":
            return self._enum(at)
        if match := _NUMBER.match(self.text, at):
            return _number(match[0]), match.end()
        if match := _NAME.match(self.text, at):
            return self._call(match.end() + 1, depth)
        return self._bare(at)

    def _string(self, at: int) -> tuple[str, int]:
        quote, end = self.text[at], at + 1
        while end < len(self.text) and self.text[end] != quote:
            if self.text[end] == "\n":
                raise UnreadableError
            end += 2 if self.text[end] == "\\" else 1
        if end >= len(self.text):
            raise UnreadableError
        literal = self.text[at : end + 1]
        if "\\" not in literal:
            return literal[1:-1], end + 1
        try:
            return str(ast.literal_eval(literal)), end + 1
        except (ValueError, SyntaxError, MemoryError):
            raise UnreadableError from None

    def _items(self, at: int, close: str, depth: int) -> tuple[list[Any], int]:
        items: list[Any] = []

        def entry(at: int) -> int:
            item, at = self._value(at, depth + 1)
            items.append(item)
            return at

        return items, self._until(close, at, entry)

    def _braces(self, at: int, depth: int) -> tuple[Any, int]:
        """A dictionary, or a set as a list."""
        pairs: dict[str, Any] = {}
        items: list[Any] = []

        def entry(at: int) -> int:
            item, at = self._value(at, depth + 1)
            at = self._blank(at)
            if self.text[at : at + 1] == ":":
                pairs[str(item)[:200]], at = self._value(at + 1, depth + 1)
            else:
                items.append(item)
            return at

        at = self._until("}", at, entry)
        return items or pairs, at

    def _until(self, close: str, at: int, entry: Callable[[int], int]) -> int:
        """Reads entries with commas between them, each by `entry`; what follows the closing bracket."""
        while True:
            at = self._blank(at)
            if self.text[at : at + 1] == close:
                return at + 1
            at = self._blank(entry(at))
            if self.text[at : at + 1] == ",":
                at += 1
            elif self.text[at : at + 1] != close:
                raise UnreadableError

    def _enum(self, at: int) -> tuple[Any, int]:
        """`<LoadFormat.AUTO: 'auto'>` is 'auto'; of a value that is neither text nor number, the name."""
        match = _ENUM.match(self.text, at)
        if match is None:
            raise UnreadableError
        try:
            value, _ = _Reader(match[2])._value(0, MAX_DEPTH)
        except UnreadableError:
            value = None
        return value if isinstance(value, str | int) else match[1], match.end()

    def _call(self, at: int, depth: int) -> tuple[Any, int]:
        """`Config(a=1)` as {"a": 1}; `PosixPath('x')` as 'x'."""
        pairs: dict[str, Any] = {}
        items: list[Any] = []

        def entry(at: int) -> int:
            if match := _KEYWORD.match(self.text, at):
                pairs[match[1]], at = self._value(match.end(), depth + 1)
            else:
                item, at = self._value(at, depth + 1)
                items.append(item)
            return at

        at = self._until(")", at, entry)
        return (items[0] if len(items) == 1 and not pairs else pairs), at

    def _bare(self, at: int) -> tuple[Any, int]:
        match = _BARE.match(self.text, at)
        if match is None:
            raise UnreadableError
        word = match[0].strip()
        return _WORDS.get(word, word), match.end()

    def _skip(self, at: int) -> int:
        """To the comma or bracket that ends a value, past brackets and strings inside it."""
        depth, quote = 0, ""
        while at < len(self.text) and self.text[at] != "\n":
            character = self.text[at]
            if quote:
                at += character == "\\"
                quote = "" if character == quote else quote
            elif character in "'\"":
                quote = character
            elif character in _OPEN:
                depth += 1
            elif depth == 0 and character in ",)]}":
                break
            elif character in _CLOSE:
                depth -= 1
            at += 1
        return min(at, len(self.text))


def _number(text: str) -> int | float:
    if text.lstrip("-").isdecimal():
        return int(text)
    number = float(text)
    if math.isinf(number):
        raise UnreadableError
    return number
