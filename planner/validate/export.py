"""Measured runs as rows that `fit-constants` reads, of the form of those in planner/measured/."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from planner.logs.store import FIGURES
from planner.validate.record import Record

SOURCE = "vllm-fit validate"


def launch_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A row for each launch on a GPU that printed figures: a CPU engine has none of what is fitted."""
    return [row for record in records if record["device"] == "cuda" and (row := _launch_row(record))["measured"]]


def serving_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A row for each load, on GPUs too: a CPU's rates are measured on the spot, not fitted."""
    return [
        row
        for record in records
        if record["device"] == "cuda" and record["measurement"]
        for row in (_serving_row(record, load) for load in record["measurement"]["loads"])
    ]


def _launch_row(record: Record) -> dict[str, Any]:
    engine, printed = _engine(record), (record["measurement"] or {}).get("printed") or {}
    if not printed and record["explanation"]:
        printed = record["explanation"]["printed"]
    row = {
        "id": f"own-{record['key']}-{record['id']}",
        **_common(record, engine),
        "dp": engine.get("data_parallel_size"),
        "tp": engine.get("tensor_parallel_size"),
        "pp": engine.get("pipeline_parallel_size"),
        "device_total_gib": printed.get("device_total_gib"),
        "max_num_seqs": engine.get("max_num_seqs"),
        "max_num_batched_tokens": engine.get("max_num_batched_tokens"),
        "engine": {name: value for name, value in record["request"].items() if name not in _NOT_ENGINE},
        "outcome": {"measured": "starts", "failed": "fails"}.get(record["status"]),
        "measured": {name: printed[name] for name in FIGURES if printed.get(name) is not None},
    }
    return {name: value for name, value in row.items() if value is not None}


_NOT_ENGINE = frozenset(
    "model gpu gpu_memory_gib gpu_memory_used_gib compute_capability vllm_version usage what_if_quantization workload "
    "ask_vllm id".split()
)


def _serving_row(record: Record, load: Mapping[str, Any]) -> dict[str, Any]:
    engine, shape = _engine(record), load["load"]
    row = {
        "id": f"own-{record['key']}-{record['id']}-c{shape['concurrency']}",
        **_common(record, engine),
        "kind": "serving",
        "tensor_parallel_size": engine.get("tensor_parallel_size"),
        "kv_cache_dtype": engine.get("kv_cache_dtype"),
        "input_len": shape["input_len"],
        "output_len": shape["output_len"],
        "concurrency": shape["concurrency"],
        "num_prompts": shape["requests"] or 2 * shape["concurrency"],
        "output_tokens_per_s": load["output_tokens_per_s"],
        "ttft_ms_mean": load["ttft_ms"]["mean"],
        "tpot_ms_mean": load["tpot_ms"]["mean"] if load["tpot_ms"] else None,
        "flags": "",
        "notes": record["weights"],
    }
    return {name: value for name, value in row.items() if value is not None}


def _engine(record: Record) -> Mapping[str, Any]:
    return {**(record["estimate"].get("engine") or {}), **((record["measurement"] or {}).get("engine") or {})}


def _common(record: Record, engine: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "source": SOURCE,
        "date": record["started"][:10],
        "vllm_version": engine.get("vllm_version") or record["versions"]["vllm"],
        "model": record["model"],
        "gpu": record["request"].get("gpu"),
    }


EXPORTS: Mapping[str, Callable[[Sequence[Record]], list[dict[str, Any]]]] = {
    "launches": launch_rows,
    "serving": serving_rows,
}
"""By the name that `history --export` takes."""
