"""A report as PDF, printed by the Chromium of this machine where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from planner.errors import InputError

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge")
_SECONDS = 60


def chromium() -> str | None:
    """Where it is; None where it is not."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


def pdf_of(html: str) -> bytes:
    """An HTML report as A4 pages. InputError where no Chromium is here, or where it does not print."""
    program = chromium()
    if program is None:
        raise InputError("a PDF is printed by Chromium, which is not here: install it, or open the .html and print it")
    with tempfile.TemporaryDirectory(prefix="vllm-fit-pdf-") as folder:
        page, printed = Path(folder) / "fit.html", Path(folder) / "fit.pdf"
        page.write_text(html, encoding="utf-8")
        options = ["--headless", "--disable-gpu", "--no-pdf-header-footer", f"--user-data-dir={folder}/profile"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            options.append("--no-sandbox")  # Chromium refuses one to root
        try:
            subprocess.run(
                [program, *options, f"--print-to-pdf={printed}", page.as_uri()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=True,
            )
            return printed.read_bytes()
        except (OSError, subprocess.SubprocessError) as error:
            raise InputError(f"{program} did not print the report ({type(error).__name__}); write an .html") from None
