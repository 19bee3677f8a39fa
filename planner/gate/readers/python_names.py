"""What the names of a program stand for: values, lists that grow, classes of vLLM and of Ray."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from planner.engine.defaults import Usage
from planner.gate.containers import installed_version
from planner.gate.readers.python_values import Unknown, Values, dotted

CLASSES: Mapping[str, Usage] = {
    "LLM": "offline",
    "EngineArgs": "server",
    "AsyncEngineArgs": "server",
}
"""vLLM's classes that take engine arguments, and whose defaults they have."""
LLM_CONFIG = "LLMConfig"
"""Ray Serve's, which holds engine arguments for vLLM."""
_MODULES = ("vllm", "ray")


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What is around a statement."""

    condition: ast.AST | None = None
    """The innermost if or loop."""
    gpu: ast.expr | None = None
    """Modal's, of the function or class."""


@dataclass(frozen=True, kw_only=True)
class More:
    """Items that are added to a list after it was made."""

    items: Sequence[ast.expr]
    scope: Scope


class Names:
    """Those of one module. A name counts as what it is assigned, where that is one thing."""

    def __init__(self) -> None:
        self.values = Values()
        self.environment: dict[str, str] = {}
        """Variables that the program sets in its own."""
        self.roots: set[str] = set()
        """The packages that it imports from."""
        self._lists: dict[int, str] = {}
        """The id of a list's expression -> the name that it is assigned to."""
        self._more: dict[str, list[More]] = {}
        """What is added to the list of a name."""
        self._imported: dict[str, str] = {}
        """A name in the file -> what of vLLM or of Ray it is: "LLM" -> "vllm.LLM", "v" -> "vllm"."""
        self._starred = False
        """Whether all of vLLM's names are imported; then a class of the file's own goes before one of those."""
        self._own: set[str] = set()
        """What the file defines, or imports from elsewhere."""

    def class_of(self, function: ast.expr) -> str | None:
        """The class of vLLM that is called, or Ray's LLMConfig, under the name that the file gives it."""
        first, dot, rest = dotted(function).partition(".")
        known = self._imported.get(first) or (f"vllm.{first}" if self._starred and first not in self._own else "")
        whole = f"{known}{dot}{rest}" if known else ""
        name = whole.rpartition(".")[2]
        return name if name in (CLASSES if whole.startswith("vllm.") else (LLM_CONFIG,)) else None

    def added_to(self, node: ast.expr) -> Sequence[More]:
        """What is added to a list that stands in the program, after it was made."""
        return self._more.get(self._lists.get(id(node), ""), ())

    def learn(self, node: ast.AST, scope: Scope) -> None:
        """Take in one node; all of a file in its order."""
        if isinstance(node, ast.ImportFrom | ast.Import):
            self._import(node)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            self._own.add(node.name)
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
                self._more.setdefault(of, []).append(More(items=node.args, scope=scope))
            elif method in _CHANGES_A_MAPPING:
                self.values.names[of] = None

    def _add(self, name: str, value: ast.expr, scope: Scope) -> None:
        items: Sequence[ast.expr] = [ast.Starred(value, lineno=value.lineno)]
        if isinstance(value, ast.List | ast.Tuple):
            items = value.elts
        self._more.setdefault(name, []).append(More(items=items, scope=scope))

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
                self._own.add(name)
            elif name == "*":
                self._starred = self._starred or whole.startswith("vllm.")
            else:
                self._imported[name] = whole

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        names = self.values.names
        if isinstance(target, ast.Name):
            names[target.id] = None if target.id in names else value
            self._lists[id(value)] = target.id
        elif isinstance(target, ast.Subscript) and dotted(target.value) == "os.environ" and _is_text(target.slice):
            try:
                name, text = self.values.value(target.slice), self.values.value(value)
            except Unknown:
                return
            self.environment[str(name)] = str(text)
        else:
            for name_node in ast.walk(target):
                if isinstance(name_node, ast.Name) and isinstance(name_node.ctx, ast.Store):
                    names[name_node.id] = None


_CHANGES_A_MAPPING = frozenset(("clear", "pop", "popitem", "setdefault", "update"))


def installed_vllm(nodes: Iterable[tuple[ast.AST, Scope]], values: Values) -> str | None:
    """The one vLLM that the images of a file install: `.uv_pip_install("vllm==0.13.0")`."""
    versions = set()
    for node, _ in nodes:
        if isinstance(node, ast.Call) and name_of(node.func) in ("pip_install", "uv_pip_install"):
            versions |= {_installed(argument, values) for argument in node.args} - {None}
    return versions.pop() if len(versions) == 1 else None


def _installed(argument: ast.expr, values: Values) -> str | None:
    try:
        value = values.value(argument)
    except Unknown:
        return None
    return installed_version(["install", *map(str, value if isinstance(value, list) else [value])])


def scoped(tree: ast.AST) -> Iterator[tuple[ast.AST, Scope]]:
    """Every node, what stands first in the file first."""
    queue: list[tuple[ast.AST, Scope]] = [(tree, Scope())]
    while queue:
        node, scope = queue.pop()
        yield node, scope
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope = Scope(gpu=_gpu_of(node.decorator_list) or scope.gpu)
        elif isinstance(node, ast.If | ast.For | ast.While | ast.ExceptHandler):
            scope = replace(scope, condition=node)
        queue.extend((child, scope) for child in reversed(list(ast.iter_child_nodes(node))))


def _gpu_of(decorators: Iterable[ast.expr]) -> ast.expr | None:
    """@app.function(gpu="H100:2")"""
    keywords = [word for one in decorators if isinstance(one, ast.Call) for word in one.keywords if word.arg == "gpu"]
    return keywords[0].value if keywords else None


def name_of(function: ast.expr) -> str:
    """The last part of a function's name, whatever it is a part of."""
    return function.attr if isinstance(function, ast.Attribute) else dotted(function)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
