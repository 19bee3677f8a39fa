"""Dockerfiles: what a container of each final stage runs, by ENTRYPOINT, CMD, ENV, ARG and the stages before it."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from planner.errors import InputError
from planner.gate.bash.expand import expanded
from planner.gate.bash.state import initial
from planner.gate.bash.walk import launches_in
from planner.gate.command import Context, launch_of_image, launches_of
from planner.gate.containers import installed_version
from planner.gate.launch import Launch, Word
from planner.gate.source import Lookup, Source
from planner.text import printable


@dataclass(frozen=True, kw_only=True)
class _Instruction:
    """ENTRYPOINT or CMD."""

    line: int
    end_line: int
    words: tuple[Word, ...] | None
    """Of the exec form, in which nothing is expanded."""
    text: str = ""
    """Of the shell form, line by line."""


@dataclass(frozen=True, kw_only=True)
class _Stage:
    image: str
    environment: Mapping[str, str | None] = field(default_factory=dict)
    """Of containers: ENV."""
    arguments: Mapping[str, str | None] = field(default_factory=dict)
    """While building: ARG."""
    entrypoint: _Instruction | None = None
    command: _Instruction | None = None
    version: str | None = None
    own: bool = False
    """Whether this stage itself says what it runs."""


def read(source: Source, lookup: Lookup) -> Iterable[Launch]:
    """What the final stages' ENTRYPOINT and CMD start, and what here-documents hold, in order of lines."""
    lines, documents = _without_here_documents(source.lines)
    context = Context(source=source, lookup=lookup, line=1, end_line=len(lines), settle=True)
    launches = [launch for stage in _final_stages(source, lines) for launch in _launches(stage, context)]
    for first_line, text in documents:
        launches += launches_in(text, replace(context, settle=False), first_line)
    return sorted(launches, key=lambda launch: launch.line)


def _final_stages(source: Source, lines: list[str]) -> list[_Stage]:
    """Those that no later stage is made from."""
    from dockerfile_parse import DockerfileParser

    content = "\n".join(lines).encode()
    stages: dict[str, _Stage] = {}
    used: set[str] = set()
    before: dict[str, str | None] = {}
    name = ""
    for part in DockerfileParser(fileobj=io.BytesIO(content)).structure:
        kind, value = part["instruction"], part["value"]
        line, end_line = part["startline"] + 1, part["endline"] + 1
        if kind == "FROM":
            words = [word for word in value.split() if not word.startswith("--")]
            if not words:
                raise InputError(f"{source.file}:{line}: FROM names no image")
            base = _text(words[0], before, line)
            name = words[2] if len(words) > 2 and words[1].lower() == "as" else f"stage {len(stages)}"
            parent = stages.get(base)
            used |= {base} if parent is not None else set()
            stages[name] = replace(parent, own=False) if parent is not None else _Stage(image=base)
        elif not stages:
            before |= _pairs(value, before, line) if kind == "ARG" else {}
        else:
            instruction = _Part(kind=kind, value=value, line=line, end_line=end_line, lines=lines, outer=before)
            stages[name] = _with(stages[name], instruction)
    return [stage for name, stage in stages.items() if name not in used and stage.own]


@dataclass(frozen=True, kw_only=True)
class _Part:
    kind: str
    value: str
    line: int
    end_line: int
    lines: list[str]
    outer: Mapping[str, str | None]
    """ARGs from before the first FROM."""


def _with(stage: _Stage, part: _Part) -> _Stage:
    known = {**stage.arguments, **stage.environment}
    if part.kind == "ENV":
        return replace(stage, environment={**stage.environment, **_pairs(part.value, known, part.line)})
    if part.kind == "ARG":
        given = _pairs(part.value, known, part.line)
        given |= {name: part.outer[name] for name, value in given.items() if value is None and name in part.outer}
        return replace(stage, arguments={**stage.arguments, **given})
    if part.kind == "RUN":
        return replace(stage, version=installed_version(re.split(r"[\s;&|'\"]+", part.value)) or stage.version)
    if part.kind == "ENTRYPOINT":  # it takes back a CMD that comes from the image
        return replace(stage, entrypoint=_instruction(part), command=stage.command if stage.own else None, own=True)
    if part.kind == "CMD":
        return replace(stage, command=_instruction(part), own=True)
    return stage


