"""What expressions of a program are, as far as its text decides it; nothing is run."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from planner.text import printable

_MAX_DEPTH = 60
_MAX_TEXT = 1 << 16
_MAX_STEPS = 300_000
"""Of one file: names that are each made of the one before twice would take for ever."""


class Unknown(Exception):
    """An expression whose value the file does not decide; its text is the expression."""


class Values:
    """The values of a module's expressions."""

    def __init__(self) -> None:
        self.names: dict[str, ast.expr | None] = {}
        """What a name is assigned; None for one that is assigned several things."""
        self._left = _MAX_STEPS

    def mapping(self, node: ast.expr) -> dict[str, Any]:
        """A dictionary with names for keys. Unknown for anything else."""
        value = self.value(node)
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise Unknown(shown(node))
        return value

    def value(self, node: ast.expr, depth: int = 0) -> Any:
        """What an expression of literals is; names count as what they are assigned, where that is one thing."""
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0:
            raise Unknown("an expression nested too deep")
        if isinstance(node, ast.Constant):
            return node.value
        inner = depth + 1
        if isinstance(node, ast.Name) and self.names.get(node.id) is not None:
            named = self.names[node.id]
            assert named is not None
            return self.value(named, inner)
        if isinstance(node, ast.List | ast.Tuple):
            return [self.value(item, inner) for item in node.elts]
        if isinstance(node, ast.Dict):
            return self._dictionary(node, inner)
        if isinstance(node, ast.Call):
            return self._called(node, inner)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._number(node.operand, inner)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return self._operation(node, inner)
        if isinstance(node, ast.IfExp):
            return self.value(node.body if self.value(node.test, inner) else node.orelse, inner)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
            return node.attr  # a dtype
        if isinstance(node, ast.JoinedStr):
            return "".join(self._piece(part, inner) for part in node.values)
        raise Unknown(shown(node))

    def _dictionary(self, node: ast.Dict, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            item = self.value(value, depth)
            name = self.value(key, depth) if key is not None else None
            if isinstance(name, list | dict) or (key is None and not isinstance(item, dict)):
                raise Unknown(shown(node))
            found |= item if key is None else {name: item}
        return found

    def _called(self, node: ast.Call, depth: int) -> Any:
        """os.environ.get("X", default), str(…), int(…), dict(…), json.dumps(…) of what is known."""
        name = dotted(node.func)
        if name in ("os.environ.get", "os.getenv", "environ.get", "getenv") and len(node.args) == 2:
            return self.value(node.args[1], depth)
        if name == "dict" and not node.args:
            return {word.arg: self.value(word.value, depth) for word in node.keywords if word.arg is not None}
        if name in ("str", "int", "float") and len(node.args) == 1:
            try:
                return {"str": str, "int": int, "float": float}[name](self.value(node.args[0], depth))
            except (TypeError, ValueError, OverflowError):
                pass
        if name == "json.dumps" and len(node.args) == 1:
            import json

            return json.dumps(self.value(node.args[0], depth))
        raise Unknown(shown(node))

    def _number(self, node: ast.expr, depth: int) -> int | float:
        return _checked(self.value(node, depth), node)

    def _operation(self, node: ast.BinOp, depth: int) -> Any:
        left, right = self.value(node.left, depth), self.value(node.right, depth)
        if isinstance(node.op, ast.Add) and type(left) is type(right) and isinstance(left, str | list):
            if len(left) + len(right) > _MAX_TEXT:
                raise Unknown(shown(node))
            return left + right
        try:
            return _OPERATORS[type(node.op)](_checked(left, node.left), _checked(right, node.right))
        except (ZeroDivisionError, OverflowError):
            raise Unknown(shown(node)) from None

    def script(self, node: ast.expr | None, depth: int = 0) -> str:
        """A text for a shell; what the file does not decide becomes a variable that the shell does not know either."""
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0:
            return ""
        if isinstance(node, ast.Name):
            return self.script(self.names.get(node.id), depth + 1)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return (self.script(node.left, depth + 1) + self.script(node.right, depth + 1))[:_MAX_TEXT]
        if isinstance(node, ast.JoinedStr):
            return "".join(self._in_script(part) for part in node.values)[:_MAX_TEXT]
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""

    def _in_script(self, part: ast.expr) -> str:
        try:
            return self._piece(part, 0)
        except Unknown as unknown:
            return "${" + re.sub(r"\W+", "_", str(unknown)).strip("_") + "}"

    def _piece(self, part: ast.expr, depth: int) -> str:
        if isinstance(part, ast.FormattedValue):
            if part.format_spec is not None or part.conversion not in (-1, 115):
                raise Unknown(shown(part.value))
            return str(self.value(part.value, depth))
        return str(self.value(part, depth))


_OPERATORS: Mapping[type[ast.operator], Any] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Div: lambda a, b: a / b,
}


def _checked(value: Any, node: ast.expr) -> int | float:
    """The value, if it is a number of a common size."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 10**18:
        raise Unknown(shown(node))
    return value


def dotted(node: ast.expr) -> str:
    """ "a.b.c" of names and attributes, "" of anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def shown(node: ast.expr) -> str:
    """An expression as it is written, cut to what a message holds."""
    try:
        return printable(ast.unparse(node), 60)
    except RecursionError:
        return "an expression nested too deep"
