"""Python files: LLM(...) and engine arguments, and commands that they start, read as syntax and never run."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from planner.engine.args import EngineArgs, engine_arg_names
from planner.engine.defaults import Usage
from planner.errors import InputError
from planner.gate.arguments import WITHOUT_EFFECT
from planner.gate.command import Context, kept, launches_of
from planner.gate.launch import Launch, Word, visible_devices
from planner.gate.source import Lookup, Source
from planner.text import printable

_MAX_NODES = 200_000
_MAX_DEPTH = 60
_MAX_TEXT = 1 << 16

CLASSES: Mapping[str, Usage] = {
    "LLM": "offline",
    "EngineArgs": "server",
    "AsyncEngineArgs": "server",
}
"""vLLM's classes that take engine arguments, and whose defaults they have."""
_LLM_CONFIG = "LLMConfig"
"""Ray Serve's, which holds engine arguments for vLLM."""
_MODULES = ("vllm", "ray")


def read(source: Source, lookup: Lookup) -> Iterable[Launch]:
    """What the code starts: LLM(…), AsyncEngineArgs(…), and commands run by subprocess or os."""
    return code(source.text, Context(source=source, lookup=lookup, line=1, end_line=len(source.lines)), 1)


def code(text: str, context: Context, first_line: int) -> list[Launch]:
    """The launches in a program that stands in the file from first_line on. InputError for what is no Python."""
    file = context.source.file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A lone \r ends a line for Python and for no editor: lines would be counted otherwise than everywhere else.
            tree = ast.parse(re.sub(r"\r(?!\n)", " ", text))
    except SyntaxError as error:
        line = (error.lineno or 1) + first_line - 1
        raise InputError(f"{file}:{line}: not Python, {printable(error.msg)}") from None
    except (RecursionError, MemoryError, ValueError):
        raise InputError(f"{file}: not Python that can be parsed: nested too deep, or not text") from None
    program = _Program(context, first_line)
    program.visit(tree)
    return sorted(program.found, key=lambda launch: launch.line)


class _Unknown(Exception):
    """An expression whose value the file does not decide; its text is the expression."""