def _pairs(value: str, known: Mapping[str, str | None], line: int) -> dict[str, str | None]:
    """NAME=value … of ENV and ARG, or the old form NAME value; None for what is not known here."""
    first = value.split(maxsplit=1)
    if first and "=" not in first[0]:
        return {first[0]: _known(first[1], known, line) if len(first) > 1 else None}
    try:
        words = shlex.split(value)
    except ValueError:
        return {}
    found: dict[str, str | None] = {}
    for word in words:
        name, equals, text = word.partition("=")
        found[name] = _known(text, {**known, **found}, line) if equals else None
    return found


def _known(text: str, known: Mapping[str, str | None], line: int) -> str | None:
    word = expanded(text, initial(known, line), line)
    return None if word.unknown is not None else word.text


def _text(text: str, known: Mapping[str, str | None], line: int) -> str:
    return expanded(text, initial(known, line), line).text


def _instruction(part: _Part) -> _Instruction:
    """Lines of comments within it count as empty."""
    own = part.lines[part.line - 1 : part.end_line]
    own = [own[0], *("\\" if line.lstrip().startswith("#") else line for line in own[1:])]
    head = re.match(r"\s*\w+\s*", own[0])
    text = "\n".join([" " * (head.end() if head else 0) + own[0][head.end() if head else 0 :], *own[1:]])
    try:
        array = json.loads(part.value)
    except (ValueError, RecursionError):
        array = None
    words = None
    if isinstance(array, list) and all(isinstance(item, str) for item in array):
        words = tuple(_in_exec_form(text, array, part.line))
    return _Instruction(line=part.line, end_line=part.end_line, words=words, text=text)


def _in_exec_form(text: str, array: list[str], line: int) -> Iterable[Word]:
    at = 0
    for item in array:
        found = text.find(json.dumps(item, ensure_ascii=False), at)
        at = found + 1 if found >= 0 else at
        unexpanded = re.search(r"\$\{?[A-Za-z_]\w*\}?", item)
        unknown = f"{unexpanded[0]} (the exec form expands nothing)" if unexpanded else None
        yield Word(text=item, line=line + text[:at].count("\n"), unknown=unknown)


def _launches(stage: _Stage, context: Context) -> list[Launch]:
    entry, command = stage.entrypoint, stage.command
    parts = [part for part in (entry, command) if part is not None]
    around = context.with_(
        line=min(part.line for part in parts),
        end_line=max(part.end_line for part in parts),
        environment=stage.environment,
        image=stage.image,
        version=stage.version,
    )
    if entry is not None and entry.words is None:
        return launches_in(entry.text, around.with_(line=entry.line, end_line=entry.end_line), entry.line)
    if entry is not None:
        assert entry.words is not None
        return launches_of([*entry.words, *_as_words(command)], around)
    assert command is not None
    if command.words is None:
        return launches_in(command.text, around, command.line)
    return launch_of_image(command.words, around)


def _as_words(command: _Instruction | None) -> tuple[Word, ...]:
    if command is None:
        return ()
    if command.words is not None:
        return command.words
    text = printable(command.text.strip(), 10_000)
    return tuple(Word(text=word, line=command.line) for word in ("/bin/sh", "-c", text))


_HERE = re.compile(r"<<-?\s*([\"']?)([A-Za-z_]\w*)\1")


def _without_here_documents(lines: tuple[str, ...]) -> tuple[list[str], list[tuple[int, str]]]:
    """(the lines with the bodies of here-documents emptied, those bodies that may be scripts with their first lines)"""
    kept: list[str] = []
    bodies: list[tuple[int, str]] = []
    index = 0
    while index < len(lines):
        line = lines[index]
        kept.append(line)
        index += 1
        if not re.match(r"\s*(RUN|COPY|ADD)\b", line, re.IGNORECASE):
            continue
        for _, end in _HERE.findall(line):
            first = index
            while index < len(lines) and lines[index].strip() != end:
                kept.append("")
                index += 1
            if "vllm" in "".join(lines[first:index]).lower():
                bodies.append((first + 1, "\n".join(lines[first:index])))
            if index < len(lines):
                kept.append("")
                index += 1
    return kept, bodies
