"""What a script has set at one point of it, and such states together, one for each way through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any

from planner.gate.launch import Word

if TYPE_CHECKING:
    from tree_sitter import Node

Value = tuple[Word, ...]
"""A variable's: one word, or those of an array."""
MAX_TEXT = 1 << 16
"""Characters of a value: A=$A$A doubles with each line."""
TOO_LONG = "a value of more than 64 KiB"
MAX_WORDS = 5_000
"""Of an array, and of one argument."""
MAX_STATES = 8
"""Ways through a script that are followed at once; beyond, what they set differently is unknown."""


@dataclass(frozen=True, kw_only=True)
class State:
    """Immutable: a branch of the script goes on with a copy."""

    variables: Mapping[str, Value] = field(default_factory=dict)
    exported: frozenset[str] = frozenset()
    functions: Mapping[str, Node] = field(default_factory=dict)
    positional: Value | None = None
    """$1, $2 …; None outside a function, where they come from whoever runs the script."""
    gpus: int | None = None
    """Those that nvidia-smi lists."""
    version: str | None = None
    """The vLLM that the script installs."""

    def set(self, name: str, value: Value, *, export: bool = False) -> State:
        """With one variable more, exported to commands where asked for."""
        exported = self.exported | {name} if export else self.exported
        return replace(self, variables={**self.variables, name: value}, exported=exported)

    def with_(self, **changes: Any) -> State:
        """A copy with other fields."""
        return replace(self, **changes)

    @property
    def environment(self) -> dict[str, str | None]:
        """What a command inherits."""
        return {name: only_text(self.variables[name]) for name in self.exported if name in self.variables}


def left_open(name: str, line: int) -> Value:
    """A variable that is set to something that the file does not decide."""
    return (Word(text=f"${name}", line=line, unknown=f"${name}"),)


def only_text(value: Value) -> str | None:
    """A variable's text; None where the file does not decide it."""
    if not value:
        return ""
    return None if value[0].unknown is not None else value[0].text


def initial(environment: Mapping[str, str | None], line: int) -> State:
    """A script that starts with these variables; $0 $1 … among them are its arguments."""
    variables: dict[str, Value] = {}
    positional: dict[int, Word] = {}
    for name, text in environment.items():
        (word,) = left_open(name, line) if text is None else (Word(text=text, line=line),)
        if name.isascii() and name.isdigit() and len(name) < 4:
            positional[int(name)] = word
        else:
            variables[name] = (word,)
    given = tuple(positional[i] for i in takewhile(positional.__contains__, count(1))) if 0 in positional else None
    return State(variables=variables, exported=frozenset(variables), positional=given)


def appended(old: Value | None, more: Value, *, array: bool) -> Value:
    """A variable's value after A+=more, or after A+=(more) for an array."""
    if array:
        return (*(old or ()), *more)[:MAX_WORDS]
    if not old:
        return more
    last = old[0]
    text = last.text + (more[0].text if more else "")
    unknown = last.unknown or (more[0].unknown if more else None) or (TOO_LONG if len(text) > MAX_TEXT else None)
    return (replace(last, text=text[:MAX_TEXT], unknown=unknown), *old[1:])


def unique(states: Sequence[State]) -> list[State]:
    """Each once."""
    found: list[State] = []
    for state in states:
        if not any(state is other or state == other for other in found):
            found.append(state)
    return found


def bounded(states: list[State]) -> list[State]:
    """At most MAX_STATES: beyond, one in which what differs is unknown."""
    states = unique(states)
    if len(states) <= MAX_STATES:
        return states
    merged = dict(states[0].variables)
    for name in {name for state in states for name in state.variables}:
        values = [state.variables.get(name) for state in states]
        if any(value != values[0] for value in values):
            line = next((value[0].line for value in values if value), 1)  # an array with nothing in it has none
            merged[name] = left_open(name, line)
    return [replace(states[0], variables=merged)]
