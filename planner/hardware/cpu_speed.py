"""What this machine's CPU can do: memory bandwidth and FLOP/s, measured in about a second and remembered.

The figures take the place of a data sheet's for the prediction of a CPU engine. Bandwidth: every core sums an array,
all together far larger than the caches (numpy lets go of the interpreter lock), and its fastest pass counts.
FLOP/s: float32 matrix products on numpy's BLAS, and from them those in bf16 by the instructions that the CPU has.
Every core does its own, in a process whose BLAS has one thread: threads of one product wait for each other, and where
other programs run, that wait is what would be measured.
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
from planner.files import write_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VERSION = 4
_BYTES = 256 << 20
"""Read in one pass by all cores: beyond the last-level cache of nearly every machine."""
_PASSES = 8
_SLICE = 16 << 20

_BF16_FACTOR = (("amx_bf16", 8.0), ("avx512_bf16", 1.6), ("avx512f", 0.9), ("asimd", 1.0))
"""bf16 rate over float32's, by a flag of the CPU, the first found; oneDNN converts where there is no instruction."""
_BF16_DEFAULT = 0.7


@dataclass(frozen=True, kw_only=True)
class CpuSpeed:
    """Measured rates of this machine, of all cores together where nothing else is said."""

    bandwidth_gbs: float
    """Reading memory, GB/s (10^9)."""
    core_bandwidth_gbs: float
    """The same of one core while the others rest."""
    fp32_tflops: float
    bf16_tflops: float
    """Derived from fp32_tflops."""
    cores: int

    def of_rank(self, ranks: int) -> tuple[float, float]:
        """(GB/s, bf16 TFLOP/s) of one of so many ranks: each gets its part of the cores and keeps one free of them for
        the scheduler (vllm/utils/ompmultiprocessing.py)."""
        threads = max(1, self.cores // ranks - 1)
        bandwidth = min(threads * self.core_bandwidth_gbs, max(self.bandwidth_gbs, self.core_bandwidth_gbs) / ranks)
        return bandwidth, self.bf16_tflops * threads / self.cores


@cache
def cpu_speed() -> CpuSpeed:
    """Measured now, or when this machine was last asked."""
    path = _cache_path()
    key = _key()
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["key"] == key:
            return CpuSpeed(**stored["speed"])
    speed = measure()
    with suppress(OSError, InputError):  # a read-only home is no reason to fail
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"key": key, "speed": asdict(speed)}) + "\n")
    return speed


def measure() -> CpuSpeed:
    """The benchmark itself."""
    cores = usable_cores()
    fp32 = _fp32_tflops(cores)
    return CpuSpeed(
        bandwidth_gbs=round(_bandwidth(cores), 2),
        core_bandwidth_gbs=round(_bandwidth(1), 2),
        fp32_tflops=round(fp32, 4),
        bf16_tflops=round(fp32 * _bf16_factor(cpu_flags()), 4),
        cores=cores,
    )


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
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(("flags", "features")):
                return frozenset(line.partition(":")[2].split())
    return frozenset({"asimd"}) if platform.machine() in ("arm64", "aarch64") else frozenset()


def _key() -> list[object]:
    """What a measurement holds for."""
    model = platform.processor()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return [_VERSION, platform.node(), model, usable_cores()]


def _cache_path() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "vllm-fit" / "cpu-speed.json"
