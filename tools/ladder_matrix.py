"""Every config of the catalogue on every card: each plan legal, sufficient and minimal, or a no that names what binds.

    .venv/bin/python tools/ladder_matrix.py [--every N] [--concurrency C] [--max-model-len L]

Prints each failure, then a summary. tests/test_ladder.py runs a sample of the same check.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import Any

import hf_configs
from planner.errors import InputError
from planner.planning.goal import Goal
from planner.planning.ladder import fit
from planner.planning.plan import Plan
from planner.planning.speed_goal import met
from planner.request import prepare

CARDS = ("T4", "L4", "RTX 3090", "RTX 4090", "A100-40", "L40S", "H100", "H200", "B200", "MI300X")
COUNTS = (1, 2, 4, 8)


def problems(plan: Plan) -> Iterator[str]:
    """What is wrong with a plan; nothing where it is right."""
    if not plan.met:
        if plan.binding is None or not plan.binding.message:
            yield "a no that names nothing"
        return
    engine = plan.estimate.engine
    if not plan.estimate.fits or engine is None:
        yield f"met, but {plan.estimate.status}"
        return
    if engine.gpus_per_replica * engine.data_parallel_size > plan.goal.gpus:
        yield "more cards than there are"
    if not met(plan.inputs, plan.goal, plan.inputs.estimate()):
        yield "its own inputs do not meet the goal"
    for index, change in enumerate(plan.changes):
        inputs = plan.base
        for other in (*plan.changes[:index], *plan.changes[index + 1 :]):
            inputs = other.apply(inputs)
        if met(inputs, plan.goal, inputs.estimate()):
            yield f"not needed: {change.summary}"


def check(request: dict[str, Any], goal: Goal) -> tuple[str, list[str]]:
    """(outcome, problems) of one cell of the matrix."""
    try:
        plan = fit(prepare(request), goal)
    except InputError as error:
        return "wrong input", [f"InputError: {error}"]
    except Exception as error:  # noqa: BLE001 - the matrix goes on, and prints where it was
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "crash", [f"{type(error).__name__}: {error} at {where.filename}:{where.lineno}"]
    if plan.met:
        return "met", list(problems(plan))
    assert plan.binding is not None
    return f"no: {plan.binding.code}", list(problems(plan))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="one cell out of so many")
    parser.add_argument("--concurrency", type=float, default=1)
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--vllm-version")
    words = parser.parse_args()
    cells = list(product(hf_configs.names(), CARDS, COUNTS))[:: words.every]
    outcomes: Counter[str] = Counter()
    failures, start = 0, time.monotonic()
    for model, gpu, gpus in cells:
        request = {"model": model, "gpu": gpu, "vllm_version": words.vllm_version, "max_model_len": words.max_model_len}
        request = {key: value for key, value in request.items() if value is not None}
        outcome, wrong = check(request, Goal(gpus=gpus, concurrency=words.concurrency))
        outcomes[outcome] += 1
        failures += bool(wrong)
        for line in wrong:
            print(f"{model} on {gpus} x {gpu}: {line}", flush=True)
    print(f"{len(cells)} cells in {time.monotonic() - start:.0f} s, {failures} failed")
    for outcome, count in outcomes.most_common():
        print(f"  {count:6} {outcome}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