class _Program:
    """A module: names that stand for one value, then what is done with them."""

    def __init__(self, context: Context, first_line: int) -> None:
        self.context, self.first_line = context, first_line
        self.found: list[Launch] = []
        self.names: dict[str, ast.expr | None] = {}
        """What a name is assigned; None for one that is assigned several things."""
        self.imported: dict[str, str] = {}
        """A name in the file -> what of vLLM or of Ray it is: "LLM" -> "vllm.LLM", "v" -> "vllm"."""
        self.starred = False
        """Whether all of vLLM's names are imported; then a class of the file's own goes before one of those."""
        self.own: set[str] = set()
        """What the file defines, or imports from elsewhere."""

    def visit(self, tree: ast.AST) -> None:
        nodes = list(ast.walk(tree))
        if len(nodes) > _MAX_NODES:
            raise InputError(f"{self.context.source.file}: more than {_MAX_NODES:,} expressions")
        for node in nodes:
            self._learn(node)
        for node in nodes:
            if isinstance(node, ast.Call):
                self._call(node)
            if isinstance(node, ast.List | ast.Tuple):
                self._words(node)

    def _learn(self, node: ast.AST) -> None:
        if isinstance(node, ast.ImportFrom | ast.Import):
            self._import(node)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            self.own.add(node.name)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                self._assign(target, node.value)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            self._assign(node.target, node.value)
        elif isinstance(node, ast.AugAssign | ast.For | ast.comprehension):
            for name in ast.walk(node.target):
                if isinstance(name, ast.Name):
                    self.names[name.id] = None

    def _import(self, node: ast.ImportFrom | ast.Import) -> None:
        for alias in node.names:
            if isinstance(node, ast.Import):
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                name = alias.asname or whole
            else:
                whole = f"{'.' * node.level}{node.module or ''}.{alias.name}"
                name = alias.asname or alias.name
            if whole.partition(".")[0] not in _MODULES:
                self.own.add(name)
            elif name == "*":
                self.starred = self.starred or whole.startswith("vllm.")
            else:
                self.imported[name] = whole

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = None if target.id in self.names else value
        elif isinstance(target, ast.Subscript) and _dotted(target.value) == "os.environ" and _is_text(target.slice):
            try:
                name, text = self._value(target.slice), self._value(value)
            except _Unknown:
                return
            self.context = self.context.with_(environment={**self.context.environment, str(name): str(text)})
        else:
            for name_node in ast.walk(target):
                if isinstance(name_node, ast.Name) and isinstance(name_node.ctx, ast.Store):
                    self.names[name_node.id] = None

    # -- LLM(...) ------------------------------------------------------------------------------------------------------

    def _call(self, node: ast.Call) -> None:
        kind = self._class(node.func)
        if kind == _LLM_CONFIG:
            self._llm_config(node)
        elif kind is not None:
            self._engine(node, kind)

    def _engine(self, node: ast.Call, kind: str) -> None:
        values: dict[str, Any] = {}
        words: list[Word] = []
        problem = None
        given: list[tuple[str | None, ast.expr]] = [("model", one) for one in node.args[:1]]
        given += [(keyword.arg, keyword.value) for keyword in node.keywords]
        if any(isinstance(one, ast.Starred) for one in node.args):
            given, problem = given[1:], f"line {self._line(node)}: its arguments are not in the call"
        for name, value in given:
            try:
                found = {name: self._value(value)} if name is not None else self._mapping(value)
            except _Unknown as unknown:
                if name is None or (name in engine_arg_names() and name not in WITHOUT_EFFECT):
                    what = f"{name} is {unknown}" if name is not None else f"**{unknown}"
                    problem = problem or f"line {self._line(value)}: {what}, which the file does not decide"
                continue
            values |= found
            words += [Word(text=f"{key}={item!r}", line=self._line(value)) for key, item in found.items()]
        model = values.pop("model", None)
        refusal = None
        for name in _NOT_ARGUMENTS:
            values.pop(name, None)
        try:
            args = dict(EngineArgs(values))
        except InputError as error:
            args, refusal = {}, str(error)
        if model is None and problem is None:
            problem = "it names no model"
        devices = visible_devices(self.context.environment)
        self.found.append(
            Launch(
                file=self.context.source.file,
                line=self._line(node),
                end_line=self.first_line - 1 + (node.end_lineno or node.lineno),
                model=model if isinstance(model, str) else None,
                args=args,
                environment=kept(self.context.environment),
                gpu=self.context.gpu,
                gpus=devices if devices is not None else self.context.gpus,
                version=self.context.version,
                usage=CLASSES[kind],
                problem=problem,
                refusal=refusal,
                words=tuple(words),
            )
        )

    def _class(self, function: ast.expr) -> str | None:
        """The class of vLLM that is called, or Ray's LLMConfig, under the name that the file gives it."""
        first, dot, rest = _dotted(function).partition(".")
        known = self.imported.get(first) or (f"vllm.{first}" if self.starred and first not in self.own else "")
        whole = f"{known}{dot}{rest}" if known else ""
        name = whole.rpartition(".")[2]
        return name if name in (CLASSES if whole.startswith("vllm.") else (_LLM_CONFIG,)) else None

    # -- Ray's LLMConfig(...) ------------------------------------------------------------------------------------------

    def _llm_config(self, node: ast.Call) -> None:
        from planner.gate.readers.ray_serve import DECISIVE, launches_of_values  # needs PyYAML

        values: dict[str, Any] = {}
        words: list[Word] = []
        problem = None
        for keyword in node.keywords:
            if keyword.arg is not None and keyword.arg not in DECISIVE:
                continue
            try:
                values |= (
                    self._mapping(keyword.value) if keyword.arg is None else {keyword.arg: self._value(keyword.value)}
                )
            except _Unknown as unknown:
                line = self._line(keyword.value)
                problem = (
                    problem or f"line {line}: {keyword.arg or '**'} holds {unknown}, which the file does not decide"
                )
            if keyword.arg == "engine_kwargs":
                words = self._entries(keyword.value)
        context = self.context.with_(
            line=self._line(node), end_line=self.first_line - 1 + (node.end_lineno or node.lineno)
        )
        for launch in launches_of_values(values, context):
            self.found.append(launch.with_(problem=problem or launch.problem, words=tuple(words)))

    def _entries(self, node: ast.expr) -> list[Word]:
        """The items of {"name": value} or dict(name=value), each at its line."""
        items: list[tuple[str, ast.expr]] = []
        if isinstance(node, ast.Dict):
            items = [
                (_text_of(key), value) for key, value in zip(node.keys, node.values, strict=True) if key is not None
            ]
        elif isinstance(node, ast.Call):
            items = [(word.arg, word.value) for word in node.keywords if word.arg is not None]
        words = []
        for name, value in items:
            try:
                words.append(Word(text=f"{name}={self._value(value)!r}", line=self._line(value)))
            except _Unknown:
                continue
        return words

    # -- commands ------------------------------------------------------------------------------------------------------

    def _words(self, node: ast.List | ast.Tuple) -> None:
        """["vllm", "serve", MODEL, …]: a command that the program starts."""
        heads = [_text_of(item) for item in node.elts[:4]]
        if "vllm" not in " ".join(heads) or not any(head in ("serve", "-m", "run") for head in heads):
            return
        words: list[Word] = []
        for item in node.elts:
            words += self._word(item)
        line, end = self._line(node), self.first_line - 1 + (node.end_lineno or node.lineno)
        self.found += launches_of(words, self.context.with_(line=line, end_line=end, settle=True))

    def _word(self, item: ast.expr) -> list[Word]:
        line = self._line(item)
        try:
            if isinstance(item, ast.Starred):
                return [Word(text=str(text), line=line) for text in self._value(item.value)]
            return [Word(text=str(self._value(item)), line=line)]
        except (_Unknown, TypeError):
            text = _shown(item)
            return [Word(text=text, line=line, unknown=text)]

    # -- values --------------------------------------------------------------------------------------------------------

    def _mapping(self, node: ast.expr) -> dict[str, Any]:
        value = self._value(node)
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise _Unknown(_shown(node))
        return value

    def _value(self, node: ast.expr, depth: int = 0) -> Any:
        """What an expression of literals is; names count as what they are assigned, where that is one thing."""
        if depth > _MAX_DEPTH:
            raise _Unknown("an expression nested too deep")
        if isinstance(node, ast.Constant):
            return node.value
        inner = depth + 1
        if isinstance(node, ast.Name) and self.names.get(node.id) is not None:
            named = self.names[node.id]
            assert named is not None
            return self._value(named, inner)
        if isinstance(node, ast.List | ast.Tuple):
            return [self._value(item, inner) for item in node.elts]
        if isinstance(node, ast.Dict):
            return self._dictionary(node, inner)
        if isinstance(node, ast.Call):
            return self._called(node, inner)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._number(node.operand, inner)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return self._operation(node, inner)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
            return node.attr  # a dtype
        if isinstance(node, ast.JoinedStr):
            return "".join(self._piece(part, inner) for part in node.values)
        raise _Unknown(_shown(node))

    def _dictionary(self, node: ast.Dict, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            item = self._value(value, depth)
            name = self._value(key, depth) if key is not None else None
            if isinstance(name, list | dict) or (key is None and not isinstance(item, dict)):
                raise _Unknown(_shown(node))
            found |= item if key is None else {name: item}
        return found

    def _called(self, node: ast.Call, depth: int) -> Any:
        """os.environ.get("X", default), str(…), int(…), dict(…), json.dumps(…) of what is known."""
        name = _dotted(node.func)
        if name in ("os.environ.get", "os.getenv", "environ.get", "getenv") and len(node.args) == 2:
            return self._value(node.args[1], depth)
        if name == "dict" and not node.args:
            return {word.arg: self._value(word.value, depth) for word in node.keywords if word.arg is not None}
        if name in ("str", "int", "float") and len(node.args) == 1:
            try:
                return {"str": str, "int": int, "float": float}[name](self._value(node.args[0], depth))
            except (TypeError, ValueError, OverflowError):
                pass
        if name == "json.dumps" and len(node.args) == 1:
            import json

            return json.dumps(self._value(node.args[0], depth))
        raise _Unknown(_shown(node))

    def _number(self, node: ast.expr, depth: int) -> int | float:
        value = self._value(node, depth)
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 10**18:
            raise _Unknown(_shown(node))
        return value

    def _operation(self, node: ast.BinOp, depth: int) -> Any:
        if isinstance(node.op, ast.Add):
            left, right = self._value(node.left, depth), self._value(node.right, depth)
            if isinstance(left, str) and isinstance(right, str) and len(left) + len(right) < _MAX_TEXT:
                return left + right
            if isinstance(left, list) and isinstance(right, list) and len(left) + len(right) < _MAX_TEXT:
                return left + right
        left, right = self._number(node.left, depth), self._number(node.right, depth)
        try:
            return _OPERATORS[type(node.op)](left, right)
        except (ZeroDivisionError, OverflowError):
            raise _Unknown(_shown(node)) from None

    def _piece(self, part: ast.expr, depth: int) -> str:
        if isinstance(part, ast.FormattedValue):
            if part.format_spec is not None or part.conversion not in (-1, 115):
                raise _Unknown(_shown(part.value))
            return str(self._value(part.value, depth))
        return str(self._value(part, depth))

    def _line(self, node: ast.expr) -> int:
        return self.first_line - 1 + node.lineno


_NOT_ARGUMENTS = ("hf_token", "chat_template", "use_tqdm")
"""A secret, and what LLM() takes besides."""
_OPERATORS: Mapping[type[ast.operator], Any] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Div: lambda a, b: a / b,
}


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _text_of(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _dotted(node: ast.expr) -> str:
    """ "a.b.c" of names and attributes, "" of anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _shown(node: ast.expr) -> str:
    try:
        return printable(ast.unparse(node), 60)
    except RecursionError:
        return "an expression nested too deep"
