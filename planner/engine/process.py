"""A child process in a session of its own, of which nothing is left behind.

vLLM's engine starts processes that start processes. All of them inherit the session of the first, so the session is
what is ended: asked first, so that they can free their shared memory, then killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

ASK_S = 5.0
"""How long processes have to end by themselves before they are killed."""


class Session:
    """`with Session(command, …) as session`: the command runs inside, and on leaving nothing of it runs any more."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], *, cwd: Path, log: Path) -> None:
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.id = self._child.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with deaf_to_interrupts():
            self.end()

    def exit_code(self) -> int | None:
        """None while the command runs."""
        return self._child.poll()

    def wait(self, seconds: float) -> None:
        """Waits until the process ends, at most so long; it may still run then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(seconds)

    def end(self) -> None:
        """Ends every process of the session and waits until they are gone."""
        deadline = time.monotonic() + ASK_S
        for number in (signal.SIGTERM, signal.SIGKILL):
            while members := list(session_members(self.id)):
                for process in members:
                    with contextlib.suppress(psutil.Error):
                        process.send_signal(number)
                psutil.wait_procs(members, timeout=0.5)
                self._child.poll()
                if number == signal.SIGTERM and time.monotonic() > deadline:
                    break
        self._child.wait()


def session_members(session_id: int) -> Iterator[psutil.Process]:
    """The live processes of a session."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == session_id and process.status() != psutil.STATUS_ZOMBIE:
                yield process


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """A second Ctrl-C must not stop the cleaning up after the first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
