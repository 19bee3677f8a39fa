"""The `vllm serve` line of every plan of the ladder matrix through vLLM's own parser and config validation.

    .venv/bin/python tools/serve_lines.py [--every N] [--concurrency C] [--max-model-len L] [--gpu CARD ...]

One child process of the installed vLLM a card, which looks like a machine with that card (planner/engine/ask_vllm);
models are folders with the catalogue's configs, so nothing is fetched. A line that several plans share is asked once.
Prints each line that vLLM refuses or reads differently, then a summary.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import hf_configs
from planner.asking import facts_of
from planner.engine.ask_vllm.client import VllmProcess
from planner.hardware.catalogue import find_gpu
from planner.model.source import load_config
from planner.planning.goal import Goal
from planner.planning.ladder import fit
from planner.planning.plan import Plan
from planner.request import Inputs, prepare
from tools.ladder_matrix import CARDS, COUNTS


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What vLLM made of one plan."""

    plan: Plan
    problem: str | None
    """None: taken, and read as it was meant."""
    not_asked: str | None = None
    """Why vLLM could not be asked here, which says nothing about the plan."""


def verdicts(plans: Iterable[Plan], vllm: VllmProcess) -> Iterator[Verdict]:
    """Of plans that are met, for the card that the process looks like; each different line once."""
    seen = set()
    for plan in plans:
        key = (plan.serve_command, plan.inputs.what_if_quantization)
        if plan.met and key not in seen:
            seen.add(key)
            yield verdict(plan, vllm)


def verdict(plan: Plan, vllm: VllmProcess) -> Verdict:
    words = [plan.inputs.model_source, *plan.inputs.args.to_flags()]
    answer = vllm.ask(question(plan.inputs, {"serve": words}), timeout_s=300)
    error = answer.get("error")
    if error is not None:
        message = f"{error['type']}: {error['message']}"
        if error["kind"] != "refused":
            return Verdict(plan=plan, problem=None, not_asked=message)
        return Verdict(plan=plan, problem=message)
    return Verdict(plan=plan, problem=next(_differences(plan, answer), None))


def question(inputs: Inputs, launch: Mapping[str, Any]) -> dict[str, Any]:
    """What planner/engine/ask_vllm is asked: a launch as launches.check takes it, with the model's files."""
    loaded = load_config(inputs.source) if isinstance(inputs.source, str) else None
    assert loaded is not None
    config = dict(loaded.values)
    if inputs.what_if_quantization is not None and inputs.quantization is not None:
        config["quantization_config"] = json.loads(json.dumps(inputs.quantization.parameters, default=dict))
    files = {"hf_quant_config.json": loaded.quant_config} if loaded.quant_config else {}
    return {"name": loaded.name, "config": config, "files": files, "names": list(inputs.args), **launch}


def _differences(plan: Plan, answer: Mapping[str, Any]) -> Iterator[str]:
    """Where vLLM read or resolved something else than the plan says."""
    if answer["model"] != plan.inputs.model_source:
        yield f"model: read as {answer['model']}"
    for name, meant in plan.inputs.args.items():
        if answer["args"][name] != meant:
            yield f"{name}: read as {answer['args'][name]!r}"
    engine, resolved = plan.estimate.engine, answer["resolved"]
    assert engine is not None
    for name in ("dtype", "max_model_len", "max_num_seqs", "max_num_batched_tokens"):
        if resolved[name] != getattr(engine, name):
            yield f"{name}: resolved to {resolved[name]!r}, predicted {getattr(engine, name)!r}"


def matrix(gpu: str, options: argparse.Namespace) -> Iterator[Plan]:
    """The plans of one card's part of the matrix."""
    for index, (model, gpus) in enumerate(product(hf_configs.names(), COUNTS)):
        if index % options.every == 0:
            request = {"model": model, "gpu": gpu, "vllm_version": options.vllm_version}
            request |= {"max_model_len": options.max_model_len} if options.max_model_len else {}
            yield fit(prepare(request), Goal(gpus=gpus, concurrency=options.concurrency))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="one cell out of so many")
    parser.add_argument("--concurrency", type=float, default=1)
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--vllm-version", default="0.32.0", help="the one that is installed")
    parser.add_argument("--gpu", nargs="+", default=CARDS)
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    started = time.monotonic()
    for gpu in options.gpu:
        with VllmProcess(facts_of(find_gpu(gpu)), architectures=[], niceness=5) as vllm:
            for one in verdicts(matrix(gpu, options), vllm):
                kind = "refused or read differently" if one.problem else "could not be asked" if one.not_asked else "ok"
                outcomes[kind] += 1
                if kind != "ok":
                    print(f"{gpu}: {one.plan.serve_command}: {one.problem or one.not_asked}", flush=True)
    print(f"{sum(outcomes.values())} lines in {time.monotonic() - started:.0f} s: {dict(outcomes)}")
    return 1 if outcomes["refused or read differently"] else 0


if __name__ == "__main__":
    sys.exit(main())
