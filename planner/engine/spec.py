"""What to launch: the description that every way of launching takes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from planner.engine.measure import Load

Device = Literal["cpu", "cuda"]

Way = Literal["in_process", "serve"]
"""in_process: vLLM's engine in a child process, asked directly. serve: `vllm serve`, loaded by `vllm bench serve`."""


class LaunchError(Exception):
    """A launch that gave no measurement: one sentence, vLLM's own where it has one."""

    def __init__(self, message: str, *, kind: str = "failed", log: str = "", log_path: Path | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        """not_started (nothing was launched), failed (the engine ended), timeout, cancelled."""
        self.log = log
        """What the engine printed, as far as it came."""
        self.log_path = log_path


@dataclass(frozen=True, kw_only=True)
class Soak:
    """A load that is kept up for a time, to see what changes while it lasts."""

    minutes: float
    concurrency: int
    input_len: int
    output_len: int


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """What to start and what to run through it. One of `config` and `model_path` is given."""

    engine_args: Mapping[str, object]
    """vLLM's engine arguments under their Python names, without `model`."""
    name: str = "model"
    """What the server calls the model."""
    config: Mapping[str, object] | None = None
    """A config.json; the weights are then dummies, which take the same memory."""
    model_path: Path | None = None
    """A folder with a config.json; its checkpoint is loaded when there is one."""
    device: Device = "cpu"
    way: Way = "in_process"
    usage: Literal["server", "offline"] = "offline"
    """Whose defaults vLLM fills in: those of `vllm serve` or those of the `LLM` class. Served, those of the server."""
    kv_cache_memory_bytes: int | None = None
    """Per rank. None: what gpu_memory_utilization leaves, which for a CPU engine is nearly all the machine's memory."""
    loads: tuple[Load, ...] = ()
    soak: Soak | None = None
    """After the loads; served only."""
    expected_weights_bytes: int = 0
    """Over all ranks, so that memory can be checked before anything is started."""
    timeout_s: float = 900.0
    """For the start and the loads together; a soak's minutes come on top."""
    engine_python: Path = field(default_factory=lambda: Path(sys.executable))
    """Any Python that has vLLM; it need not have this project."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the engine's environment, over what is set here."""

    @property
    def ranks(self) -> int:
        """GPUs, or CPU processes, of one replica."""
        sizes = (self.engine_args.get(f"{kind}_parallel_size") or 1 for kind in ("tensor", "pipeline"))
        tensor, pipeline = (int(str(size)) for size in sizes)
        return tensor * pipeline

    @property
    def replicas(self) -> int:
        """Data-parallel replicas."""
        return int(str(self.engine_args.get("data_parallel_size") or 1))

    @property
    def seconds(self) -> float:
        """The whole limit."""
        return self.timeout_s + (90 * self.soak.minutes if self.soak else 0)
