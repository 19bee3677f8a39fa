"""The kinds of files that the gate reads. To add one: a module here, and an entry in READERS."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from planner import strict_json
from planner.errors import InputError
from planner.gate.launch import Launch
from planner.gate.source import Lookup, Source

Read = Callable[[Source, Lookup], Iterable[Launch]]
"""Every launch in a file, in its order. InputError for a file that cannot be read at all."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One kind of file."""

    name: str
    files: re.Pattern[str]
    """Matched against a file's name, without its folder."""
    needs: tuple[str, ...] = ("vllm",)
    """A file whose text, in lower case, holds none of these has no launch and is not parsed."""
    module: str = ""
    """With a function `read`; imported when a file of the kind is met."""

    def read(self, source: Source, lookup: Lookup) -> Iterable[Launch]:
        """The launches of a file; the reader's module is imported only where the text has a word that it needs."""
        lower = source.text.lower()
        if not any(word in lower for word in self.needs):
            return ()
        return cast(Read, importlib.import_module(f"planner.gate.readers.{self.module or self.name}").read)(
            source, lookup
        )


def reader_of(path: Path) -> Reader | None:
    """The first of READERS for this file's name, or for the first line of a script that has no ending."""
    found = next((reader for reader in READERS if reader.files.search(path.name)), None)
    return found if found is not None or path.suffix else _of_first_line(path)


def _of_first_line(path: Path) -> Reader | None:
    try:
        with strict_json.open_regular(path, str(path)) as file:
            line = file.readline(200)
    except (InputError, OSError):
        return None
    name = next((name for pattern, name in _INTERPRETERS if re.match(pattern, line)), None)
    return next((reader for reader in READERS if reader.name == name), None)


_INTERPRETERS = ((rb"#!.*\b(ba|da|z|k)?sh\b", "shell"), (rb"#!.*\bpython", "python"))


def _named(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


READERS: tuple[Reader, ...] = (
    Reader(name="shell", files=_named(r"\.(sh|bash|zsh|ksh|slurm|sbatch|pbs)$")),
    Reader(name="python", files=_named(r"\.pyw?$"), needs=("vllm", "ray.serve.llm")),
    Reader(name="yaml", files=_named(r"\.ya?ml$"), needs=("vllm", "inferenceservice", "model"), module="yaml_file"),
    Reader(name="dockerfile", files=_named(r"^(Dockerfile|Containerfile)(\..+)?$|\.(dockerfile|containerfile)$")),
    Reader(name="makefile", files=_named(r"^(GNU)?Makefile(\..+)?$|\.(mk|mak)$")),
    Reader(name="jenkins", files=_named(r"^Jenkinsfile(\..+)?$|\.jenkinsfile$")),
    Reader(name="systemd", files=_named(r"\.(service|container)$")),
    Reader(name="plan", files=_named(r"\.json$"), needs=('"plan"',)),
)
