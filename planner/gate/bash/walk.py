"""The statements of a script in order: what each branch sets, and the launches of every branch.

Where the script decides a condition, variables go on with that branch; where it does not (`if [ "$GPU" = h100 ]`), the
rest of the script is followed once for each, so that a launch after it is judged in every form. Launches in branches
that are not taken are launches all the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from planner.errors import InputError
from planner.gate.bash.documents import here_document
from planner.gate.bash.expand import Expander, Lines
from planner.gate.bash.parse import MAX_DEPTH, text_of, tree_of
from planner.gate.bash.state import State, Value, appended, bounded, initial, left_open, only_text, unique
from planner.gate.bash.truth import truth
from planner.gate.command import Context, launches_of
from planner.gate.containers import installed_version
from planner.gate.launch import Launch, Word

if TYPE_CHECKING:
    from tree_sitter import Node

MAX_STEPS = 20_000
MAX_REPEATS = 50
"""Times round a for loop."""
MAX_CALLS = 8
"""Functions within functions."""


def launches_in(text: str, context: Context, first_line: int) -> list[Launch]:
    """The launches of a script that stands in the file from first_line on, each once, in the order of their lines.

    A launch's own lines are those of its command, or the context's where that is settled.
    """
    walker = _Walker(context, first_line)
    states = walker.run(
        tree_of(text, context.source.file), [initial(context.environment, first_line).with_(gpus=context.gpus_here)]
    )
    walker.uncalled(states)
    unique = {
        (launch.line, launch.model, repr(sorted(launch.args.items())), launch.problem): launch
        for launch in walker.found
    }
    return sorted(unique.values(), key=lambda launch: launch.line)


class _Walker:
    def __init__(self, context: Context, first_line: int) -> None:
        self.context, self.first_line = context, first_line
        self.found: list[Launch] = []
        self.steps = 0
        self.calls: list[str] = []
        self.called: set[str] = set()
        self.sourcing = 0

    def run(self, node: Node, states: list[State], depth: int = 0) -> list[State]:
        """The states after a statement; none where the script ends in it."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise InputError(f"{self.context.source.file}: a script of too many steps to follow")
        if depth > MAX_DEPTH:
            raise InputError(f"{self.context.source.file}: nested more than {MAX_DEPTH} levels deep")
        statement = _STATEMENTS.get(node.type)
        if statement is None:
            return self._all(node.children, states, depth)
        return bounded([after for state in states for after in statement(self, node, state, depth)])

    def _all(self, nodes: Iterable[Node], states: list[State], depth: int) -> list[State]:
        for node in nodes:
            if node.is_named and node.type not in _WORDS:
                states = self.run(node, states, depth + 1)
        return states

    def uncalled(self, states: list[State]) -> None:
        """Functions that nothing calls here: their launches, with whatever arguments."""
        for state in states[:1]:
            for name, body in state.functions.items():
                if name not in self.called:
                    self.run(body, [state.with_(positional=None)])

    # -- statements ----------------------------------------------------------------------------------------------------

    def assignment(self, node: Node, state: State, depth: int) -> list[State]:
        return [self._assigned(node, state, depth)]

    def declaration(self, node: Node, state: State, depth: int) -> list[State]:
        words = [text_of(child) for child in node.children if child.type in ("word", "export", "declare")]
        export = "export" in words or any(re.fullmatch(r"-\w*x\w*", word) for word in words)
        for child in node.named_children:
            if child.type == "variable_assignment":
                state = self._assigned(child, state, depth, export=export)
            elif child.type == "variable_name" and export:
                state = replace(state, exported=state.exported | {text_of(child)})
        return [state]

    def _assigned(self, node: Node, state: State, depth: int, *, export: bool = False) -> State:
        name_node, value_node = node.child_by_field_name("name"), node.child_by_field_name("value")
        if name_node is None or name_node.type != "variable_name":
            return state
        name = text_of(name_node)
        line = self._lines.of(node.start_point.row)
        value: Value = (Word(text="", line=line),)
        if value_node is not None:
            self._substitutions(value_node, state, depth)
            value = self._expander(state).value(value_node)
        if any(child.type == "+=" for child in node.children):
            value = appended(
                state.variables.get(name), value, array=value_node is not None and value_node.type == "array"
            )
        return state.set(name, value, export=export)

    def command(self, node: Node, state: State, depth: int) -> list[State]:
        prefix: dict[str, str | None] = {}
        expander = self._expander(state)
        words: list[Word] = []
        for child in node.children:
            if child.type == "variable_assignment":
                inner = self._assigned(child, state, depth)
                name = child.child_by_field_name("name")
                if name is not None:
                    prefix[text_of(name)] = only_text(inner.variables.get(text_of(name), ()))
            elif child.is_named and not child.type.endswith("redirect") and child.type != "comment":
                self._substitutions(child, state, depth)
                words += expander.words(child)
        return self._command(node, words, prefix, state, depth)

    def _command(
        self, node: Node, words: list[Word], prefix: Mapping[str, str | None], state: State, depth: int
    ) -> list[State]:
        while words and not words[0].text and words[0].unknown is None:
            words = words[1:]
        if not words:
            return [state]
        name = words[0].text
        if name in state.functions and len(self.calls) < MAX_CALLS and name not in self.calls:
            return self._call(name, words[1:], state, depth)
        builtin = _BUILTINS.get(name)
        if builtin is not None:
            return builtin(self, node, words, state, depth)
        self._launches(node, words, prefix, state)
        return [_with_installed(words, state)]

    def _call(self, name: str, arguments: list[Word], state: State, depth: int) -> list[State]:
        self.called.add(name)
        self.calls.append(name)
        try:
            inside = self.run(state.functions[name], [state.with_(positional=tuple(arguments))], depth + 1)
        finally:
            self.calls.pop()
        own = _locals_of(state.functions[name])
        outer = {variable: value for variable, value in state.variables.items() if variable in own}
        return [
            after.with_(
                positional=state.positional,
                variables={**{key: value for key, value in after.variables.items() if key not in own}, **outer},
            )
            for after in inside
        ]

    def _launches(self, node: Node, words: list[Word], prefix: Mapping[str, str | None], state: State) -> None:
        if self.sourcing:
            return
        self.found += launches_of(words, self._context(node, {**state.environment, **prefix}, state))

    def _context(self, node: Node, environment: Mapping[str, str | None], state: State) -> Context:
        context = self.context.with_(
            environment={**self.context.environment, **environment}, version=state.version or self.context.version
        )
        if context.settle:
            return context
        # What a wrapper runs (bash -c "…") is reported where the wrapper stands.
        return context.with_(
            line=self._lines.of(node.start_point.row), end_line=self._lines.of(node.end_point.row), settle=True
        )

    def redirected(self, node: Node, state: State, depth: int) -> list[State]:
        """A command with its redirections: a here-document may be a script for it, or a file that it writes."""
        body = node.child_by_field_name("body")
        states = [state] if body is None else self.run(body, [state], depth + 1)
        for redirect in node.children:
            if redirect.type == "heredoc_redirect":
                self._here_document(redirect, body, node, state)
                following = [child for child in redirect.named_children if not child.type.startswith("heredoc")]
                states = self._all(following, states, depth)
        return states

    def _here_document(self, redirect: Node, body: Node | None, whole: Node, state: State) -> None:
        words = [word for child in (body.named_children if body else ()) for word in self._expander(state).words(child)]
        found = here_document(redirect, words, _targets(whole, redirect, self._expander(state)))
        if found is None:
            return
        first_line = self.first_line + found.row
        if found.kind == "script":
            far = any(word.text == "ssh" for word in words)
            known = {name: only_text(value) for name, value in state.variables.items()} if found.expanded else {}
            environment = {**({} if far else state.environment), **known}
            context = replace(self.context, environment=environment, depth=self.context.depth + 1, settle=False)
            self.found += launches_in(found.text, context, first_line) if context.depth < _MAX_SCRIPTS else []
        else:
            self._file(found.kind, found.text, first_line)

    def _file(self, name: str, text: str, first_line: int) -> None:
        """A file that the script writes, read as its reader would, at its own lines."""
        from planner.gate.readers import reader_of

        reader = reader_of(Path(name))
        if reader is not None:
            padded = replace(self.context.source, text="\n" * (first_line - 1) + text)
            self.found += reader.read(padded, self.context.lookup)

    def function(self, node: Node, state: State, depth: int) -> list[State]:
        name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
        if name is None or body is None:
            return [state]
        return [state.with_(functions={**state.functions, text_of(name): body})]

    def condition(self, node: Node, state: State, depth: int) -> list[State]:
        """if, elif, else: every branch is walked; states go on from those that may be taken."""
        after: list[State] = []
        open_states = [state]
        decided = False
        for test, statements in _branches(node):
            if test is not None:
                open_states = self._all(test, open_states, depth)
            holds = True if test is None else self._truth(test, state)
            ends = self._all(statements, open_states, depth)
            if not decided and holds is not False:
                after += ends
            decided = decided or holds is True
        return unique(after if decided else [*after, *open_states])

    def _truth(self, test: Sequence[Node], state: State) -> bool | None:
        named = [node for node in test if node.is_named and node.type != "comment"]
        return truth(named[0], self._expander(state)) if len(named) == 1 else None

    def case(self, node: Node, state: State, depth: int) -> list[State]:
        value_node = node.child_by_field_name("value")
        value = self._expander(state).value(value_node) if value_node is not None else ()
        subject = only_text(value) if value else None
        after: list[State] = []
        exhaustive = False
        for item in node.named_children:
            if item.type != "case_item":
                continue
            patterns = [text_of(one).strip("\"'") for one in item.children_by_field_name("value")]
            first = len(item.children_by_field_name("value"))
            ends = self._all(item.named_children[first:], [state], depth)
            if subject is None:
                after += ends
            elif not exhaustive and (subject in patterns or "*" in patterns):
                after, exhaustive = ends, True
            exhaustive = exhaustive or "*" in patterns
        return unique(after if exhaustive else [*after, state])

    def for_loop(self, node: Node, state: State, depth: int) -> list[State]:
        variable, body = node.child_by_field_name("variable"), node.child_by_field_name("body")
        if body is None:
            return [state]
        values = [word for child in node.children_by_field_name("value") for word in self._expander(state).words(child)]
        if variable is None or not values or len(values) > MAX_REPEATS:
            name = text_of(variable) if variable is not None else ""
            return self.run(body, [self._left_open([name], node, state) if name else state], depth + 1)
        states = [state]
        for word in values:
            states = self.run(body, [one.set(text_of(variable), (word,)) for one in states], depth + 1)
        return states

    def counting_loop(self, node: Node, state: State, depth: int) -> list[State]:
        """for ((A = 1; A < 3; A++))"""
        body = node.child_by_field_name("body")
        inside = self._left_open(_computed(text_of(node).partition("))")[0]), node, state)
        return self.run(body, [inside], depth + 1) if body is not None else [inside]

    def while_loop(self, node: Node, state: State, depth: int) -> list[State]:
        """Walked once; loops that read options change nothing when the script gets none."""
        condition, body = node.children_by_field_name("condition"), node.child_by_field_name("body")
        inside = self._all(condition, [state], depth)
        if body is not None:
            self.run(body, inside, depth + 1)
        return [state]

    def list_of(self, node: Node, state: State, depth: int) -> list[State]:
        """a && b, a || b: b's launches count either way; what it sets, where a does not rule it out."""
        left, right = node.named_children[0], node.named_children[-1]
        operator = next((child.type for child in node.children if child.type in ("&&", "||")), "&&")
        before = self.run(left, [state], depth + 1)
        tests = _is_test(left)
        holds = truth(left, self._expander(state)) if tests else True
        after = self.run(right, before or [state], depth + 1)
        if holds is None:
            return unique([*before, *after])
        return after if holds is (operator == "&&") else before

    def compound(self, node: Node, state: State, depth: int) -> list[State]:
        """{ a; b; }, or ((A = 1)) whose arithmetic is not followed."""
        if node.children[0].type == "((":
            return [self._left_open(_computed(text_of(node)), node, state)]
        return self._all(node.children, [state], depth)

    def apart(self, node: Node, state: State, depth: int) -> list[State]:
        """A subshell, a pipeline: what it sets is lost."""
        self._all(node.children, [state], depth)
        return [state]

    def nothing(self, node: Node, state: State, depth: int) -> list[State]:
        return [state]

    def unset(self, node: Node, state: State, depth: int) -> list[State]:
        gone = {text_of(child) for child in node.named_children}
        return [replace(state, variables={name: value for name, value in state.variables.items() if name not in gone})]

    def test(self, node: Node, state: State, depth: int) -> list[State]:
        self._substitutions(node, state, depth)
        return [state]

    # -- builtins ------------------------------------------------------------------------------------------------------

    def leave(self, node: Node, words: list[Word], state: State, depth: int) -> list[State]:
        return []

    def replace_process(self, node: Node, words: list[Word], state: State, depth: int) -> list[State]:
        self._launches(node, words, {}, state)
        background = node.next_sibling is not None and node.next_sibling.type == "&"
        return [state] if background or len(words) == 1 else []

    def evaluate(self, node: Node, words: list[Word], state: State, depth: int) -> list[State]:
        text = " ".join(word.text for word in words[1:])
        unknown = next((word.unknown for word in words if word.unknown), None)
        self._launches(
            node,
            [
                Word(text="sh", line=words[0].line),
                Word(text="-c", line=words[0].line),
                Word(text=text, line=words[0].line, unknown=unknown),
            ],
            {},
            state,
        )
        return [state]

    def arguments(self, node: Node, words: list[Word], state: State, depth: int) -> list[State]:
        """set -- a b"""
        if len(words) > 1 and words[1].text == "--":
            return [state.with_(positional=tuple(words[2:]))]
        return [state]

    def shift(self, node: Node, words: list[Word], state: State, depth: int) -> list[State]:
        count = words[1].text if len(words) > 1 else "1"
        if state.positional is None or not count.isdigit():
            return [state]
        return [state.with_(positional=state.positional[int(count[:4]) :])]

    def input(self, node: Node, words: list[Word], state: State, depth: int) -> list[State]:
        """read A B, mapfile A, getopts LETTERS A"""
        return [self._left_open([word.text for word in words[1:]], node, state)]

    def printed(self, node: Node, words: list[Word], state: State, depth: int) -> list[State]:
        """printf -v A"""
        texts = [word.text for word in words]
        return [self._left_open(texts[texts.index("-v") + 1 :][:1], node, state) if "-v" in texts else state]

    def let(self, node: Node, words: list[Word], state: State, depth: int) -> list[State]:
        return [self._left_open(_computed(" ".join(word.text for word in words[1:])), node, state)]

    def include(self, node: Node, words: list[Word], state: State, depth: int) -> list[State]:
        """source FILE: what it sets and defines. Its own launches are found where it is read for itself."""
        if len(words) < 2 or self.sourcing >= _MAX_SCRIPTS:
            return [state]
        name = words[1].text if words[1].unknown is None else words[1].text.rpartition("/")[2]
        found = self.context.lookup.read(self.context.source, name) if name else None
        if found is None or found.path == self.context.source.path:
            return [state]
        first_line, self.first_line, self.sourcing = self.first_line, 1, self.sourcing + 1
        source, self.context = self.context.source, self.context.with_(source=found)
        try:
            return self.run(tree_of(found.text, found.file), [state], depth + 1)
        finally:
            self.first_line, self.sourcing = first_line, self.sourcing - 1
            self.context = self.context.with_(source=source)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _left_open(self, names: Iterable[str], node: Node, state: State) -> State:
        """With variables set to what is not followed."""
        line = self._lines.of(node.start_point.row)
        for name in names:
            if re.fullmatch(r"[A-Za-z_]\w*", name):
                state = state.set(name, left_open(name, line))
        return state

    def _expander(self, state: State) -> Expander:
        return Expander(state, self._lines, self.context.source.file if self.sourcing else None)

    @property
    def _lines(self) -> Lines:
        return Lines(self.first_line, len(self.context.source.lines))

    def _substitutions(self, node: Node, state: State, depth: int) -> None:
        """The commands within $(…) run too."""
        if node.type in ("command_substitution", "process_substitution"):
            self._all(node.children, [state], depth + 1)
            return
        for child in node.named_children if depth < MAX_DEPTH else ():
            self._substitutions(child, state, depth + 1)


