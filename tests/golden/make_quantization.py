"""Makes quantization.jsonl.gz by asking vLLM's own classes (planner/engine/ask_vllm), without a GPU.

    python tests/golden/make_quantization.py --python VENV/bin/python --source SRC [--match REGEX] [--compare]

A row: {"id": "base|checkpoint or o:method|gpu|tp[|ep]", "total": bytes} or {"id", "error": vLLM's sentence}. Without
--compare the answers to the rows that match replace the old ones; with it, differences are printed and nothing is
written.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from planner.engine.ask_vllm.client import GpuFacts, VllmProcess
from planner.model.source import load_config
from tests.golden.cases import GPUS
from tests.golden.quantization_cases import BASES, HARNESS, config_of

GOLDEN = Path(__file__).with_name("quantization.jsonl.gz")


def read_rows() -> list[dict[str, Any]]:
    with gzip.open(GOLDEN, "rt") as file:
        return [json.loads(line) for line in file]


def write_rows(rows: list[dict[str, Any]]) -> None:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, filename="") as file:
        for row in sorted(rows, key=lambda row: row["id"]):
            file.write((json.dumps(row) + "\n").encode())
    GOLDEN.write_bytes(buffer.getvalue())


def request_of(row_id: str) -> tuple[str, dict[str, Any]]:
    """The GPU and the request of a row."""
    base, what, gpu, tp, *ep = row_id.split("|")
    args: dict[str, Any] = {"tensor_parallel_size": int(tp)}
    if ep:
        args["enable_expert_parallel"] = True
    if what.startswith("o:"):
        args["quantization"] = what[2:]
    config = config_of(load_config(BASES[base], offline=True).values, what)
    return gpu, {"id": row_id, "name": BASES[base], "config": config, "engine_args": args, "weights": True}


def row_of(row_id: str, answer: Mapping[str, Any]) -> dict[str, Any] | None:
    """A row of the golden file; None where the answer is about this way of asking."""
    if "error" not in answer:
        return {"id": row_id, "total": answer["stages"][0]["total"]}
    message = str(answer["error"].get("message", answer["error"]))
    return None if any(words in message for words in HARNESS) else {"id": row_id, "error": message[:200]}


def ask(ids: list[str], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    by_gpu: dict[str, list[dict[str, Any]]] = {}
    for row_id in ids:
        gpu, request = request_of(row_id)
        by_gpu.setdefault(gpu, []).append(request)
    for gpu, requests in by_gpu.items():
        with VllmProcess(GpuFacts(**GPUS[gpu]), python=options.python, vllm_source=options.source, niceness=10) as vllm:
            for request in requests:
                row = row_of(request["id"], vllm.ask(request))
                if row is not None:
                    yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--match", default="")
    parser.add_argument("--compare", action="store_true")
    options = parser.parse_args()
    rows = {row["id"]: row for row in read_rows()}
    ids = [row_id for row_id in rows if re.search(options.match, row_id)]
    different = 0
    for row in ask(ids, options):
        if options.compare and row.get("total") != rows[row["id"]].get("total"):
            different += 1
            print(f"was {rows[row['id']]}, is {row}")
        if not options.compare:
            rows[row["id"]] = row
    if options.compare:
        print(f"{len(ids)} rows, {different} differ")
    else:
        write_rows([*rows.values()])


if __name__ == "__main__":
    main()
