"""Here-documents: the text that a script hands to a command or writes to a file, where vLLM is in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from planner.gate.bash.parse import text_of
from planner.gate.launch import Word

if TYPE_CHECKING:
    from tree_sitter import Node


@dataclass(frozen=True, kw_only=True)
class HereDocument:
    """A text within a script."""

    text: str
    row: int
    """Of its first line in the script, from 0."""
    kind: str
    """"script" for one that its command runs, else the name of the file that it becomes."""
    expanded: bool
    """Whether the shell replaces variables in it."""


def here_document(redirect: Node, words: Sequence[Word], targets: Sequence[str]) -> HereDocument | None:
    """The document of `words <<END >targets`; None where no launch can be in it."""
    start = next((child for child in redirect.children if child.type == "heredoc_start"), None)
    content = next((child for child in redirect.children if child.type == "heredoc_body"), None)
    kind = _kind(words, targets)
    if start is None or content is None or kind is None or "vllm" not in text_of(content).lower():
        return None
    text = text_of(content)
    if any(child.type == "<<-" for child in redirect.children):
        text = re.sub(r"(?m)^\t+", "", text)
    if content.start_point.column and not text.startswith("\n"):
        text = text.lstrip("\t")
    expanded = not re.search(r"[\"'\\]", text_of(start))
    if expanded:
        text = re.sub(r"\\([\\$`])", r"\1", text)
    return HereDocument(text=text, row=content.start_point.row, kind=kind, expanded=expanded)


def _kind(words: Sequence[Word], targets: Sequence[str]) -> str | None:
    """As HereDocument.kind; None for what is neither."""
    names = [word.text.rpartition("/")[2] for word in words]
    if any(re.fullmatch(r"(ba|da|z|k)?sh|sbatch|ssh", name) for name in names):
        return "script"
    if any(name in ("kubectl", "oc", "docker-compose", "helm") for name in names):
        return "stdin.yaml"
    if names[:1] == ["docker"] and "build" not in names:
        return "compose.yaml"
    if names[:1] == ["docker"]:
        return "Dockerfile"
    if any(re.fullmatch(r"python[\d.]*", name) for name in names):
        return "stdin.py"
    written = [*targets, *(word.text for word in words[1:] if names[:1] == ["tee"] or "tee" in names)]
    name = next((Path(name).name for name in written if re.search(r"\.|Dockerfile|Makefile", name)), None)
    return "script" if name is not None and re.search(r"\.(ba|z|k)?sh$", name) else name
