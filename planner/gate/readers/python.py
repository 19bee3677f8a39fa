"""Python files: LLM(...) and engine arguments, and commands that they start, read as syntax and never run."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from planner.engine.args import EngineArgs, engine_arg_names
from planner.engine.defaults import Usage
from planner.errors import InputError
from planner.gate.arguments import WITHOUT_EFFECT
from planner.gate.command import Context, kept, launches_of
from planner.gate.containers import installed_version
from planner.gate.launch import Launch, Word, visible_devices
from planner.gate.readers.python_values import Unknown, Values, dotted, shown
from planner.gate.source import Lookup, Source
from planner.text import printable

_MAX_NODES = 200_000

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


@dataclass(frozen=True, kw_only=True)
class _Scope:
    """What is around a statement."""

    condition: ast.AST | None = None
    """The innermost if or loop."""
    gpu: ast.expr | None = None
    """Modal's, of the function or class."""


@dataclass(frozen=True, kw_only=True)
class _More:
    """Items that are added to a list after it was made."""

    items: Sequence[ast.expr]
    scope: _Scope


class _Program:
    """A module: names that stand for one value, then what is done with them."""

    def __init__(self, context: Context, first_line: int) -> None:
        self.context, self.first_line = context, first_line
        self.found: list[Launch] = []
        self.values = Values()
        self.lists: dict[int, str] = {}
        """The id of a list's expression -> the name that it is assigned to."""
        self.more: dict[str, list[_More]] = {}
        """What is added to the list of a name."""
        self.imported: dict[str, str] = {}
        """A name in the file -> what of vLLM or of Ray it is: "LLM" -> "vllm.LLM", "v" -> "vllm"."""
        self.starred = False
        """Whether all of vLLM's names are imported; then a class of the file's own goes before one of those."""
        self.own: set[str] = set()
        """What the file defines, or imports from elsewhere."""
        self.roots: set[str] = set()
        """The packages that it imports from."""
        self.versions: set[str] = set()
        """vLLM's that the images of the file install."""

    def visit(self, tree: ast.AST) -> None:
        nodes = list(_scoped(tree))
        if len(nodes) > _MAX_NODES:
            raise InputError(f"{self.context.source.file}: more than {_MAX_NODES:,} expressions")
        for node, scope in nodes:
            self._learn(node, scope)
        for node, _ in nodes:
            self._installed(node)
        if len(self.versions) == 1:
            self.context = self.context.with_(version=next(iter(self.versions)))
        for node, scope in nodes:
            if isinstance(node, ast.Call | ast.List | ast.Tuple):
                for context in self._contexts(scope):
                    self._launches(node, scope, context)

    def _launches(self, node: ast.expr, scope: _Scope, context: Context) -> None:
        if isinstance(node, ast.List | ast.Tuple):
            self._words(node, scope, context)
        elif isinstance(node, ast.Call):
            kind = self._class(node.func)
            if kind == _LLM_CONFIG:
                self._llm_config(node, context)
            elif kind is not None:
                self._engine(node, kind, context)
            elif _name_of(node.func) in _SHELLS and node.args:
                self._script(node, context)

    def _contexts(self, scope: _Scope) -> list[Context]:
        """On each of the cards that Modal may give."""
        if scope.gpu is None or "modal" not in self.roots:
            return [self.context]
        try:
            value = self.values.value(scope.gpu)
        except Unknown:
            return [self.context]
        found = []
        for text in value if isinstance(value, list) else [value]:
            card = re.fullmatch(r"([\w-]+)[!+]?(?::(\d{1,3}))?", str(text))
            if card is not None and card[1] != "any" and value is not None:
                found.append(self.context.with_(gpu=_MODAL.get(card[1], card[1]), gpus=int(card[2] or 1)))
        return found or [self.context]

    def _learn(self, node: ast.AST, scope: _Scope) -> None:
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
                    self.values.names[name.id] = None
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and isinstance(node.op, ast.Add):
            self._add(node.target.id, node.value, scope)
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            self.values.names[dotted(node.value)] = None
        elif isinstance(node, ast.Call):
            of, _, method = dotted(node.func).rpartition(".")
            if method == "extend" and len(node.args) == 1:
                self._add(of, node.args[0], scope)
            elif method == "append":
                self.more.setdefault(of, []).append(_More(items=node.args, scope=scope))
            elif method in _CHANGES_A_MAPPING:
                self.values.names[of] = None

    def _add(self, name: str, value: ast.expr, scope: _Scope) -> None:
        items: Sequence[ast.expr] = [ast.Starred(value, lineno=value.lineno)]
        if isinstance(value, ast.List | ast.Tuple):
            items = value.elts
        self.more.setdefault(name, []).append(_More(items=items, scope=scope))

    def _installed(self, node: ast.AST) -> None:
        """The vLLM of an image: `.uv_pip_install("vllm==0.13.0")`."""
        if not (isinstance(node, ast.Call) and _name_of(node.func) in ("pip_install", "uv_pip_install")):
            return
        for argument in node.args:
            try:
                value = self.values.value(argument)
            except Unknown:
                continue
            texts = [str(one) for one in (value if isinstance(value, list) else [value])]
            version = installed_version(["install", *texts])
            self.versions |= {version} if version is not None else set()

    def _import(self, node: ast.ImportFrom | ast.Import) -> None:
        for alias in node.names:
            if isinstance(node, ast.Import):
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                name = alias.asname or whole
            else:
                whole = f"{'.' * node.level}{node.module or ''}.{alias.name}"
                name = alias.asname or alias.name
            self.roots.add(whole.partition(".")[0])
            if whole.partition(".")[0] not in _MODULES:
                self.own.add(name)
            elif name == "*":
                self.starred = self.starred or whole.startswith("vllm.")
            else:
                self.imported[name] = whole

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        names = self.values.names
        if isinstance(target, ast.Name):
            names[target.id] = None if target.id in names else value
            self.lists[id(value)] = target.id
        elif isinstance(target, ast.Subscript) and dotted(target.value) == "os.environ" and _is_text(target.slice):
            try:
                name, text = self.values.value(target.slice), self.values.value(value)
            except Unknown:
                return
            self.context = self.context.with_(environment={**self.context.environment, str(name): str(text)})
        else:
            for name_node in ast.walk(target):
                if isinstance(name_node, ast.Name) and isinstance(name_node.ctx, ast.Store):
                    names[name_node.id] = None

    # -- LLM(...) ------------------------------------------------------------------------------------------------------

    def _engine(self, node: ast.Call, kind: str, context: Context) -> None:
        values: dict[str, Any] = {}
        words: list[Word] = []
        problem = None
        given: list[tuple[str | None, ast.expr]] = [("model", one) for one in node.args[:1]]
        given += [(keyword.arg, keyword.value) for keyword in node.keywords]
        if any(isinstance(one, ast.Starred) for one in node.args):
            given, problem = given[1:], f"line {self._line(node)}: its arguments are not in the call"
        for name, value in given:
            try:
                found = {name: self.values.value(value)} if name is not None else self.values.mapping(value)
            except Unknown as unknown:
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
        devices = visible_devices(context.environment)
        self.found.append(
            Launch(
                file=context.source.file,
                line=self._line(node),
                end_line=self.first_line - 1 + (node.end_lineno or node.lineno),
                model=model if isinstance(model, str) else None,
                args=args,
                environment=kept(context.environment),
                gpu=context.gpu,
                gpus=devices if devices is not None else context.gpus,
                version=context.version,
                usage=CLASSES[kind],
                problem=problem,
                refusal=refusal,
                words=tuple(words),
            )
        )

    def _class(self, function: ast.expr) -> str | None:
        """The class of vLLM that is called, or Ray's LLMConfig, under the name that the file gives it."""
        first, dot, rest = dotted(function).partition(".")
        known = self.imported.get(first) or (f"vllm.{first}" if self.starred and first not in self.own else "")
        whole = f"{known}{dot}{rest}" if known else ""
        name = whole.rpartition(".")[2]
        return name if name in (CLASSES if whole.startswith("vllm.") else (_LLM_CONFIG,)) else None

    # -- Ray's LLMConfig(...) ------------------------------------------------------------------------------------------

    def _llm_config(self, node: ast.Call, context: Context) -> None:
        from planner.gate.readers.ray_serve import DECISIVE, launches_of_values  # needs PyYAML

        values: dict[str, Any] = {}
        words: list[Word] = []
        problem = None
        for keyword in node.keywords:
            if keyword.arg is not None and keyword.arg not in DECISIVE:
                continue
            try:
                values |= (
                    self.values.mapping(keyword.value)
                    if keyword.arg is None
                    else {keyword.arg: self.values.value(keyword.value)}
                )
            except Unknown as unknown:
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
            if launch.refusal is not None and "sglang" in context.source.text.lower():
                problem = f"{launch.refusal}, unless these are arguments of SGLang, which the file mentions"
                launch = launch.with_(refusal=None)
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
                words.append(Word(text=f"{name}={self.values.value(value)!r}", line=self._line(value)))
            except Unknown:
                continue
        return words

    # -- commands ------------------------------------------------------------------------------------------------------

    def _words(self, node: ast.List | ast.Tuple, scope: _Scope, context: Context) -> None:
        """["vllm", "serve", MODEL, …]: a command that the program starts, with what is added to it."""
        heads = [_text_of(item) for item in node.elts[:4]]
        if "vllm" not in " ".join(heads) or not any(head in ("serve", "-m", "run") for head in heads):
            return
        words = [word for item in node.elts for word in self._word(item)]
        for more in self.more.get(self.lists.get(id(node), ""), ()):
            added = [word for item in more.items for word in self._word(item)]
            if more.scope.condition is not scope.condition:
                added = [replace(word, unknown=f"{word.text} (added only under a condition)") for word in added]
            words += added
        line, end = self._line(node), self._end(node)
        self.found += launches_of(words, context.with_(line=line, end_line=end, settle=True))

    def _word(self, item: ast.expr) -> list[Word]:
        line = self._line(item)
        try:
            if isinstance(item, ast.Starred):
                return [Word(text=str(text), line=line) for text in self.values.value(item.value)]
            return [Word(text=str(self.values.value(item)), line=line)]
        except (Unknown, TypeError):
            text = shown(item)
            return [Word(text=text, line=line, unknown=text)]

    def _script(self, node: ast.Call, context: Context) -> None:
        """subprocess.run("vllm serve …", shell=True), os.system, shlex.split."""
        from planner.gate.bash.walk import launches_in  # needs tree-sitter

        text = self.values.script(node.args[0])
        if _name_of(node.func) == "split":  # which takes a new line for a space
            text = text.replace("\n", " \\\n")
        if "vllm" in text.lower() and re.search(r"\s", text):
            line = self._line(node)
            self.found += launches_in(text, context.with_(line=line, end_line=self._end(node), settle=True), line)

    def _line(self, node: ast.expr) -> int:
        return self.first_line - 1 + node.lineno

    def _end(self, node: ast.expr) -> int:
        return self.first_line - 1 + (node.end_lineno or node.lineno)


