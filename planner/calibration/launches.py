"""Measured launches as requests: which rows can be predicted, and what was left out, by reason."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import hf_configs
from planner.engine.version import VllmVersion
from planner.errors import InputError
from planner.memory.budget import Estimate
from planner.model.config import load_config
from planner.request import Inputs, prepare

ROWS = Path(__file__).parent.parent / "measured" / "launches.jsonl"
OWN_ROWS = ROWS.with_name("launches-h200.jsonl")
"""Launches made for this project, with every flag known (tools and engine arguments are in the rows)."""

_ARGUMENTS = {
    "tp": "tensor_parallel_size",
    "pp": "pipeline_parallel_size",
    "dp": "data_parallel_size",
    "max_model_len": "max_model_len",
    "max_num_seqs": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "enforce_eager": "enforce_eager",
    "block_size": "block_size",
}
"""A row's keys under vLLM's names."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Launch:
    """One measured launch that the planner can predict."""

    row: Mapping[str, Any]
    inputs: Inputs
    flags_known: bool
    """Version, and the flags that size the profile run, were stated (or are defaults that its log shows)."""

    @property
    def source(self) -> str:
        """What was measured together: the split between fit and report is by this."""
        return str(self.row["source"]) if self.row["source"] != "log in a public repository" else str(self.row["id"])

    @property
    def version(self) -> VllmVersion:
        return self.inputs.version

    def measured(self, name: str) -> float | None:
        """A figure of the row in GiB, or None."""
        value = self.row["measured"].get(name)
        return float(value) if isinstance(value, int | float) else None

    @cached_property
    def estimate(self) -> Estimate:
        return self.inputs.estimate()


@cache
def launches() -> tuple[tuple[Launch, ...], Mapping[str, int]]:
    """(the launches that can be predicted, how many rows were left out for which reason)."""
    found: list[Launch] = []
    left_out: dict[str, int] = {}
    seen: set[str] = set()
    for row in rows():
        same = json.dumps([row["source"], row.get("date"), row["model"], row["measured"]], sort_keys=True)
        launch = _launch(row) if same not in seen else "it stands in another row already"
        seen.add(same)
        if isinstance(launch, Launch):
            found.append(launch)
        else:
            left_out[launch] = left_out.get(launch, 0) + 1
    return tuple(found), left_out


def _is_quantized(model: str) -> bool:
    return "quantization_config" in load_config(model).values


def rows() -> Iterator[dict[str, Any]]:
    for path in (ROWS, OWN_ROWS):
        if path.exists():
            yield from (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def _launch(row: Mapping[str, Any]) -> Launch | str:
    model = hf_configs.find(str(row["model"]))
    if model is None:
        return "its config is not in the catalogue"
    version = str(row.get("vllm_version") or "")
    if not re.fullmatch(r"\d+\.\d+\.\d+(\.post\d+)?", version):
        return "its vLLM version is not known"
    request: dict[str, Any] = {"model": model, "gpu": row.get("gpu"), "vllm_version": version}
    for key, name in _ARGUMENTS.items():
        if row.get(key) is not None:
            request[name] = row[key]
    if row.get("device_total_gib") is not None:
        request["gpu_memory_gib"] = row["device_total_gib"]
    for key in ("kv_cache_dtype", "dtype"):
        if row.get(key) is not None:
            request[key] = row[key]
    if row.get("ep"):
        request["enable_expert_parallel"] = True
    request |= row.get("engine", {})
    if row.get("quantization") == "fp8" and not _is_quantized(model):
        request["quantization"] = "fp8"
    try:
        inputs = prepare({key: value for key, value in request.items() if value is not None})
    except InputError as error:
        return f"it cannot be asked for: {str(error).split(';')[0][:80]}"
    known = all(row.get(key) is not None for key in ("max_num_seqs", "max_num_batched_tokens")) or "engine" in row
    return Launch(row=row, inputs=inputs, flags_known=known)
