"""Predicted beside measured tokens/s of vLLM's CPU engine on this machine: `python -m benchmarks.cpu_engine [--write]`.

Two models, a dense one and a mixture of experts, with dummy weights; three concurrencies each; every launch repeated.
What the machine can do is measured before and after each launch, so that a machine which others use at the same time is
predicted as slow as it then is. With --write the table becomes docs/accuracy-cpu.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from planner.engine.launch import launch
from planner.hardware.cpu_speed import CpuSpeed, measure
from planner.planning.throughput import predict
from planner.request import Workload, prepare
from planner.validate.trial import Options, for_device, trial_of

PAGE = Path(__file__).parent.parent / "docs" / "accuracy-cpu.md"
LAUNCHES = 3
INPUT_LEN, OUTPUT_LEN = 256, 32
CONCURRENCIES = (1, 4, 16)
MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Qwen/Qwen2.5-0.5B-Instruct", {}),
    ("ibm-granite/granite-3.1-3b-a800m-instruct", {"hf_overrides": {"num_hidden_layers": 16}}),
)
"""(model, what is asked besides): half of the experts' layers, so that they fit into a small machine's memory."""


@dataclass(frozen=True, kw_only=True)
class Row:
    model: str
    concurrency: int
    predicted: float
    """Output tokens/s."""
    measured: float
    """Of the best round: others on the machine only slow a round down, as they do the passes of the speed's measure."""

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1.0


def compared(model: str, asked: dict[str, Any]) -> tuple[list[Row], CpuSpeed]:
    """One launch at every concurrency."""
    request = {"model": model, "gpu": "cpu", "max_model_len": 1024, "max_num_seqs": 32, **asked}
    inputs = for_device(prepare(request), "cpu")
    load = Options(device="cpu", concurrency=CONCURRENCIES, input_len=INPUT_LEN, output_len=OUTPUT_LEN)
    trial = trial_of(model, inputs, load)
    if trial.spec is None:
        raise SystemExit(trial.obstacle)
    before = measure()
    measurement = launch(trial.spec)
    after = measure()
    speed = replace(
        before,
        bandwidth_gbs=(before.bandwidth_gbs + after.bandwidth_gbs) / 2,
        bf16_tflops=(before.bf16_tflops + after.bf16_tflops) / 2,
    )
    gpu = replace(inputs.gpu, bandwidth_gbs=speed.bandwidth_gbs, tflops={"bf16": speed.bf16_tflops})
    inputs = replace(inputs, gpu=gpu)
    rows = []
    for result in measurement.loads:
        workload = Workload(concurrency=result.load.concurrency, input_len=INPUT_LEN, output_len=OUTPUT_LEN)
        prediction = predict(inputs, inputs.estimate(), workload)
        assert prediction is not None
        rows.append(
            Row(
                model=model,
                concurrency=result.load.concurrency,
                predicted=prediction.point.output_tokens_per_s,
                measured=max(result.rounds),
            )
        )
    return rows, speed


def table(rows: list[Row]) -> list[str]:
    """Medians over the launches."""
    lines = ["| model | at once | predicted | measured | error | worst |", "|---|---:|---:|---:|---:|---:|"]
    for key in dict.fromkeys((row.model, row.concurrency) for row in rows):
        mine = [row for row in rows if (row.model, row.concurrency) == key]
        worst = max((row.error for row in mine), key=abs)
        lines.append(
            f"| {key[0]} | {key[1]} | {median(r.predicted for r in mine):.1f} | {median(r.measured for r in mine):.1f} "
            f"| {median(r.error for r in mine):+.0%} | {worst:+.0%} |"
        )
    return lines


def main() -> None:
    rows: list[Row] = []
    for _ in range(LAUNCHES):
        for model, asked in MODELS:
            found, speed = compared(model, asked)
            rows += found
            print(f"{model}: {speed.bandwidth_gbs:.1f} GB/s, {speed.bf16_tflops:.3f} bf16 TFLOP/s, {speed.cores} cores")
            for row in found:
                print(f"  {row.concurrency:3} at once: {row.predicted:.1f} predicted, {row.measured:.1f} measured")
    text = "\n".join(["# The CPU engine's speed, predicted and measured", "", *_ABOUT, "", *table(rows), ""])
    print(text)
    if "--write" in sys.argv:
        PAGE.write_text(text, encoding="utf-8")


_ABOUT = [
    "Made by `python -m benchmarks.cpu_engine --write`: output tokens/s of vLLM's CPU engine with dummy weights, for",
    f"requests of {INPUT_LEN} tokens in and {OUTPUT_LEN} out; medians of {LAUNCHES} launches, and the largest error of",
    "any. Predicted from the bandwidth and FLOP/s that the machine had just before and after each launch",
    "(planner/hardware/cpu_speed.py); no constant was fitted on this engine but those of all cards.",
]


if __name__ == "__main__":
    main()
