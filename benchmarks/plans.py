"""`python -m benchmarks.plans`: a sweep of 102,400 launches and a recommendation over the whole catalogue, in process.

Seconds of one core (process time), so that other programs on the machine do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from planner.planning.goal import Goal
from planner.planning.recommend import recommend
from planner.planning.sweep import Grid, sweep
from planner.request import prepare

RUNS = 5
LLAMA_8B, LLAMA_70B = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"
GRID = Grid(
    gpu=("L4", "A100-40", "L40S", "H100", "B200"),
    tensor_parallel_size=(1, 2, 4, 8),
    pipeline_parallel_size=(1, 2),
    quantization=(None, "fp8", "what-if:awq", "what-if:w8a8"),
    kv_cache_dtype=("auto", "fp8"),
    max_model_len=tuple(range(4096, 131073, 4096)),
    max_num_seqs=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
)


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    inputs = prepare({"model": LLAMA_70B, "gpu": "H100", "max_model_len": 16384})
    works: tuple[tuple[str, Callable[[], object]], ...] = (
        (f"sweep of {GRID.size:,} launches", lambda: sweep({"model": LLAMA_8B}, GRID)),
        ("recommend, 70B for 32 requests", lambda: recommend(inputs, Goal(concurrency=32))),
    )
    sweep({"model": LLAMA_8B, "gpu": "H100"}, Grid())  # imports
    for name, work in works:
        taken = sorted(seconds(work) for _ in range(RUNS))
        print(f"{name:34} {taken[0]:6.2f} s best of {RUNS}, {taken[RUNS // 2]:6.2f} s median")


if __name__ == "__main__":
    main()
