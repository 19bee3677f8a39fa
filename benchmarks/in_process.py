"""The core inside one process: an estimate, a sweep, a batch, in processor time, beside a fixed piece of Python."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial

import hf_configs
from planner.planning.sweep import Grid, sweep
from planner.request import answer, answer_lines, prepare

RUNS = 5
DENSE, MOE, LISTED = (
    "meta-llama/Llama-3.1-8B-Instruct",
    "sgl-project/DeepSeek-V4-Pro-FP8",
    "nvidia/MiniMax-M3-NVFP4",
)
"""A dense model, the largest MoE of the catalogue, and one whose quantization names every layer."""
CARDS = ("L4", "4090", "A100", "L40S", "H100", "H200", "B200")


def seconds(call: Callable[[], object], times: int = 1) -> float:
    """Processor time of one call: the best of RUNS, each of so many."""
    found = []
    for _ in range(RUNS):
        start = time.process_time()
        for _ in range(times):
            call()
        found.append((time.process_time() - start) / times)
    return min(found)


def reference() -> int:
    """A million additions, as a measure of this machine."""
    total = 0
    for number in range(1_000_000):
        total += number
    return total


def mixed_requests(count: int) -> list[str]:
    """Different models, cards and sizes, as lines of a batch."""
    names = hf_configs.names()
    return [
        json.dumps(
            {
                "id": number,
                "model": names[number * 7 % len(names)],
                "gpu": CARDS[number % len(CARDS)],
                "tensor_parallel_size": 1 << number % 4,
                "max_model_len": 1024 * (1 + number % 30),
            }
        )
        for number in range(count)
    ]


def grid(lengths: int) -> Grid:
    """So many context lengths x 10 batch sizes x 5 cards x 2 sizes of tensor parallelism."""
    return Grid(
        gpu=CARDS[:5],
        tensor_parallel_size=(1, 2),
        max_num_seqs=tuple(range(16, 176, 16)),
        max_model_len=tuple(range(64, 64 * (lengths + 1), 64)),
    )


MIXED = Grid(
    gpu=CARDS[:5],
    tensor_parallel_size=(1, 2, 4, 8),
    pipeline_parallel_size=(1, 2),
    quantization=(None, "fp8", "what-if:awq", "what-if:w8a8"),
    kv_cache_dtype=("auto", "fp8"),
    max_model_len=tuple(range(4096, 131073, 4096)),
    max_num_seqs=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
)


def main() -> None:
    unit = seconds(reference)
    print(
        f"\nIn process, processor time, best of {RUNS}; the reference, a million additions, takes {unit * 1e3:.1f} ms."
    )
    print(f"{'':34}{'time':>12}{'x reference':>13}{'limit':>11}")
    for name, model, limit in (
        ("dense", DENSE, 1e-3),
        ("largest MoE", MOE, 5e-3),
        ("MoE, layers listed", LISTED, 5e-3),
    ):
        request = {"model": model, "gpu": "H200", "tensor_parallel_size": 8}
        show(f"estimate, {name}", seconds(prepare(request).estimate, 20), limit, unit)
        show(f"request to answer, {name}", seconds(partial(answer, request), 20), limit, unit)
    batch = mixed_requests(1000)
    show("batch of 1,000, first time", once(lambda: list(answer_lines(batch))), 3, unit)
    show("batch of 1,000, again", seconds(lambda: list(answer_lines(batch))), 3, unit)
    sizes = (10, 100, 1000)
    times = [seconds(partial(sweep, {"model": DENSE}, grid(size))) for size in sizes]
    show(f"sweep of {MIXED.size:,}, every axis", seconds(partial(sweep, {"model": DENSE}, MIXED)), 1.0, unit)
    for size, taken in zip(sizes, times, strict=True):
        show(f"sweep of {grid(size).size:,}", taken, 1.0 if size == 1000 else None, unit)
    print(f"  ten times as many take {times[2] / times[1]:.1f} times as long (linear: 10)")


def once(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def show(name: str, taken: float, limit: float | None, unit: float) -> None:
    most = "" if limit is None else f"{limit * 1e3:8,.0f} ms"
    missed = "   missed" if limit is not None and taken > limit else ""
    print(f"{name:34}{taken * 1e3:9,.2f} ms{taken / unit:12,.2f}x{most:>11}{missed}")


if __name__ == "__main__":
    main()
