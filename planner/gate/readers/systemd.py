"""systemd units: ExecStart with the unit's own Environment=, and podman's Quadlet containers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from planner.gate.bash.walk import launches_in
from planner.gate.command import Context, launch_of_image
from planner.gate.launch import Launch, Word
from planner.gate.source import Lookup, Source


def read(source: Source, lookup: Lookup) -> Iterable[Launch]:
    """What ExecStart starts, in a unit or a Podman container file."""
    settings = list(_settings(source.lines))
    environment = _environment(text for _, _, key, text in settings if key in ("Environment", "PassEnvironment"))
    context = Context(source=source, lookup=lookup, line=1, end_line=len(source.lines), environment=environment)
    launches: list[Launch] = []
    for line, end_line, key, text in settings:
        if key == "ExecStart":
            around = context.with_(line=line, end_line=end_line, settle=True)
            launches += launches_in(_command(text), around, line)
    return launches + _container(settings, context)


def _settings(lines: tuple[str, ...]) -> Iterable[tuple[int, int, str, str]]:
    """(first line, last line, key, value with its line breaks); comments within continued lines are dropped."""
    index = 0
    while index < len(lines):
        first = index
        parts = [lines[index]]
        while parts[-1].rstrip().endswith("\\") and index + 1 < len(lines):
            index += 1
            comment = lines[index].lstrip().startswith(("#", ";"))
            parts.append("\\" if comment else lines[index])
        index += 1
        key, equals, value = parts[0].partition("=")
        if equals and not key.lstrip().startswith(("#", ";", "[")):
            yield first + 1, index, key.strip(), "\n".join([value, *parts[1:]])


def _environment(values: Iterable[str]) -> dict[str, str | None]:
    """Environment="A=b" C=d; an empty one takes back what came before."""
    environment: dict[str, str | None] = {}
    for value in values:
        text = value.replace("\\\n", " ").strip()
        if not text:
            environment = {}
        try:
            words = shlex.split(text)
        except ValueError:
            continue
        for word in words:
            name, equals, content = word.partition("=")
            environment[name] = (
                (None if "%" in content.replace("%%", "") else content.replace("%%", "%")) if equals else None
            )
    return environment


def _command(text: str) -> str:
    """As a shell reads it: without systemd's prefixes; $$ is a dollar, %i is not known, ; and | are words."""
    text = re.sub(r"^(\s*)[@:+!|\-]+", r"\1", text)
    text = text.replace("$$", "\\$")
    text = re.sub(r"%(%|[a-zA-Z])", lambda found: "%" if found[1] == "%" else "${systemd_" + found[1] + "}", text)
    return re.sub(r"(?<=\s)([;|&<>])(?=\s)", r"\\\1", text)


def _container(settings: list[tuple[int, int, str, str]], context: Context) -> list[Launch]:
    """A Quadlet unit: [Container] with Image= and Exec=."""
    values = {key: (line, end_line, text) for line, end_line, key, text in settings}
    if "Image" not in values:
        return []
    line, _, image = values["Image"]
    start, end_line, text = values.get("Exec", (line, line, ""))
    words = [
        Word(text=word, line=start + number)
        for number, part in enumerate(text.split("\n"))
        for word in _split(part.removesuffix("\\"))
    ]
    devices = sum(1 for *_, key, value in settings if key == "AddDevice" and re.match(r"nvidia\.com/gpu=\d", value))
    around = context.with_(
        line=min(line, start), end_line=max(line, end_line), image=image.strip(), gpus=devices or None, settle=True
    )
    return launch_of_image(words, around)


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()
