"""Bash's syntax tree (tree-sitter's, which stands broken scripts), in bounded time."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

from planner.errors import InputError

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

MAX_BYTES = 1 << 20
_SECONDS = 5.0
MAX_DEPTH = 120
"""Statements and words within each other; real scripts have about ten."""


def tree_of(text: str, file: str) -> Node:
    """The root. InputError for a script that takes too long to parse."""
    content = text.encode("utf-8", "surrogatepass")
    if len(content) > MAX_BYTES:
        raise InputError(
            f"{file}: a script of {len(content) >> 10} KiB, more than the {MAX_BYTES >> 10} KiB that are read"
        )
    deadline = time.monotonic() + _SECONDS

    def read(offset: int, _point: object) -> bytes:
        if time.monotonic() > deadline:
            raise InputError(f"{file}: takes too long to parse as a shell script")
        return content[offset : offset + 4096]

    return _parser().parse(content).root_node if len(content) < 1 << 16 else _parser().parse(read).root_node


@cache
def _parser() -> Parser:
    import tree_sitter
    import tree_sitter_bash

    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))


def text_of(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")
