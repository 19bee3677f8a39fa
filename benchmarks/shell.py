"""Commands as a person types them: wall time, processor time and memory, beside a bare Python in the same minute."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

BIN = Path(sys.executable).parent
RUNS = 9
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""As a person has it: compiled modules are kept between runs."""
REFERENCE = ("a bare Python", [sys.executable, "-c", "pass"], None)
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
COMMANDS = (
    ("vllm-fit --help", [BIN / "vllm-fit", "--help"], 0.15),
    ("import planner", [sys.executable, "-c", "import planner"], 0.1),
    ("estimate, dense", [BIN / "vllm-fit", "estimate", LLAMA, "--gpu", "H100"], 0.3),
    ("estimate, largest MoE", [BIN / "vllm-fit", "estimate", "deepseek-ai/DeepSeek-V3", "--gpu", "H200", "-tp=8"], 0.3),
    ("fit, 8B on an L4", [BIN / "vllm-fit", "fit", LLAMA, "--gpu", "L4"], 0.3),
    (
        "fit, 70B on 4 x L40S",
        [BIN / "vllm-fit", "fit", "meta-llama/Llama-3.1-70B-Instruct", "--gpu", "L40S", "--gpus", "4"],
        0.3,
    ),
)
"""(name, words, seconds that a person may have to wait)."""
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one run of a command."""

    wall_s: float
    cpu_s: float
    """User and system time of the process and its children."""


def cost(command: list[str | Path]) -> Cost:
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, env=ENVIRONMENT)
    after, end = os.times(), time.perf_counter()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(wall_s=end - start, cpu_s=cpu)


def peak_bytes(command: list[str | Path]) -> int:
    """The most memory that a command holds."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=False);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    answer = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, check=True, env=ENVIRONMENT)
    return int(answer.stdout) * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    print(f"\nFrom the shell, median of {RUNS} runs; a bare Python runs between them.")
    print(f"{'':26}{'wall':>9}{'CPU':>9}{'x bare':>9}{'limit':>9}{'memory':>10}")
    for name, command, limit in (REFERENCE, *COMMANDS):
        cost(command)
        pairs = [(cost(command), cost(REFERENCE[1])) for _ in range(RUNS)]
        wall, cpu = median(own.wall_s for own, _ in pairs), median(own.cpu_s for own, _ in pairs)
        ratio = median(own.wall_s / bare.wall_s for own, bare in pairs)
        most = f"{limit:8.2f}s" if limit else " " * 9
        note = "" if limit is None or wall <= limit else "   missed" if cpu > limit else "   missed, by waiting"
        print(f"{name:26}{wall:8.3f}s{cpu:8.3f}s{ratio:9.1f}{most}{peak_bytes(command) / MIB:6.0f} MiB{note}")
    print(f"(limit of memory: 120 MiB; this process itself: {_own_peak() / MIB:.0f} MiB)")


def _own_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
