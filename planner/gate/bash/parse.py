"""Bash's syntax tree (tree-sitter's, which stands broken scripts), in bounded time."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from planner.errors import InputError

if TYPE_CHECKING:
    from tree_sitter import Language, Node

MAX_BYTES = 256 << 10
"""What takes the parser about a second at worst."""
MAX_DEPTH = 120
"""Statements and words within each other; real scripts have about ten."""


def tree_of(text: str, file: str) -> Node:
    """The root. InputError for a script that is too long."""
    content = text.encode("utf-8", "surrogatepass")
    if len(content) > MAX_BYTES:
        raise InputError(
            f"{file}: a script of {len(content) >> 10} KiB, more than the {MAX_BYTES >> 10} KiB that are read"
        )
    from tree_sitter import Parser

    # A parser for each text, since launches are judged, and their fixes read, in several threads. Not by a callback:
    # with one, reading a node's text crashes.
    return Parser(_language()).parse(content).root_node


@cache
def _language() -> Language:
    import tree_sitter
    import tree_sitter_bash

    return tree_sitter.Language(tree_sitter_bash.language())


def text_of(node: Node) -> str:
    """A node's source text."""
    return (node.text or b"").decode("utf-8", "replace")
