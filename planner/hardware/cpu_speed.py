"""What this machine's CPU can do: memory bandwidth and FLOP/s, measured in a few seconds and remembered.

The figures take the place of a data sheet's for the prediction of a CPU engine. Where vLLM's CPU engine is installed,
its own kernels are timed (kernel_speed.py): what they achieve, so that no constant has to say which part of a peak that
is. Elsewhere numpy's reading and products stand in, and the prediction is called assumed.
Other programs take time from every measurement: of short passes the middle one counts, of numpy's the fastest.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from planner.errors import InputError
from planner.files import cache_folder, write_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VERSION = 6
_BYTES = 256 << 20
"""Read in one pass by all cores: beyond the last-level cache of nearly every machine."""
_PASSES = 8
_SLICE = 16 << 20
_KERNEL_SPEED = Path(__file__).parent / "kernel_speed.py"

_BF16_FACTOR = (("amx_bf16", 8.0), ("avx512_bf16", 2.0), ("avx512f", 0.9), ("asimd", 1.0))
"""bf16 rate over float32's, by a flag of the CPU, the first found; oneDNN converts where there is no instruction."""
_BF16_DEFAULT = 0.7
_READING = 0.5
"""Which part of numpy's reading a linear layer with one token achieves, where that cannot be measured."""


@dataclass(frozen=True, kw_only=True)
class KernelSpeed:
    """Of one thread, in bf16."""

    gbs: float
    """Reading weights for one token, GB/s (10^9)."""
    tflops: float
    """With many tokens."""


@dataclass(frozen=True, kw_only=True)
class CpuSpeed:
    """Measured rates of this machine."""

    bandwidth_gbs: float
    """Reading memory with all cores, GB/s (10^9)."""
    linear: KernelSpeed
    experts: KernelSpeed
    cores: int
    by_engine: bool
    """By vLLM's own kernels, not by numpy."""

    def of_rank(self, ranks: int, kernel: KernelSpeed) -> tuple[float, float]:
        """(bytes/s, FLOP/s) of one of so many ranks: each gets its part of the cores and keeps one free of them for
        the scheduler (vllm/utils/ompmultiprocessing.py)."""
        threads = max(1, self.cores // ranks - 1)
        gbs = min(threads * kernel.gbs, max(self.bandwidth_gbs, kernel.gbs) / ranks)
        return 1e9 * gbs, 1e12 * threads * kernel.tflops


@cache
def cpu_speed() -> CpuSpeed:
    """Measured now, or when this machine was last asked."""
    return remembered() or _remember(measure())


def remembered() -> CpuSpeed | None:
    """What was measured before; None where this machine has not been."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(_cache_path().read_text(encoding="utf-8"))
        if stored["key"] == _key():
            speed = stored["speed"]
            return CpuSpeed(**{**speed, **{name: KernelSpeed(**speed[name]) for name in ("linear", "experts")}})
    return None


def measured_again() -> CpuSpeed:
    """For a measurement that what the machine can do at this moment matters to."""
    cpu_speed.cache_clear()
    return _remember(measure())


def _remember(speed: CpuSpeed) -> CpuSpeed:
    path = _cache_path()
    with suppress(OSError, InputError):  # a read-only home is no reason to fail
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"key": _key(), "speed": asdict(speed)}) + "\n")
    return speed


def measure() -> CpuSpeed:
    """The benchmark itself."""
    cores = usable_cores()
    kernels = _kernel_speed(max(1, cores - 1))
    if kernels is None:
        tflops = _fp32_tflops(cores) / cores * _bf16_factor(cpu_flags())
        assumed = KernelSpeed(gbs=round(_READING * _bandwidth(1), 2), tflops=round(tflops, 4))
    linear, experts = kernels or (assumed, assumed)
    return CpuSpeed(
        bandwidth_gbs=round(_bandwidth(cores), 2),
        linear=linear,
        experts=experts,
        cores=cores,
        by_engine=kernels is not None,
    )


def _kernel_speed(threads: int) -> tuple[KernelSpeed, KernelSpeed] | None:
    """Linear layers' and experts', by so many threads; None where vLLM for CPUs is not installed."""
    command = [sys.executable, str(_KERNEL_SPEED), str(threads)]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        answer = json.loads(found.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    linear, experts = (
        KernelSpeed(gbs=round(answer[name][0] / threads / 1e9, 2), tflops=round(answer[name][1] / threads / 1e12, 4))
        for name in ("linear", "experts")
    )
    return linear, experts


def usable_cores() -> int:
    """Cores that this process may run on."""
    with suppress(AttributeError, OSError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _bandwidth(cores: int) -> float:
    """In slices of about a millisecond, of which the fastest counts: a longer one is interrupted where others run."""
    import numpy as np

    def best(array: NDArray[np.float64]) -> float:
        slices = np.array_split(array, max(1, array.nbytes // _SLICE))
        return slices[0].nbytes / min(_seconds(part) for _ in range(_PASSES) for part in slices)

    def _seconds(part: NDArray[np.float64]) -> float:
        begin = time.perf_counter()
        np.sum(part)
        return time.perf_counter() - begin

    arrays = [np.ones(_BYTES // cores // 8) for _ in range(cores)]
    with ThreadPoolExecutor(cores) as pool:
        return sum(pool.map(best, arrays)) / 1e9


def _fp32_tflops(cores: int) -> float:
    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "MKL", "OMP", "BLIS", "VECLIB")}
    found = subprocess.run(
        [sys.executable, "-c", _PRODUCTS, str(cores)],
        env={**os.environ, **one_thread},
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise InputError(f"this CPU's speed could not be measured: {found.stderr.strip()[-200:]}")
    return float(found.stdout) / 1e12


_PRODUCTS = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
import numpy

def best(_):
    matrix = numpy.ones((384, 384), dtype=numpy.float32)
    out = matrix @ matrix
    seconds = []
    for _ in range(100):
        begin = time.perf_counter()
        numpy.matmul(matrix, matrix, out=out)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)

cores = int(sys.argv[1])
with ThreadPoolExecutor(cores) as pool:
    print(sum(2.0 * 384**3 / seconds for seconds in pool.map(best, range(cores))))
"""
"""FLOP/s of all cores at once, each by its fastest pass of about a millisecond."""


def _bf16_factor(flags: frozenset[str]) -> float:
    return next((factor for flag, factor in _BF16_FACTOR if flag in flags), _BF16_DEFAULT)


def cpu_flags() -> frozenset[str]:
    """The instruction sets of /proc/cpuinfo ("avx512_bf16", "asimd"); on x86 without such a file, none."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(("flags", "features")):
                return frozenset(line.partition(":")[2].split())
    return frozenset({"asimd"}) if platform.machine() in ("arm64", "aarch64") else frozenset()


def cpu_name() -> str:
    """The model name of /proc/cpuinfo, or what the platform calls it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _key() -> list[object]:
    """What a measurement holds for."""
    return [_VERSION, platform.node(), cpu_name(), usable_cores()]


def _cache_path() -> Path:
    return cache_folder() / "cpu-speed.json"
