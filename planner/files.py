"""Writing files whole or not at all: plans, reports, tables, caches."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from planner.errors import InputError


def data_folder() -> Path:
    """Where the person's own measurements are kept: $XDG_DATA_HOME/vllm-fit. It need not be there."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "vllm-fit"


def cache_folder() -> Path:
    """Where what can be found out again is kept: $XDG_CACHE_HOME/vllm-fit. It need not be there."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "vllm-fit"


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all. InputError when it cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside the target, to write to; it takes the target's place at the end, or goes on any error.

    A reader never sees half a file, nor does a crash leave one. A device or pipe, which has no place to take, is itself
    what is written to. InputError when writing fails.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "is a folder; pass a file")
        if path.exists() and not path.is_file():
            yield path
            return
        target = Path(os.path.realpath(path))  # of a link, what it points to is replaced
        temporary = _beside(target)
        try:
            yield temporary
            temporary.chmod(_mode(target))
            _flush(temporary)
            temporary.replace(target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {_lower(error.strerror or str(error))}") from error


def _beside(target: Path) -> Path:
    # A name of the target's own length could be too long with what is added to it.
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:40]}.", suffix=".part")
    os.close(descriptor)
    return Path(name)


def _flush(path: Path) -> None:
    """To the disk: a rename must not outlive a power cut that the content does not."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _mode(target: Path) -> int:
    """Of the file that is replaced; of a new one, what the process gives files."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    return 0o666 & ~_umask()


def _umask() -> int:
    """The process's own, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
