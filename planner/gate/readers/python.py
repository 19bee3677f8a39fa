"""Python files: LLM(...) and engine arguments, and commands that they start, read as syntax and never run."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from planner.engine.args import EngineArgs, engine_arg_names
from planner.errors import InputError
from planner.gate.arguments import WITHOUT_EFFECT
from planner.gate.command import Context, kept, launches_of
from planner.gate.launch import Launch, Word, least, visible_devices
from planner.gate.readers.python_names import CLASSES, LLM_CONFIG, Names, Scope, installed_vllm, name_of, scoped
from planner.gate.readers.python_values import Unknown, shown
from planner.gate.source import Lookup, Source
from planner.text import printable

_MAX_NODES = 200_000


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


class _Program:
    """What a module does with the names that it has."""

    def __init__(self, context: Context, first_line: int) -> None:
        self.context, self.first_line = context, first_line
        self.found: list[Launch] = []
        self.names = Names()
        self.values = self.names.values

    def visit(self, tree: ast.AST) -> None:
        nodes = list(scoped(tree))
        if len(nodes) > _MAX_NODES:
            raise InputError(f"{self.context.source.file}: more than {_MAX_NODES:,} expressions")
        for node, scope in nodes:
            self.names.learn(node, scope)
        environment = {**self.context.environment, **self.names.environment}
        version = installed_vllm(nodes, self.values) or self.context.version
        self.context = self.context.with_(environment=environment, version=version)
        for node, scope in nodes:
            if isinstance(node, ast.Call | ast.List | ast.Tuple):
                for context in self._contexts(scope):
                    self._launches(node, scope, context)

    def _launches(self, node: ast.expr, scope: Scope, context: Context) -> None:
        if isinstance(node, ast.List | ast.Tuple):
            self._words(node, scope, context)
        elif isinstance(node, ast.Call):
            kind = self.names.class_of(node.func)
            if kind == LLM_CONFIG:
                self._llm_config(node, context)
            elif kind is not None:
                self._engine(node, kind, context)
            elif name_of(node.func) in _SHELLS and node.args:
                self._script(node, context)

    def _contexts(self, scope: Scope) -> list[Context]:
        """On each of the cards that Modal may give."""
        if scope.gpu is None or "modal" not in self.names.roots:
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
        self.found.append(
            Launch(
                file=context.source.file,
                line=self._line(node),
                end_line=self._end(node),
                model=model if isinstance(model, str) else None,
                args=args,
                environment=kept(context.environment),
                gpu=context.gpu,
                gpus=least(context.gpus, visible_devices(context.environment)),
                version=context.version,
                usage=CLASSES[kind],
                problem=problem,
                refusal=refusal,
                words=tuple(words),
            )
        )

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
        for launch in launches_of_values(values, context.with_(line=self._line(node), end_line=self._end(node))):
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

    def _words(self, node: ast.List | ast.Tuple, scope: Scope, context: Context) -> None:
        """["vllm", "serve", MODEL, …]: a command that the program starts, with what is added to it."""
        heads = [_text_of(item) for item in node.elts[:4]]
        if "vllm" not in " ".join(heads) or not any(head in ("serve", "-m", "run") for head in heads):
            return
        words = [word for item in node.elts for word in self._word(item)]
        for more in self.names.added_to(node):
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
        if name_of(node.func) == "split":  # which takes a new line for a space
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
_MODAL = {"A10": "A10G", "A100": "A100-SXM4-40GB", "RTX-PRO-6000": "RTX PRO 6000 Blackwell Server Edition"}
"""Modal's names that mean another card here (modal.com/docs/guide/gpu)."""
_NOT_ARGUMENTS = ("hf_token", "chat_template")
"""A secret, and what LLM() takes besides."""


def _text_of(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
