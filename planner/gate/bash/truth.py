"""Conditions, where the script's own text decides them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from planner.gate.bash.expand import Expander
from planner.gate.bash.parse import text_of
from planner.gate.bash.state import only_text

if TYPE_CHECKING:
    from tree_sitter import Node


def truth(node: Node, expander: Expander, depth: int = 0) -> bool | None:
    """Whether a test holds; None where that is not decided in the script.

    -n and -z of a variable that is set nowhere are decided, as ${A:-x} is: the script's own defaults are what is read.
    """
    if depth > 20:
        return None
    if node.type == "negated_command" or (node.type == "unary_expression" and text_of(node).lstrip().startswith("!")):
        inner = truth(node.named_children[-1], expander, depth + 1) if node.named_children else None
        return None if inner is None else not inner
    if node.type in ("test_command", "parenthesized_expression"):
        return truth(node.named_children[0], expander, depth + 1) if node.named_child_count == 1 else None
    if node.type == "unary_expression":
        operator, operand = text_of(node.children[0]), node.children[-1]
        if operator not in ("-n", "-z"):
            return None
        empty = _is_empty(operand, expander)
        return empty if empty is None or operator == "-z" else not empty
    if node.type == "binary_expression":
        return _binary(node, expander, depth)
    return None


def _binary(node: Node, expander: Expander, depth: int) -> bool | None:
    left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
    operator = node.child_by_field_name("operator")
    if left is None or right is None or operator is None:
        return None
    kind = text_of(operator)
    if kind in ("&&", "||", "-a", "-o"):
        sides = truth(left, expander, depth + 1), truth(right, expander, depth + 1)
        settled = kind in ("||", "-o")
        if settled in sides:
            return settled
        return None if None in sides else not settled
    compare = _COMPARISONS.get(kind)
    texts = only_text(expander.value(left)), only_text(expander.value(right))
    if compare is None or texts[0] is None or texts[1] is None or set(texts[1]) & set("*?["):
        return None
    try:
        return compare(texts[0], texts[1])
    except ValueError:
        return None


def _is_empty(node: Node, expander: Expander) -> bool | None:
    value = expander.value(node)
    text = only_text(value)
    if text is not None:
        return text == ""
    bare = value[0].text.strip("${}").removesuffix(":-")
    return True if value[0].text == value[0].unknown and bare.isidentifier() and not expander.is_set(bare) else None


_COMPARISONS: Mapping[str, Callable[[str, str], bool]] = {
    "==": str.__eq__,
    "=": str.__eq__,
    "!=": str.__ne__,
    "-eq": lambda a, b: int(a) == int(b),
    "-ne": lambda a, b: int(a) != int(b),
    "-gt": lambda a, b: int(a) > int(b),
    "-ge": lambda a, b: int(a) >= int(b),
    "-lt": lambda a, b: int(a) < int(b),
    "-le": lambda a, b: int(a) <= int(b),
}
