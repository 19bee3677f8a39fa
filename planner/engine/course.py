"""The course of one launch: what was found so far, how far it has come, and when it must end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.engine import enginelog
from planner.engine.memory_watch import MemoryWatch
from planner.engine.process import Session
from planner.engine.spec import LaunchError, LaunchSpec
from planner.engine.workplace import follow, read

_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Who is told while a launch goes on."""

    on_progress: Callable[[str], None] = lambda _: None
    on_event: Callable[[Mapping[str, Any]], None] = lambda _: None
    """Each thing measured, as soon as it is: what is known of a launch that does not come to its end."""
    cancelled: Callable[[], bool] = lambda: False


class Course:
    """Gathers events; raises LaunchError when the time is over, when it is cancelled, or when the engine has ended."""

    def __init__(self, spec: LaunchSpec, folder: Path, log: Path, listener: Listener) -> None:
        self.spec, self.folder, self.log = spec, folder, log
        self.events: list[dict[str, Any]] = []
        self.memory = MemoryWatch(spec)
        self._listener = listener
        self._stage = "starting"
        self._new_lines = follow(log)
        self._deadline = time.monotonic() + spec.seconds

    def add(self, event: dict[str, Any]) -> None:
        """Keeps an event and tells the listener."""
        self.events.append(event)
        self._listener.on_event(event)

    def say(self, text: str) -> None:
        """Tells the listener which step has begun; a timeout names the last one."""
        self._stage = text
        self._listener.on_progress(text)

    def wait(self, session: Session) -> bool:
        """Follows the log for a moment; False once the session's first process has ended and its log is read."""
        ended = session.exit_code() is not None  # asked before reading, so that the last lines are read too
        for line in next(self._new_lines):
            if text := enginelog.stage(line):
                self.say(text)
        self.memory.look(session.id)
        if ended:
            return False
        self.check_time()
        session.wait(_POLL_S)
        return True

    def check_time(self) -> None:
        """Raises LaunchError where the launch was cancelled or has taken longer than it may."""
        if self._listener.cancelled():
            raise self.error("cancelled", kind="cancelled")
        if time.monotonic() > self._deadline:
            text = f"not finished after {self.spec.seconds:g} s; the last step was: {self._stage}"
            raise self.error(text, kind="timeout")

    def error(self, message: str, kind: str = "failed") -> LaunchError:
        """The error of this launch, with the engine's log so far."""
        return LaunchError(message, kind=kind, log=read(self.log), log_path=self.log)

    def failure(self, exit_code: int | None, message: str | None = None) -> LaunchError:
        """Why the engine ended: what its process said, or the log's root cause where that says more."""
        if message is None or enginelog.is_consequence(message):
            message = enginelog.root_cause(read(self.log)) or message
        if message is None:
            end = f"signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"exit code {exit_code}"
            message = f"the engine's process ended by itself ({end}); the last step was: {self._stage}"
        return self.error(message)
