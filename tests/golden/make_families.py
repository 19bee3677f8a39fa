"""Makes families.jsonl.gz or dense.jsonl.gz by asking vLLM's own classes (planner/engine/ask_vllm), without a GPU.

    python tests/golden/make_families.py [dense] --python VENV/bin/python --source SRC

`dense` asks for the models of dense_cases.py; Gemma 3n needs timm and torchvision on PYTHONPATH.

A row: {"model", "args", "vllm", "stages": [[total, parameters and buffers, allocator blocks], …]} for one H100 rank of
each pipeline stage, or {"model", "args", "vllm", "error": vLLM's sentence}.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from planner.engine.ask_vllm.client import GpuFacts, VllmProcess
from planner.model.source import load_config
from tests.golden import dense_cases, family_cases
from tests.golden.cases import GPUS
from tests.golden.family_cases import HARNESS, plain

CASES = {"families": family_cases, "dense": dense_cases}
"""By the name of the golden file."""


def row_of(model: str, args: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any] | None:
    """A row of the golden file; None where the answer is about this way of asking."""
    row = {"model": model, "args": args, "vllm": answer.get("vllm_version")}
    if "error" not in answer:
        stages = [[s["total"], s["params"] + s["buffers"], s["alloc_est"]] for s in answer["stages"]]
        return row | {"stages": stages}
    message = str(answer["error"].get("message", answer["error"]))
    if any(words in message for words in HARNESS) and "SupportsPP" not in message:
        print(f"not asked: {model} {args}: {message[:150]}", file=sys.stderr)
        return None
    return row | {"error": message[:200]}


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    gpu = GpuFacts(**GPUS["h100"])
    with VllmProcess(gpu, python=options.python, vllm_source=options.source, niceness=10) as vllm:
        cases = CASES[options.cases]
        for model in (*cases.CONFIGS, *cases.PLAIN):
            config = cases.CONFIGS.get(model) or plain(load_config(model, offline=True).values)
            for args in cases.ARGS:
                request = {"id": model, "name": model, "config": config, "engine_args": args, "weights": True}
                row = row_of(model, args, vllm.ask(request))
                if row is not None:
                    yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="?", default="families", choices=CASES)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--source", type=Path)
    options = parser.parse_args()
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, filename="") as file:
        for row in rows(options):
            file.write((json.dumps(row) + "\n").encode())
    Path(__file__).with_name(f"{options.cases}.jsonl.gz").write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()