_SHELLS = frozenset(
    "Popen call check_call check_output create_subprocess_shell getoutput popen run split system".split()
)
"""Functions of subprocess, os, asyncio and shlex that take a command as one text."""
_CHANGES_A_MAPPING = frozenset(("clear", "pop", "popitem", "setdefault", "update"))
_MODAL = {"A10": "A10G", "A100": "A100-SXM4-40GB", "RTX-PRO-6000": "RTX PRO 6000 Blackwell Server Edition"}
"""Modal's names that mean another card here (modal.com/docs/guide/gpu)."""
_NOT_ARGUMENTS = ("hf_token", "chat_template")
"""A secret, and what LLM() takes besides."""


def _scoped(tree: ast.AST) -> Iterator[tuple[ast.AST, _Scope]]:
    """Every node, what stands first in the file first."""
    queue: list[tuple[ast.AST, _Scope]] = [(tree, _Scope())]
    while queue:
        node, scope = queue.pop()
        yield node, scope
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope = _Scope(gpu=_gpu_of(node.decorator_list) or scope.gpu)
        elif isinstance(node, ast.If | ast.For | ast.While | ast.ExceptHandler):
            scope = replace(scope, condition=node)
        queue.extend((child, scope) for child in reversed(list(ast.iter_child_nodes(node))))


def _gpu_of(decorators: Iterable[ast.expr]) -> ast.expr | None:
    """@app.function(gpu="H100:2")"""
    keywords = [word for one in decorators if isinstance(one, ast.Call) for word in one.keywords if word.arg == "gpu"]
    return keywords[0].value if keywords else None


def _name_of(function: ast.expr) -> str:
    """The last part of a function's name, whatever it is a part of."""
    return function.attr if isinstance(function, ast.Attribute) else dotted(function)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _text_of(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
