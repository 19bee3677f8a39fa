"""Starts a real vLLM engine in processes of its own, reads what it reports, loads it, and leaves nothing behind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from planner.engine import in_process, serve
from planner.engine.course import Course, Listener
from planner.engine.measure import Measurement
from planner.engine.spec import Device, LaunchError, LaunchSpec, Soak, Way
from planner.engine.support import EngineSupport, platform_supports_engine
from planner.engine.workplace import check_room, no_shared_memory_left, read

__all__ = [
    "Device",
    "EngineSupport",
    "LaunchError",
    "LaunchSpec",
    "Listener",
    "Soak",
    "Way",
    "launch",
    "platform_supports_engine",
]

WAYS: Mapping[Way, Callable[[Course], None]] = {"in_process": in_process.run, "serve": serve.run}


def launch(spec: LaunchSpec, listener: Listener | None = None) -> Measurement:
    """Starts the engine, measures it, ends it; LaunchError when it does not start or does not finish.

    The log is kept only when the launch fails, and the error says where.
    """
    support = platform_supports_engine(spec.device, spec.engine_python)
    if not support:
        raise LaunchError(f"no engine for {spec.device}: {support.reason}", kind="not_started")
    check_room(spec)
    folder = Path(tempfile.mkdtemp(prefix="vllm-fit-"))
    log = folder / "engine.log"
    course = Course(spec, folder, log, listener or Listener())
    try:
        with no_shared_memory_left(log):
            WAYS[spec.way](course)
        return Measurement.of(course.events, spec.loads, printed=printed(read(log)))
    except LaunchError as error:
        kept = log.exists() and error.kind != "cancelled"
        error.log_path = Path(shutil.move(log, folder.with_suffix(".log"))) if kept else None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def printed(log: str) -> dict[str, float]:
    """The figures of a start-up log, GPU or CPU, by the reader that explain-log uses."""
    from planner.logs.reader import read as read_facts

    facts, _ = read_facts(log)
    return {name: figure.value for name, figure in facts.figures.items()}
