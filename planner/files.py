"""Writing files whole or not at all."""

from __future__ import annotations

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
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink()
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
