"""Launches judged side by side where their models must be looked up on the Hub, within a time limit."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import hf_configs
from planner.errors import Reason
from planner.gate.outcome import Outcome

if TYPE_CHECKING:
    from planner.gate.run import Found

_AT_ONCE = 8


def judged_in_time(found: Sequence[Found], judge: Callable[[Found], Outcome], seconds: float) -> list[Outcome]:
    """The outcome of each, in order; unknown for those whose model the Hub did not give in time."""
    far = [index for index, one in enumerate(found) if _needs_hub(one)]
    waiting = _Waiting(found, judge, far)
    near = set(range(len(found))) - set(far)
    outcomes = {index: judge(found[index]) for index in sorted(near)}
    outcomes |= waiting.results(seconds)
    return [outcomes.get(index) or _too_late(one, seconds) for index, one in enumerate(found)]


def _needs_hub(one: Found) -> bool:
    launch = one.launch
    if launch.problem is not None or launch.refusal is not None or launch.model is None:
        return False
    models = [one.rules.models.get(launch.model, launch.model)]
    speculative = launch.args.get("speculative_config")
    if isinstance(speculative, dict) and isinstance(speculative.get("model"), str):
        models.append(speculative["model"])
    return any(hf_configs.find(model) is None or launch.args.get("revision") for model in models)


class _Waiting:
    """Threads that end with the process: a look-up that hangs must not keep it alive."""

    def __init__(self, found: Sequence[Found], judge: Callable[[Found], Outcome], indices: Sequence[int]) -> None:
        self.found, self.judge, self.count = found, judge, len(indices)
        self.jobs: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[tuple[int, Outcome | BaseException]] = queue.SimpleQueue()
        for index in indices:
            self.jobs.put(index)
        self.started = time.monotonic()
        for _ in range(min(_AT_ONCE, self.count)):
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                index = self.jobs.get_nowait()
            except queue.Empty:
                return
            try:
                self.done.put((index, self.judge(self.found[index])))
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                self.done.put((index, error))

    def results(self, seconds: float) -> dict[int, Outcome]:
        outcomes: dict[int, Outcome] = {}
        while len(outcomes) < self.count:
            left = seconds - (time.monotonic() - self.started)
            try:
                index, result = self.done.get(timeout=max(0.0, left)) if left > 0 else self.done.get_nowait()
            except queue.Empty:
                break
            if isinstance(result, BaseException):
                raise result
            outcomes[index] = result
        return outcomes


def _too_late(one: Found, seconds: float) -> Outcome:
    message = f"{one.launch.model}: the Hub did not give its config within {seconds:g} s; --timeout waits longer"
    outcome = Outcome(launch=one.launch, verdict="unknown", reasons=(Reason(code="hub_timeout", message=message),))
    return replace(outcome, fails=one.rules.unknown == "fail")