_MAX_SCRIPTS = 5
"""Scripts within scripts."""

_Statement = Callable[[_Walker, "Node", State, int], list[State]]
_STATEMENTS: Mapping[str, _Statement] = {
    "variable_assignment": _Walker.assignment,
    "declaration_command": _Walker.declaration,
    "command": _Walker.command,
    "redirected_statement": _Walker.redirected,
    "function_definition": _Walker.function,
    "if_statement": _Walker.condition,
    "case_statement": _Walker.case,
    "for_statement": _Walker.for_loop,
    "c_style_for_statement": _Walker.counting_loop,
    "while_statement": _Walker.while_loop,
    "list": _Walker.list_of,
    "compound_statement": _Walker.compound,
    "subshell": _Walker.apart,
    "pipeline": _Walker.apart,
    "test_command": _Walker.test,
    "comment": _Walker.nothing,
    "heredoc_body": _Walker.nothing,
    "unset_command": _Walker.unset,
}
_WORDS = frozenset("word string raw_string ansi_c_string concatenation number simple_expansion variable_name".split())
"""What is no statement, where the parser could make no sense of a script."""
_Builtin = Callable[[_Walker, "Node", list[Word], State, int], list[State]]
_BUILTINS: Mapping[str, _Builtin] = {
    "exit": _Walker.leave,
    "exec": _Walker.replace_process,
    "eval": _Walker.evaluate,
    "set": _Walker.arguments,
    "shift": _Walker.shift,
    "read": _Walker.input,
    "mapfile": _Walker.input,
    "readarray": _Walker.input,
    "getopts": _Walker.input,
    "printf": _Walker.printed,
    "let": _Walker.let,
    "source": _Walker.include,
    ".": _Walker.include,
}


