"""The files that the gate reads: found below the paths given, and read within bounds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from planner import strict_json
from planner.errors import InputError
from planner.text import printable

MAX_BYTES = 4 << 20
"""A deployment file of more is none that a person wrote; rendered charts have some 100 kB."""
_NEVER_WALKED = frozenset((".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv", ".tox", ".mypy_cache"))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A text file, read."""

    path: Path
    file: str
    """As it is named in messages."""
    text: str

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """Without their ends; line 1 is lines[0]."""
        return tuple(self.text.split("\n"))


def read(path: Path, file: str | None = None) -> Source:
    """InputError for what is too large, not text or not a regular file."""
    file = printable(path) if file is None else file
    content = strict_json.read_bytes(path, file, MAX_BYTES)
    if b"\0" in content:
        raise InputError(f"{file}: is binary, not text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text (byte {error.start})") from None
    return Source(path=path, file=file, text=text.replace("\r\n", "\n"))


def mentions(path: Path, words: Sequence[str]) -> bool:
    """Whether a file that cannot be read as text has one of these words in it, as far as is looked."""
    try:
        with strict_json.open_regular(path, str(path)) as file:
            tail = b""
            for _ in range(_LOOKED_THROUGH // _PIECE):
                piece = file.read(_PIECE)
                if not piece:
                    return False
                if any(word.encode() in (tail + piece).lower() for word in words):
                    return True
                tail = piece[-64:]
    except (InputError, OSError):
        return True
    return True


_PIECE = 1 << 20
_LOOKED_THROUGH = 256 << 20


def walk(
    paths: Sequence[Path], wanted: Callable[[Path], bool], here: Path | None = None
) -> Iterator[tuple[Path, Path]]:
    """(file, folder that what it names may lie in): the files of these folders that are `wanted`, and every file named
    itself, in order; each once.

    Hidden folders are walked, those of version control and of caches are not; links that lead out of the folder given
    are not followed. here: the working folder. InputError for a path that is not there.
    """
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise InputError(f"{printable(path)}: no such file or folder")
        root = path if path.is_dir() else _root_of(path, here or Path())
        for found in _below(path, wanted) if path.is_dir() else (path,):
            real = _real(found)
            if real not in seen:
                seen.add(real)
                yield found, root


def _root_of(path: Path, here: Path) -> Path:
    """A file named itself may name others below the working folder, where it lies in that."""
    return here if _real(path).is_relative_to(_real(here)) else path.parent


def _real(path: Path) -> Path:
    """Where it really is. A link that leads to itself stays as it is; Path.resolve would raise (Python before 3.13)."""
    return Path(os.path.realpath(path))


def _below(folder: Path, wanted: Callable[[Path], bool]) -> Iterator[Path]:
    root = _real(folder)
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _NEVER_WALKED)
        for name in sorted(files):
            path = Path(parent, name)
            if wanted(path) and (not path.is_symlink() or _real(path).is_relative_to(root)) and path.is_file():
                yield path


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """What a reader may read besides its own file: files below `root`, the folder that the gate was pointed at."""

    root: Path
    within: Mapping[str, Source] = field(default_factory=dict)
    """Files that stand in the one that is read, as a ConfigMap holds them, or that are not yet as they are here: by
    their names without folders."""

    def read(self, source: Source, name: str) -> Source | None:
        """The file that `source` calls `name`, relative to itself, then to the root; None where there is none.

        InputError for a file that is there and cannot be read.
        """
        inner = self.within.get(name.rpartition("/")[2])
        if inner is not None:
            return inner
        root = _real(self.root)
        for base in (source.path.parent, root):
            try:
                path = _real(base / name)
                found = path.is_relative_to(root) and path.is_file()
            except (OSError, ValueError):  # too long a name, a NUL in it, a link to itself
                return None
            if found:
                return read(path, printable(path.relative_to(root)))
        return None
