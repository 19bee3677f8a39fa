"""What every way of launching needs: room on the machine, a folder with the model, an environment, and an end."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from planner.engine.spec import LaunchError, LaunchSpec
from planner.units import GIB, gib

_CPU_PROCESS_BYTES = 1 * GIB
"""What one process of the CPU engine takes before it holds any model: the interpreter, torch and vLLM."""
_DISK_BYTES = 200 << 20
_SOCKET_FOLDER = 60
"""Characters of a folder for vLLM's sockets, which it names by a UUID: the path of a socket has at most 107, or 103."""


def room_needed(spec: LaunchSpec) -> dict[str, int]:
    """Bytes of this machine's memory that a CPU engine takes, by what for; empty for a GPU engine."""
    if spec.device != "cpu":
        return {}
    return {
        "loading weights": 2 * spec.expected_weights_bytes,  # while they are repacked, both forms are there
        "the KV cache": spec.ranks * spec.replicas * (spec.kv_cache_memory_bytes or 0),
        "its processes": (spec.ranks * spec.replicas + 2) * _CPU_PROCESS_BYTES,
    }


def check_room(spec: LaunchSpec) -> None:
    """A machine that starts to swap, or a full disk, helps nobody: look before."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < _DISK_BYTES:
        text = f"{tempfile.gettempdir()} has {gib(free)} GiB free; the engine needs {gib(_DISK_BYTES)} GiB"
        raise LaunchError(text, kind="not_started")
    needs = room_needed(spec)
    available = psutil.virtual_memory().available
    if sum(needs.values()) > available:
        parts = ", ".join(f"{gib(size)} for {what}" for what, size in needs.items())
        raise LaunchError(
            f"this machine has {gib(available)} GiB of memory available and the CPU engine would take"
            f" {gib(sum(needs.values()))} GiB: {parts}",
            kind="not_started",
        )


def model_folder(spec: LaunchSpec, folder: Path) -> tuple[Path, bool]:
    """(the folder that vLLM is to load, whether it holds a checkpoint)."""
    if (spec.config is None) == (spec.model_path is None):
        raise LaunchError("give a config or the folder of a model, one of the two", kind="not_started")
    if spec.model_path is not None:
        model = spec.model_path.resolve()
        return model, any(model.glob("*.safetensors")) or any(model.glob("*.bin"))
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(spec.config), encoding="utf-8")
    return model, False


def engine_args(spec: LaunchSpec, has_checkpoint: bool) -> dict[str, object]:
    """The plan's arguments and what a measurement needs beside them; the plan's own win."""
    args: dict[str, object] = {"load_format": "auto" if has_checkpoint else "dummy", **spec.engine_args}
    if spec.kv_cache_memory_bytes is not None:
        args["kv_cache_memory_bytes"] = spec.kv_cache_memory_bytes
    if spec.device == "cpu":
        args.setdefault("enforce_eager", True)  # compiling needs a C++ compiler, and changes no size
        if spec.ranks > 1:
            args.setdefault("distributed_executor_backend", "mp")
    return args


def environment(spec: LaunchSpec, folder: Path) -> dict[str, str]:
    """Nothing is fetched, nothing is reported home, nothing listens beyond this machine, no file stays."""
    inherited = {name: value for name, value in os.environ.items() if name != "VLLM_CPU_KVCACHE_SPACE"}
    ours = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_CONFIGURE_LOGGING": "1",
        "VLLM_LOGGING_LEVEL": "DEBUG",  # only there does it print non-torch memory and the peak of activations
        "VLLM_LOGGING_COLOR": "0",
        "NO_PROXY": "*",
        "no_proxy": "*",
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "TMPDIR": str(folder),
    }
    if len(str(folder)) > _SOCKET_FOLDER:
        ours["VLLM_RPC_BASE_PATH"] = "/tmp"
    if sys.platform == "linux":
        ours |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    if spec.device == "cpu":
        ours |= _cores(spec.ranks * spec.replicas)
    return {**inherited, **ours, **spec.environment}


def _cores(ranks: int) -> Mapping[str, str]:
    """vLLM binds every rank to cores of its own and keeps one a rank free for its scheduler.

    With few cores it refuses, or is slowed by whatever else runs on the bound ones: keep the free core, drop the
    binding.
    """
    cores = len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count() or 1
    if cores >= 4 * ranks:
        return {}
    return {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(max(1, cores // ranks - 1))}


@contextmanager
def no_shared_memory_left(log: Path) -> Iterator[None]:
    """Ranks of a CPU engine share memory under a name that stands in the log, and leave it there when they end."""
    try:
        yield
    finally:
        for name in set(re.findall(r"vllm_dist_[0-9a-f]{32}", read(log))):
            for segment in Path("/dev/shm").glob(f"{name}*"):
                segment.unlink(missing_ok=True)


def follow(path: Path) -> Iterator[list[str]]:
    """Each `next` gives the whole lines that were written since the one before."""
    position, rest = 0, b""
    while True:
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                data = file.read()
            position += len(data)
            *lines, rest = (rest + data).split(b"\n")
            yield [line.decode(errors="replace") for line in lines]
        else:
            yield []


def read(path: Path) -> str:
    """The text of a file that a process may be writing; empty where there is none yet."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