def _branches(node: Node) -> list[tuple[list[Node] | None, list[Node]]]:
    """(test, statements) of if and each elif, and (None, statements) of else."""
    branches: list[tuple[list[Node] | None, list[Node]]] = []
    clauses: list[Node] = [node]
    while clauses:
        clause = clauses.pop(0)
        test: list[Node] = []
        statements: list[Node] = []
        into = test if clause.type != "else_clause" else statements
        for child in clause.children:
            if child.type == "then":
                into = statements
            elif child.type in ("elif_clause", "else_clause"):
                clauses.append(child)
            elif child.is_named:
                into.append(child)
        branches.append((test if clause.type != "else_clause" else None, statements))
    return branches


def _locals_of(body: Node) -> set[str]:
    """The variables that a function declares, which are its own."""
    found: set[str] = set()
    nodes = [body]
    while nodes:
        node = nodes.pop()
        nodes += node.named_children
        if node.type == "declaration_command" and node.children[0].type in ("local", "declare", "typeset"):
            assigned = (child.child_by_field_name("name") or child for child in node.named_children)
            found |= {text_of(child) for child in assigned}
    return found


def _computed(text: str) -> list[str]:
    """The variables that arithmetic sets: A = 1, A += 1, A++, --A."""
    sets = r"(\w+)\s*(?:(?:[-+*/%&|^]|<<|>>)?=(?!=)|\+\+|--)|(?:\+\+|--)\s*(\w+)"
    return [after or before for after, before in re.findall(sets, text)]


def _is_test(node: Node) -> bool:
    return node.type in ("test_command", "negated_command") or (
        node.type == "command" and node.named_child_count > 0 and text_of(node.named_children[0]) == "test"
    )


def _with_installed(words: Sequence[Word], state: State) -> State:
    """Which vLLM the rest of the script launches."""
    version = installed_version([word.text for word in words])
    return state.with_(version=version) if version is not None else state


def _targets(whole: Node, redirect: Node, expander: Expander) -> list[str]:
    found = []
    for child in (*whole.children, *redirect.children):
        if child.type == "file_redirect":
            destination = child.child_by_field_name("destination")
            found += [word.text for word in expander.words(destination)] if destination is not None else []
    return found
