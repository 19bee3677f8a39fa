"""What a launch takes of the machine, seen from outside: resident memory of its processes, used memory of its GPUs."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from planner.engine.process import session_members
from planner.engine.spec import LaunchSpec

_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One look. Bytes."""

    at: float
    """Seconds since the launch began."""
    rss: int
    """Of all processes of the launch; memory that they share counts once for each."""
    devices: tuple[int, ...] | None
    """Used on each visible GPU, by whomever; None without NVML."""


class MemoryWatch:
    """Looks once a second while it is asked to; `mark` remembers the present figures under a name."""

    def __init__(self, spec: LaunchSpec) -> None:
        self.samples: list[Sample] = []
        self._devices = _Devices(spec) if spec.device == "cuda" else None
        self._began = time.monotonic()
        self._marks = {"before": self._sample(None)}

    def look(self, session_id: int, *, now: bool = False) -> Sample:
        """The present figures, or those of less than a second ago."""
        if now or not self.samples or time.monotonic() - self._began - self.samples[-1].at >= _EVERY_S:
            self.samples.append(self._sample(session_id))
        return self.samples[-1]

    def mark(self, name: str, session_id: int) -> None:
        """Keeps what is in use now under a name."""
        self._marks[name] = self.look(session_id, now=True)

    def since(self, at: float) -> list[Sample]:
        """The samples taken so many seconds after the launch began, or later."""
        return [sample for sample in self.samples if sample.at >= at]

    def event(self) -> dict[str, Any]:
        """The marks, and the most that was seen since the engine had started."""
        started = self._marks.get("started")
        loaded = self.since(started.at) if started else []
        peak = _peak(loaded) if loaded else None
        marks = {name: asdict(sample) for name, sample in self._marks.items()}
        return {"event": "memory", **marks, **({"under_load": asdict(peak)} if peak else {})}

    def _sample(self, session_id: int | None) -> Sample:
        return Sample(
            at=round(time.monotonic() - self._began, 1),
            rss=_resident(session_id) if session_id is not None else 0,
            devices=self._devices.used() if self._devices is not None else None,
        )


def _peak(samples: Sequence[Sample]) -> Sample:
    each = [sample.devices for sample in samples if sample.devices is not None]
    return Sample(
        at=samples[-1].at,
        rss=max(sample.rss for sample in samples),
        devices=tuple(map(max, zip(*each, strict=True))) if each else None,
    )


def _resident(session_id: int) -> int:
    total = 0
    for process in session_members(session_id):
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return total


class _Devices:
    """Used memory of the GPUs that the launch may see, from NVIDIA's management library."""

    def __init__(self, spec: LaunchSpec) -> None:
        visible = spec.environment.get("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES"))
        self._handles: list[Any] | None = None
        with suppress(ImportError):
            import pynvml

            with suppress(pynvml.NVMLError):
                pynvml.nvmlInit()
                self._handles = [_handle(word) for word in _words(visible, pynvml.nvmlDeviceGetCount())]

    def used(self) -> tuple[int, ...] | None:
        if not self._handles:
            return None
        import pynvml

        try:
            return tuple(int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in self._handles)
        except pynvml.NVMLError:
            return None


def _words(visible: str | None, count: int) -> list[str]:
    return [str(index) for index in range(count)] if visible is None else [w for w in visible.split(",") if w.strip()]


def _handle(word: str) -> Any:
    """CUDA_VISIBLE_DEVICES holds indices or UUIDs."""
    import pynvml

    word = word.strip()
    return pynvml.nvmlDeviceGetHandleByIndex(int(word)) if word.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(word)
