"""The kinds of files that the gate reads. To add one: a module here, and an entry in READERS."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

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
        lower = source.text.lower()
        if not any(word in lower for word in self.needs):
            return ()
        return cast(Read, importlib.import_module(f"planner.gate.readers.{self.module or self.name}").read)(
            source, lookup
        )


def reader_of(path: Path) -> Reader | None:
    """The first of READERS for this file's name."""
    return next((reader for reader in READERS if reader.files.search(path.name)), None)


def _named(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


READERS: tuple[Reader, ...] = (Reader(name="shell", files=_named(r"\.(sh|bash|zsh|ksh|slurm|sbatch|pbs)$")),)
