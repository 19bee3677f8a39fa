"""Makes weights.jsonl.gz and kv.jsonl.gz by asking vLLM's own classes (planner/engine/ask_vllm), without a GPU.

    python tests/golden/make_golden.py --configs hf_configs --python VENV/bin/python --source SRC --raw RAW [--jobs 2]

Answers are kept in RAW (one file per phase) as they come, and a run goes on where the last one stopped; delete RAW to
start anew. `--only own-tp1,quantized` runs some phases, `--pack` only writes the golden files from RAW.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import io
import json
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from planner.engine.ask_vllm.client import GpuFacts, VllmProcess, installed_version
from tests.golden.cases import AMOUNTS, GPUS, RECIPES, Case, fingerprint, phases, read_configs

HERE = Path(__file__).resolve().parent
Configs = dict[str, tuple[dict[str, Any], dict[str, Any]]]


def request_of(case: Case, configs: Configs) -> dict[str, Any]:
    """The request to vLLM for a case (see planner/engine/ask_vllm/case.py)."""
    config, files = configs[case.model]
    if case.recipe:
        config = config | {"quantization_config": RECIPES[case.recipe]}
    return {
        "id": case.id(),
        "name": case.model,
        "config": config,
        "files": files,
        "engine_args": case.args,
        "weights": case.weights,
        "available_bytes": AMOUNTS if case.kv else None,
    }


def run_key(case: Case, configs: Configs) -> str:
    """Equal for two cases that must get the same answer: same config but for names, same everything else."""
    return case.id().replace(case.model, fingerprint(*configs[case.model]), 1)


def generate(cases: list[Case], configs: Configs, raw: Path, options: argparse.Namespace) -> None:
    """Ask what RAW does not hold yet. One line a case: {"key", "answer"}."""
    done = {json.loads(line)["key"] for line in raw.read_text().splitlines()} if raw.exists() else set()
    todo: dict[str, queue.SimpleQueue[Case]] = collections.defaultdict(queue.SimpleQueue)
    count = 0
    for case in cases:
        key = run_key(case, configs)
        if key not in done:
            done.add(key)
            todo[case.gpu].put(case)
            count += 1
    if not count:
        return
    architectures = sorted({name for case in cases for name in configs[case.model][0].get("architectures") or []})
    started, lock = time.monotonic(), threading.Lock()
    with raw.open("a") as file:

        def serve(gpu: str, waiting: queue.SimpleQueue[Case]) -> None:
            with VllmProcess(
                GpuFacts(**GPUS[gpu]),
                python=options.python,
                vllm_source=options.source,
                timeout_s=options.timeout,
                niceness=10,
                architectures=architectures,
            ) as vllm:
                while not waiting.empty():
                    try:
                        case = waiting.get_nowait()
                    except queue.Empty:
                        return
                    answer = vllm.ask(request_of(case, configs))
                    with lock:
                        file.write(json.dumps({"key": run_key(case, configs), "answer": answer}) + "\n")
                        file.flush()

        for gpu, waiting in todo.items():
            threads = [threading.Thread(target=serve, args=(gpu, waiting)) for _ in range(options.jobs)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    print(f"{raw.stem}: {count} runs in {time.monotonic() - started:.0f} s", flush=True)


# ------------------------------------------------------------------------------------------------ rows


def _head(case: Case, answer: dict[str, Any], version: str) -> dict[str, Any]:
    row: dict[str, Any] = {"model": case.model, "gpu": case.gpu, "vllm": answer.get("vllm_version", version)}
    if case.recipe:
        row["recipe"] = case.recipe
    row["args"] = case.args
    if GPUS[case.gpu]["compute_capability"] >= (10, 0):
        row["inexact"] = True
    if answer.get("notes"):
        row["notes"] = answer["notes"]
    return row


def _error(error: dict[str, Any]) -> dict[str, Any]:
    return {"error": error}


def weights_row(case: Case, answer: dict[str, Any], version: str) -> dict[str, Any]:
    row = _head(case, answer, version)
    if "error" in answer:
        return row | _error(answer["error"])
    resolved = answer["resolved"]
    row |= {"architecture": resolved["architecture"], "class": answer["model_class"], "dtype": resolved["dtype"]}
    if resolved["quantization"]:
        row |= {"quantization": resolved["quantization"]}
    if case.recipe or "quantization" in case.args:
        row |= {"kernels": answer["kernels"]}
    keep = ("total", "params", "buffers", "attrs", "alloc_est", "alloc_plain", "layers", "groups")
    row["stages"] = [{key: stage[key] for key in keep if key in stage} for stage in answer["stages"]]
    return row


def kv_row(case: Case, answer: dict[str, Any], version: str) -> dict[str, Any]:
    row = _head(case, answer, version)
    if "error" in answer:
        return row | _error(answer["error"])
    row["resolved"] = {key: value for key, value in answer["resolved"].items() if value is not None}
    kv = answer["kv"]
    if "error" in kv:
        return row | _error(kv["error"])
    return row | {
        key: kv[key]
        for key in ("layout", "groups", "bytes_per_block", "bytes_needed", "min_available_bytes", "outcomes")
    }


def pack(lists: dict[str, list[Case]], configs: Configs, raw: Path, version: str) -> None:
    answers: dict[str, dict[str, Any]] = {}
    for path in sorted(raw.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            answers[entry["key"]] = entry["answer"]
    rows: dict[str, list[dict[str, Any]]] = {"weights": [], "kv": []}
    table: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    missing = 0
    for phase, cases in lists.items():
        for case in cases:
            answer = answers.get(run_key(case, configs))
            if answer is None:
                missing += 1
                continue
            for name, wanted, make in (("weights", case.weights, weights_row), ("kv", case.kv, kv_row)):
                if wanted:
                    row = make(case, answer, version)
                    rows[name].append(row)
                    table[name, phase][row["error"]["kind"] if "error" in row else "ok"] += 1
    for name, list_ in rows.items():
        text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in list_)
        buffer = io.BytesIO()
        with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=9) as file:
            file.write(text.encode())
        (HERE / f"{name}.jsonl.gz").write_bytes(buffer.getvalue())
        size, plain = len(buffer.getvalue()) / 2**20, len(text) / 2**20
        print(f"{name}.jsonl.gz: {len(list_)} rows, {size:.2f} MiB ({plain:.1f} plain)")
    print(f"{'file':8} {'phase':16} {'ok':>6} {'refused':>8} {'not_buildable':>14}")
    for (name, phase), counts in table.items():
        print(f"{name:8} {phase:16} {counts['ok']:6} {counts['refused']:8} {counts['not_buildable']:14}")
    if missing:
        print(f"{missing} cases not generated yet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=Path, required=True, help="folder of ORG--NAME/config.json")
    parser.add_argument("--python", help="interpreter with vLLM's dependencies (setup_vllm_sources.py makes one)")
    parser.add_argument("--source", type=Path, help="folder with the Python files of vLLM's CUDA wheel")
    parser.add_argument("--raw", type=Path, required=True, help="folder for the answers")
    parser.add_argument("--only", help="comma-separated phases")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--pack", action="store_true", help="write the golden files from RAW and ask nothing")
    options = parser.parse_args()
    configs = read_configs(options.configs)
    lists = phases(sorted(configs))
    options.raw.mkdir(parents=True, exist_ok=True)
    if not options.pack:
        for phase in options.only.split(",") if options.only else lists:
            generate(lists[phase], configs, options.raw / f"{phase}.jsonl", options)
    pack(lists, configs, options.raw, installed_version(options.python, options.source))


if __name__ == "__main__":
    main()
