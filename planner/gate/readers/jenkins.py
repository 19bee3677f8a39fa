"""Jenkinsfiles: the texts of `sh` steps, with the variables of `environment` blocks; nothing else of Groovy."""

from __future__ import annotations

import re
from collections.abc import Iterable

from planner.gate.bash.walk import launches_in
from planner.gate.command import Context
from planner.gate.launch import Launch
from planner.gate.source import Lookup, Source

_QUOTED = (
    r"(?:(?P<long>'''|\"\"\")(?P<lines>(?:\\.|(?!(?P=long))[^\\])*)(?P=long)"
    r"|(?P<quote>['\"])(?P<line>(?:\\.|(?!(?P=quote))[^\\\n])*)(?P=quote))"
)
"""Each character in one way only: with two, a text that nothing closes would be tried in every combination."""
_STEP = re.compile(
    rf"\b(?:sh\b\s{{0,9}}\(?|script\s{{0,9}}:)\s{{0,9}}(?:script\s{{0,9}}:\s{{0,9}})?{_QUOTED}", re.DOTALL
)
_BLOCK = re.compile(r"\benvironment\s*\{([^{}]*)\}")
_VARIABLE = re.compile(
    r"^[ \t]*(?P<name>\w+)[ \t]*=[ \t]*(?P<quote>['\"])(?P<value>[^'\"\n$]*)(?P=quote)[ \t]*$", re.MULTILINE
)
_IMAGE = re.compile(r"\bimage\s{0,9}(?:\(|=)?\s{0,9}['\"]([^'\"\s]{0,200}vllm[^'\"\s]{0,200})['\"]")


def read(source: Source, lookup: Lookup) -> Iterable[Launch]:
    """The launches of every `sh` step, in order."""
    environment = {
        found["name"]: found["value"]
        for block in _BLOCK.finditer(source.text)
        for found in _VARIABLE.finditer(block[1])
    }
    image = _IMAGE.search(source.text)
    context = Context(
        source=source,
        lookup=lookup,
        line=1,
        end_line=len(source.lines),
        environment=environment,
        image=image[1] if image else None,
    )
    at, line = 0, 1
    for step in _STEP.finditer(source.text):
        kind = "lines" if step["long"] else "line"
        if "vllm" not in step[kind].lower():
            continue
        line += source.text.count("\n", at, step.start(kind))
        at = step.start(kind)
        text = step[kind].replace("\\$", "$").replace("\\\\", "\\")
        # Groovy's own ${env.NAME} and ${params.NAME}, before a shell sees them
        text = re.sub(r"\$\{(?:env|params)\.(\w+)\}", r"${\1}", text)
        yield from launches_in(text, context.with_(line=line, end_line=line + step[kind].count("\n")), line)
