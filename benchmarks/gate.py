"""`vllm-fit gate` on a hundred launches in fifty files, from a cold start; the median of several runs.

usage: python -m benchmarks.gate        (`make bench` runs it last)
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from benchmarks import gate_files
from benchmarks.shell import BIN, REFERENCE, cost

RUNS = 5
LIMIT_S = 3.0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        gate_files.write(Path(folder))
        command = [BIN / "vllm-fit", "gate", folder, "--offline"]
        cost(command)
        pairs = [(cost(command).wall_s, cost(REFERENCE[1]).wall_s) for _ in range(RUNS)]
    own, ratio = median(own for own, _ in pairs), median(own / bare for own, bare in pairs)
    what = f"gate, {gate_files.LAUNCHES} launches in {gate_files.FILES} files"
    print(f"{what:36}{own:8.3f}s{ratio:9.1f} x bare   (limit {LIMIT_S:g} s, of {RUNS} runs)")


if __name__ == "__main__":
    main()
