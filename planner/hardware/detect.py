"""The GPUs of this machine, by asking NVIDIA's management library through nvidia-smi."""

from __future__ import annotations

import shutil
import subprocess


def this_machine() -> tuple[str, ...]:
    """Names of the NVIDIA GPUs here, as nvidia-smi prints them; empty without any, or without its tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        answer = subprocess.run(
            [tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())
