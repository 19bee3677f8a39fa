"""Jenkinsfiles: the texts of `sh` steps, with the variables of `environment` blocks; nothing else of Groovy."""

from __future__ import annotations

import re
from collections.abc import Iterable

from planner.gate.command import Context
from planner.gate.launch import Launch
from planner.gate.readers.shell import script
from planner.gate.source import Lookup, Source

_QUOTED = r"(?P<quote>'''|\"\"\"|'|\")(?P<text>(?:\\.|(?!(?P=quote)).)*)(?P=quote)"
_STEP = re.compile(
    rf"\b(?:sh\b\s{{0,9}}\(?|script\s{{0,9}}:)\s{{0,9}}(?:script\s{{0,9}}:\s{{0,9}})?{_QUOTED}", re.DOTALL
)
_BLOCK = re.compile(r"\benvironment\s*\{([^{}]*)\}")
_VARIABLE = re.compile(r"^\s*(?P<name>\w+)\s*=\s*(?P<quote>['\"])(?P<value>[^'\"\n$]*)(?P=quote)\s*$", re.MULTILINE)
_IMAGE = re.compile(r"\bimage\s*(?:\(|=)?\s*['\"]([^'\"\s]*vllm[^'\"\s]*)['\"]")


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
        if "vllm" not in step["text"].lower():
            continue
        line += source.text.count("\n", at, step.start("text"))
        at = step.start("text")
        text = step["text"].replace("\\$", "$").replace("\\\\", "\\")
        # Groovy's own ${env.NAME} and ${params.NAME}, before a shell sees them
        text = re.sub(r"\$\{(?:env|params)\.(\w+)\}", r"${\1}", text)
        yield from script(text, context.with_(line=line, end_line=line + step["text"].count("\n")), first_line=line)
