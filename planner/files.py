"""Writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from planner.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Write beside the target and rename: a reader never sees half a file. InputError when it cannot be written."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = file.name
            file.write(text)
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink()
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _umask() -> int:
    """The process's own, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
