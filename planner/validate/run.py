"""Runs trials: one after another, or side by side where each has GPUs of its own; results are stored as they come."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, Protocol

from planner.engine.launch import LaunchError, LaunchSpec, Listener, launch
from planner.engine.measure import Measurement
from planner.engine.process import deaf_to_interrupts
from planner.errors import InputError
from planner.validate import record as records
from planner.validate.record import Record
from planner.validate.store import Store
from planner.validate.trial import Trial

_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a launch ended: a measurement, or an error."""

    measurement: Measurement | None = None
    error: LaunchError | None = None
    fault: Exception | None = None
    """Something else went wrong, which ends the whole run."""
    hardware: Mapping[str, Any] | None = None
    """Of the machine it ran on, where that is another one."""


Outcomes = Generator[tuple[Trial, Outcome], None, None]


class Place(Protocol):
    """Where trials are launched."""

    def launch_all(self, trials: Sequence[Trial], listen: Callable[[Trial], Listener]) -> Outcomes:
        """Each trial's outcome as soon as it is there, in any order."""


def run(
    trials: Sequence[Trial],
    place: Place,
    store: Store,
    *,
    again: bool = True,
    on_progress: Callable[[Trial, str], None] = lambda *_: None,
) -> Generator[Record, None, None]:
    """The record of each trial, as soon as it is there. With `again` false, a result that the store has is taken.

    However it ends, the store holds what was measured until then.
    """
    ledger = _Ledger(store, on_progress)
    to_launch = []
    for trial in trials:
        known = None if again else store.result(trial.key)
        if known is not None:
            yield {**known, "from_store": True, "label": trial.label}
        elif trial.spec is None:
            yield ledger.refuse(trial)
        else:
            to_launch.append(trial)
    try:
        with closing(place.launch_all(to_launch, ledger.listener)) as outcomes:
            for trial, outcome in outcomes:
                yield ledger.end(trial, outcome)
    finally:
        with deaf_to_interrupts():
            ledger.close()


class _Ledger:
    """Keeps the store up to date while trials go on, in several threads."""

    def __init__(self, store: Store, on_progress: Callable[[Trial, str], None]) -> None:
        self._store = store
        self._on_progress = on_progress
        self._open: dict[str, tuple[int, Record, list[Mapping[str, Any]]]] = {}
        self._lock = threading.Lock()

    def listener(self, trial: Trial) -> Listener:
        """Called when the trial begins."""
        record = records.begun(trial)
        with self._lock:
            self._open[trial.key] = (self._store.add(record), record, [])
        return Listener(
            on_progress=lambda text: self._on_progress(trial, text), on_event=lambda event: self._note(trial, event)
        )

    def _note(self, trial: Trial, event: Mapping[str, Any]) -> None:
        """What is measured is stored at once: a run that breaks off keeps it."""
        with self._lock:
            run, record, events = self._open[trial.key]
            events.append(event)
            if event["event"] == "engine":
                return  # its ranks come next
            partial = Measurement.of(events, trial.loads)
            record = records.with_measurement(record, trial, partial, complete=False)
            self._open[trial.key] = (run, record, events)
            self._store.update(run, record)

    def end(self, trial: Trial, outcome: Outcome) -> Record:
        if trial.key not in self._open:  # it was launched elsewhere, or not at all
            self.listener(trial)
        with self._lock:
            run, record, _ = self._open.pop(trial.key)
            record = {**record, "hardware": outcome.hardware or record["hardware"]}
            if outcome.measurement is not None:
                record = records.with_measurement(record, trial, outcome.measurement, complete=True)
            elif outcome.error is not None:
                record = records.with_error(record, trial, outcome.error)
            self._store.update(run, record)
        return {**record, "id": run}

    def refuse(self, trial: Trial) -> Record:
        """Nothing to launch: the reason is the result."""
        return self.end(trial, Outcome(error=LaunchError(trial.obstacle or "", kind="not_started")))

    def close(self) -> None:
        """What is still open was broken off."""
        with self._lock:
            for run, record, _ in self._open.values():
                self._store.update(run, records.interrupted(record))
            self._open.clear()


class ThisMachine:
    """Launches on this machine: as many at once as its GPUs allow, or `parallel` CPU engines."""

    def __init__(self, gpus: Sequence[str] = (), parallel: int = 1) -> None:
        self._all = len(gpus)
        self._free = list(gpus)
        self._cpu_slots = parallel
        self._lock = threading.Lock()
        self._cancelled = threading.Event()

    def launch_all(self, trials: Sequence[Trial], listen: Callable[[Trial], Listener]) -> Outcomes:
        """Yields each trial with its outcome as it ends: as many at once as GPUs allow; none outlives this."""
        ended: queue.Queue[tuple[Trial, Outcome, list[str]]] = queue.Queue()
        waiting, running = list(trials), 0
        threads: list[threading.Thread] = []
        try:
            while waiting or running:
                for trial in list(waiting):
                    devices = self._take(trial)
                    if devices is not None:
                        waiting.remove(trial)
                        running += 1
                        thread = threading.Thread(target=self._launch, args=(trial, devices, listen, ended))
                        threads.append(thread)
                        thread.start()
                try:
                    trial, outcome, devices = ended.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                if outcome.fault is not None:
                    raise outcome.fault
                running -= 1
                self._give_back(trial, devices)
                yield trial, outcome
        finally:
            self._cancelled.set()
            with deaf_to_interrupts():
                for thread in threads:
                    thread.join()

    def _launch(
        self,
        trial: Trial,
        devices: list[str],
        listen: Callable[[Trial], Listener],
        ended: queue.Queue[tuple[Trial, Outcome, list[str]]],
    ) -> None:
        assert trial.spec is not None
        try:
            listener = replace(listen(trial), cancelled=self._cancelled.is_set)
            outcome = attempt(_on(trial.spec, devices), listener)
        except Exception as error:  # noqa: BLE001  raised again where the results are waited for
            outcome = Outcome(fault=error)
        ended.put((trial, outcome, devices))

    def _take(self, trial: Trial) -> list[str] | None:
        """GPUs for the trial, by number; None while too few are free. InputError where there are never enough."""
        if trial.device == "cpu":
            if not self._cpu_slots:
                return None
            self._cpu_slots -= 1
            return []
        if trial.gpus > self._all:
            raise InputError(f"{trial.label} needs {trial.gpus} GPUs and this machine has {self._all}")
        if trial.gpus > len(self._free):
            return None
        taken, self._free = self._free[: trial.gpus], self._free[trial.gpus :]
        return taken

    def _give_back(self, trial: Trial, devices: list[str]) -> None:
        self._free += devices
        self._cpu_slots += trial.device == "cpu"


def attempt(spec: LaunchSpec, listener: Listener) -> Outcome:
    """A launch whose failure is a result too."""
    try:
        return Outcome(measurement=launch(spec, listener))
    except LaunchError as error:
        return Outcome(error=error)


def _on(spec: LaunchSpec, devices: list[str]) -> LaunchSpec:
    if not devices:
        return spec
    return replace(spec, environment={**spec.environment, "CUDA_VISIBLE_DEVICES": ",".join(devices)})


def visible_gpus() -> list[str]:
    """The GPUs that engines may use, as CUDA_VISIBLE_DEVICES names them."""
    import os

    from planner.hardware.detect import this_machine

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [word.strip() for word in chosen.split(",") if word.strip()]
    return [str(number) for number in range(len(this_machine()))]


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: in order, with no engine left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
