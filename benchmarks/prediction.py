"""Time of a speed prediction in process, and of a sweep with speed columns: `python -m benchmarks.prediction`."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.in_process import reference, show
from benchmarks.in_process import seconds as seconds_of
from planner.planning.sweep import Grid, sweep
from planner.planning.throughput import predict
from planner.request import prepare
from planner.workload import Workload

RUNS = 50
LAUNCHES: tuple[dict[str, Any], ...] = (
    {"model": "meta-llama/Llama-3.1-8B-Instruct", "gpu": "H100"},
    {"model": "deepseek-ai/DeepSeek-V3", "gpu": "H200", "tensor_parallel_size": 8},
    {"model": "moonshotai/Kimi-K2.5", "gpu": "B200", "tensor_parallel_size": 8, "max_model_len": 32768},
)
WORKLOADS = {"concurrency": Workload(concurrency=32), "request rate": Workload(request_rate=2.0)}
GRID = Grid(
    gpu=("H100", "L40S"),
    tensor_parallel_size=(1, 2, 4, 8),
    quantization=(None, "what-if:fp8"),
    kv_cache_dtype=(None, "fp8"),
    max_model_len=tuple(range(2048, 2048 + 50 * 256, 256)),
    max_num_seqs=tuple(range(8, 8 + 32 * 8, 8)),
    max_num_batched_tokens=(2048, 4096),
)


def main() -> None:
    unit = seconds_of(reference)
    print("\nSpeed, predicted in process, processor time:")
    for launch in LAUNCHES:
        inputs = prepare(launch)
        estimate = inputs.estimate()
        for name, load in WORKLOADS.items():
            taken = seconds_of(partial(predict, inputs, estimate, load), RUNS)
            show(f"{launch['model'].partition('/')[2]}, {name}", taken, 5e-3, unit)
    request = {"model": "Qwen/Qwen3-32B", "gpu": "H100"}
    workload = {"concurrency": 48, "input_len": 1500, "output_len": 300}
    for name, asked in (("", request), (", with speed", {**request, "workload": workload})):
        show(f"sweep of {GRID.size:,}{name}", seconds_of(partial(sweep, asked, GRID)), 1.0, unit)


if __name__ == "__main__":
    main()
