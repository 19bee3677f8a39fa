"""Trials over a Ray cluster: each is a task with the GPUs it needs; a task whose node is lost is run on another."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from planner.engine.launch import Device, LaunchError, LaunchSpec, Listener
from planner.errors import InputError
from planner.text import printable
from planner.validate.record import hardware
from planner.validate.run import Outcome, Outcomes, attempt
from planner.validate.trial import Trial

MAX_RETRIES = 3
"""Times that a trial is begun again after its node or its process was lost."""
_POLL_S = 1.0
_CANCEL_S = 30.0


@contextmanager
def ray_cluster(address: str) -> Iterator[RayCluster]:
    """Connected for as long as it is needed; "local" is a cluster of this machine alone, made for the purpose."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs Ray, which is not installed; install vllm-fit[ray]") from None
    local: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="warning", **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"--ray {printable(address)}: no cluster answers ({printable(error, 200)})") from None
    try:
        yield RayCluster(ray)
    finally:
        ray.shutdown()


class RayCluster:
    """A place to launch trials (planner.validate.run.Place). The nodes need vLLM and vllm-fit installed."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._gpus = max((int(one.get("GPU", 0)) for one in resources), default=0)
        self._cpus = max((int(one.get("CPU", 0)) for one in resources), default=0)
        self.device: Device = "cuda" if self._gpus else "cpu"

    def launch_all(self, trials: Sequence[Trial], listen: Callable[[Trial], Listener]) -> Outcomes:
        """Each trial's outcome as soon as it is there."""
        for trial in trials:
            self._check(trial)
        waiting = {self._submit(trial, listen(trial)): trial for trial in trials}
        try:
            while waiting:
                done, _ = self._ray.wait(list(waiting), num_returns=1, timeout=_POLL_S)
                for reference in done:
                    yield waiting.pop(reference), self._outcome(reference)
        finally:
            self._cancel(list(waiting))

    def _check(self, trial: Trial) -> None:
        """Ray would wait for ever for a node that is large enough."""
        if trial.gpus > self._gpus:
            raise InputError(
                f"{trial.label} needs {trial.gpus} GPUs on one node and the cluster's largest has {self._gpus}"
            )

    def _submit(self, trial: Trial, listener: Listener) -> Any:
        listener.on_progress("handed to the cluster")
        # A CPU engine uses all cores of its node: one at a time there, or none would be measured in peace.
        needs = {"num_gpus": trial.gpus, "num_cpus": 1} if trial.gpus else {"num_gpus": 0, "num_cpus": self._cpus}
        task = self._ray.remote(_launch).options(
            max_retries=MAX_RETRIES, name=f"vllm-fit {printable(trial.label, 60)}", **needs
        )
        return task.remote(trial.spec)

    def _outcome(self, reference: Any) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return Outcome(error=LaunchError(f"lost on the cluster: {printable(error, 400)}", kind="timeout"))
        return outcome

    def _cancel(self, references: list[Any]) -> None:
        for reference in references:
            self._ray.cancel(reference, force=False)
        if references:
            with suppress(self._ray.exceptions.RayError):
                self._ray.wait(references, num_returns=len(references), timeout=_CANCEL_S)


def _launch(spec: LaunchSpec) -> Outcome:
    """On a node: with its own Python where the driver's is not there."""
    if spec.model_path is not None and not spec.model_path.is_dir():
        return Outcome(error=LaunchError(f"{spec.model_path} is not on this node", kind="not_started"))
    if not spec.engine_python.exists():
        spec = replace(spec, engine_python=Path(sys.executable))
    return replace(attempt(spec, Listener()), hardware=hardware())
