"""A person's own measurements: one JSON line a launch, as in planner/measured/launches.jsonl."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from planner.errors import InputError
from planner.files import data_folder
from planner.logs.explain import Explanation
from planner.text import printable

SOURCE = "vllm-fit explain-log"

FIGURES = (
    "model_loading_gib",
    "activation_peak_gib",
    "non_torch_gib",
    "consumed_gib",
    "cudagraph_gib",
    "cudagraph_estimate_gib",
    "available_kv_gib",
    "kv_cache_tokens",
    "num_gpu_blocks",
    "max_concurrency",
    "free_gib_on_start",
)
"""What a launch that starts prints and a fit can learn from, by the name of a row's `measured`."""
_OF_FAILURES_TOO = (*FIGURES, "max_concurrency_len", "kv_needed_gib", "est_max_model_len")
_WHOLE = ("kv_cache_tokens", "num_gpu_blocks", "max_concurrency_len", "est_max_model_len")


def default_store() -> Path:
    """$XDG_DATA_HOME/vllm-fit/launches.jsonl."""
    return data_folder() / "launches.jsonl"


def row_of(explanation: Explanation) -> dict[str, Any]:
    """The launch as a row of measurements. InputError where it holds nothing to learn from."""
    facts, estimate = explanation.facts, explanation.estimate
    measured = _measured(explanation)
    if estimate is None or estimate.engine is None or explanation.inputs is None:
        raise InputError(
            f"not saved: without model, card and version nothing can be learnt from it; "
            f"{explanation.not_predicted or 'vLLM refuses this launch'}"
        )
    if not measured:
        raise InputError("not saved: the log prints no figure")
    engine, source = estimate.engine, explanation.inputs.source
    row: dict[str, Any] = {
        "source": SOURCE,
        "vllm_version": str(engine.vllm_version),
        "model": source if isinstance(source, str) else estimate.model.name,
        "gpu": estimate.gpu.name,
        "gpus": engine.gpus_per_replica * engine.data_parallel_size,
        "device_total_gib": facts.value("device_total_gib"),
        "tp": engine.tensor_parallel_size,
        "pp": engine.pipeline_parallel_size,
        "dp": engine.data_parallel_size,
        "ep": engine.enable_expert_parallel,
        "dtype": engine.dtype,
        "quantization": explanation.inputs.quantization.name if explanation.inputs.quantization else None,
        "kv_cache_dtype": engine.kv_cache_dtype,
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "max_num_batched_tokens": engine.max_num_batched_tokens,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "enforce_eager": engine.enforce_eager,
        "block_size": facts.value("block_size"),
        "engine": dict(engine.args),
        "usage": engine.usage,
        "outcome": {"started": "starts", "failed": "fails"}.get(explanation.outcome.word),
        "error_kind": explanation.diagnosis.code if explanation.diagnosis else None,
        "measured": measured,
        "notes": "; ".join(explanation.asked.notes),
    }
    row = {name: value for name, value in row.items() if value is not None}
    return {"id": _identity(row), **row}


def _measured(explanation: Explanation) -> dict[str, float]:
    facts = explanation.facts
    found = {name: value for name in _OF_FAILURES_TOO if (value := facts.value(name)) is not None}
    both = facts.value("activation_and_graphs_gib")
    if both is not None:
        found.setdefault("activation_peak_gib", both)
    return {name: int(value) if name in _WHOLE else round(value, 4) for name, value in found.items()}


def _identity(row: Mapping[str, Any]) -> str:
    told = {name: value for name, value in row.items() if name != "notes"}
    return "own-" + hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def save(explanation: Explanation, path: Path | None = None) -> bool:
    """Add the launch to the person's own measurements; False when it is there already. InputError where it cannot."""
    path = default_store() if path is None else path
    row = row_of(explanation)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file, _locked(file):
            return _append(file, row)
    except OSError as error:
        raise InputError(f"{printable(path)}: cannot be written ({error.strerror})") from None


def _append(file: FileIO, row: Mapping[str, Any]) -> bool:
    file.seek(0)
    content = file.read()
    needle = f'"id": "{row["id"]}"'.encode()
    if needle in content:
        return False
    # A line that a crash cut short must not take this one with it.
    start = b"\n" if content and not content.endswith(b"\n") else b""
    line = start + json.dumps(row).encode() + b"\n"
    try:
        if file.write(line) < len(line):  # what is left of a disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except OSError:
        file.truncate(len(content))
        raise
    return True


@contextmanager
def _locked(file: FileIO) -> Iterator[None]:
    """Two savers at once wait for each other, where the system can lock files."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
