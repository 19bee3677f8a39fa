"""A validation in the background: `vllm-fit validate` as a child process, one at a time for the whole server."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planner.errors import InputError
from planner.text import printable

_LINES = 200
"""Of progress that are kept."""


@dataclass
class Job:
    """One run of the command."""

    title: str
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    """What it said on standard error, newest last."""
    output: list[str] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    @property
    def running(self) -> bool:
        """Whether the process runs or its last lines are still being read."""
        return self.process.poll() is None or any(thread.is_alive() for thread in self.threads)

    @property
    def result(self) -> dict[str, Any] | None:
        """The validation as JSON; None where the engine did not come to one."""
        try:
            found = json.loads("".join(self.output))
        except ValueError:
            return None
        return found if isinstance(found, dict) and found.get("measurement") else None

    def cancel(self) -> None:
        """As Ctrl-C does: the command ends the engine and its workers before itself."""
        if self.process.poll() is None:
            import signal

            self.process.send_signal(signal.SIGINT)


class Jobs:
    """The newest job."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="vllm-fit-jobs-")
        self.newest: Job | None = None

    def start(self, title: str, plan: Mapping[str, Any], options: list[str]) -> Job:
        """InputError while another runs."""
        with self._lock:
            if self.newest is not None and self.newest.running:
                raise InputError("a validation is running on this machine: wait for it, or stop it")
            path = Path(self._folder.name) / "plan.json"
            path.write_text(json.dumps(dict(plan)), encoding="utf-8")
            command = [sys.executable, "-m", "planner.cli", "validate", str(path), "--format", "json", *options]
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
            job = Job(title=title, process=process)
            for stream, keep in ((process.stdout, job.output), (process.stderr, job.lines)):
                thread = threading.Thread(target=_read, args=(stream, keep, stream is process.stderr), daemon=True)
                thread.start()
                job.threads.append(thread)
            self.newest = job
            return job


def _read(stream: Any, keep: list[str], is_progress: bool) -> None:
    for line in stream:
        if not is_progress:
            keep.append(line)
            continue
        words = printable(line.strip().removeprefix("…").strip(), 300)
        if words:
            keep.append(words)
            del keep[:-_LINES]
