"""Predicted beside measured tokens/s of vLLM's CPU engine on this machine: `python -m benchmarks.cpu_engine [--write]`.

Two models, a dense one and a mixture of experts, with dummy weights; three concurrencies each; every launch repeated.
What the machine can do is measured before each launch. Tokens/s are over the time in which the engine's worker had its
cores, so that other programs on the machine matter little. With --write the table becomes docs/accuracy-cpu.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from planner.engine.launch import Listener, launch
from planner.hardware.cpu_speed import CpuSpeed, measured_again
from planner.planning.throughput import predict, sent_together
from planner.request import prepare
from planner.validate.trial import Options, for_device, trial_of
from planner.workload import Workload

PAGE = Path(__file__).parent.parent / "docs" / "accuracy-cpu.md"
LAUNCHES = 2
ROUNDS = 2
INPUT_LEN, OUTPUT_LEN = 128, 32
CONCURRENCIES = (1, 4, 8)
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
    """The same, over the part of the time in which the engine's worker had its cores."""
    share: float
    """That part; 1 on a machine that does nothing else."""

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1.0


class Clock:
    """How much of the time of each round the engine's worker had a core: other programs only take that from it."""

    def __init__(self) -> None:
        self.shares: list[float] = []
        self._last = (time.perf_counter(), self._busy())

    def __call__(self, event: Mapping[str, Any]) -> None:
        now = (time.perf_counter(), self._busy())
        if event["event"] == "round":
            self.shares.append((now[1] - self._last[1]) / (now[0] - self._last[0]))
        self._last = now

    @staticmethod
    def _busy() -> float:
        seconds = 0.0
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if "Worker" in process.name() or "Worker" in " ".join(process.cmdline()):
                    times = process.cpu_times()
                    seconds += times.user + times.system
        return seconds


def compared(model: str, asked: dict[str, Any]) -> tuple[list[Row], CpuSpeed]:
    """One launch at every concurrency, and what it was predicted with."""
    request = {"model": model, "gpu": "cpu", "max_model_len": 1024, "max_num_seqs": 32, **asked}
    inputs = for_device(prepare(request), "cpu")
    load = Options(device="cpu", concurrency=CONCURRENCIES, input_len=INPUT_LEN, output_len=OUTPUT_LEN, rounds=ROUNDS)
    trial = trial_of(model, inputs, load)
    if trial.spec is None:
        raise SystemExit(trial.obstacle)
    speed, clock = measured_again(), Clock()
    measurement = launch(trial.spec, listener=Listener(on_progress=lambda _: None, on_event=clock))
    rows = []
    for number, result in enumerate(measurement.loads):
        workload = Workload(concurrency=result.load.concurrency, input_len=INPUT_LEN, output_len=OUTPUT_LEN)
        prediction = predict(inputs, inputs.estimate(), workload)
        assert prediction is not None
        prediction = sent_together(prediction, result.load.requests_a_round)
        shares = clock.shares[number * ROUNDS : (number + 1) * ROUNDS]
        threads = max(1, speed.cores - 1)
        rows.append(
            Row(
                model=model,
                concurrency=result.load.concurrency,
                predicted=prediction.point.output_tokens_per_s,
                measured=median(rate * threads / share for rate, share in zip(result.rounds, shares, strict=True)),
                share=median(shares) / threads,
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
            for name, kernel in (("linear layers", speed.linear), ("experts", speed.experts)):
                print(f"{model}: a thread's {name} {kernel.gbs:.1f} GB/s, {kernel.tflops:.3f} bf16 TFLOP/s")
            for row in found:
                print(
                    f"  {row.concurrency:3} at once: {row.predicted:.1f} predicted, {row.measured:.1f} measured "
                    f"(x {row.share:.2f} of the time)"
                )
    text = "\n".join(["# The CPU engine's speed, predicted and measured", "", *_ABOUT, "", *table(rows), ""])
    print(text)
    if "--write" in sys.argv:
        PAGE.write_text(text, encoding="utf-8")


_ABOUT = [
    "Made by `python -m benchmarks.cpu_engine --write`: output tokens/s of vLLM's CPU engine with dummy weights, for",
    f"requests of {INPUT_LEN} tokens in and {OUTPUT_LEN} out; medians of {LAUNCHES} launches, and the largest error of",
    "any. Predicted from what vLLM's kernels for linear layers and experts achieved on the machine just before each",
    "launch (planner/hardware/kernel_speed.py); nothing is fitted on these rows. Measured: tokens over the time in",
    "which the engine's worker had its cores, since other programs may run on the machine too.",
]


if __name__ == "__main__":
    main()
