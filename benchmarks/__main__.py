"""Time from the shell, as a person waits for it: the median of several runs of each command.

A bare `python -c pass` runs between them, so that each figure can be read against this machine's own speed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

BIN = Path(sys.executable).parent
RUNS = 9
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""As a person has it: compiled modules are kept between runs."""
REFERENCE = ("a bare Python", [sys.executable, "-c", "pass"])
COMMANDS = (
    ("vllm-fit --help", [BIN / "vllm-fit", "--help"]),
    ("import planner", [sys.executable, "-c", "import planner"]),
    ("estimate, dense", [BIN / "vllm-fit", "estimate", "meta-llama/Llama-3.1-8B-Instruct", "--gpu", "H100"]),
    ("estimate, largest MoE", [BIN / "vllm-fit", "estimate", "deepseek-ai/DeepSeek-V3", "--gpu", "H200", "-tp", "8"]),
    (
        "fit, 70B on 4 x L40S",
        [BIN / "vllm-fit", "fit", "meta-llama/Llama-3.1-70B-Instruct", "--gpu", "L40S", "--gpus", "4"],
    ),
)


def seconds(command: list[str | Path]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, env=ENVIRONMENT)
    return time.perf_counter() - start


def main() -> None:
    seconds(REFERENCE[1])
    print(f"{'':26}{'median':>9}{'x bare':>9}   (of {RUNS} runs)")
    for name, command in (REFERENCE, *COMMANDS):
        seconds(command)
        pairs = [(seconds(command), seconds(REFERENCE[1])) for _ in range(RUNS)]
        ratio = median(own / bare for own, bare in pairs)
        print(f"{name:26}{median(own for own, _ in pairs):8.3f}s{ratio:9.1f}")


if __name__ == "__main__":
    main()
