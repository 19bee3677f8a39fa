"""Weights against vLLM's own classes, to the byte, on every pipeline stage (tests/golden/weights.jsonl.gz)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from planner.errors import InputError
from planner.memory.budget import Estimate
from planner.request import prepare
from tests.golden.cases import GPUS, RECIPES
from tests.weights_case import FOR_ANOTHER_REASON, KNOWN_DIFFERENCES, NOT_VLLM, expert_map_bytes

GOLDEN = Path(__file__).parent / "golden" / "weights.jsonl.gz"
PARTS = 8
KV_CACHE = 1 << 50
"""So much that no launch fails for lack of it: only weights are looked at."""


def rows() -> list[dict[str, Any]]:
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def estimate_for(row: dict[str, Any]) -> Estimate:
    """Our estimate of what the row asked vLLM."""
    gpu = GPUS[row["gpu"]]
    args = {**row["args"], "kv_cache_memory_bytes": KV_CACHE}
    if "recipe" in row:
        args["hf_overrides"] = {"quantization_config": RECIPES[row["recipe"]]}
    request = {
        "model": row["model"],
        "gpu": gpu["name"],
        "gpu_memory_gib": gpu["memory_bytes"] / (1 << 30),
        "vllm_version": row["vllm"],
        **args,
    }
    return prepare(request).estimate()


def wrong(part: int) -> Iterator[str]:
    """A line for each row of this part that disagrees."""
    for row in rows()[part::PARTS]:
        if row.get("inexact"):
            continue
        name = f"{row['model']} {row['gpu']} {row.get('recipe', '')} {row['args']}"
        try:
            estimate = estimate_for(row)
        except InputError as error:
            if "error" not in row:
                yield f"{name}: {error}"
            continue
        if "error" in row:
            message = row["error"]["message"]
            theirs_alone = row["error"]["kind"] != "refused" or any(words in message for words in NOT_VLLM)
            if estimate.status != "refused" and not theirs_alone:
                yield f"{name}: vLLM refuses, we do not: {message[:160]}"
            continue
        if estimate.status == "refused":
            if not any(words in estimate.reasons[0].message for words in FOR_ANOTHER_REASON):
                yield f"{name}: we refuse, vLLM does not: {estimate.reasons[0].message}"
            continue
        for ours, theirs in zip(estimate.stages, row["stages"], strict=True):
            extra = expert_map_bytes(row, estimate, ours.pp_rank)
            found = [ours.tensor_bytes, ours.block_bytes if not extra else theirs["alloc_est"]]
            wanted = [theirs["total"] + extra, theirs["alloc_est"]]
            if "quantization" not in row:  # which of a kernel's tensors are parameters is no matter of size
                found.append(ours.parameter_bytes)
                wanted.append(theirs["params"] + theirs["buffers"] + extra)
            if found != wanted:
                yield f"{name} stage {ours.pp_rank}: {found} is not {wanted}"


@pytest.mark.parametrize("part", range(PARTS))
def test_weights_are_vllms_to_the_byte(part: int):
    lines = [line for line in wrong(part) if not any(line.startswith(known) for known in KNOWN_DIFFERENCES)]
    assert not lines, f"{len(lines)} differ:\n" + "\n".join(lines[:20])


def test_the_golden_file_covers_what_it_should():
    found = {(row["model"], row["args"].get("tensor_parallel_size", 1)) for row in rows() if "recipe" not in row}
    for tp in (1, 2, 4, 8):
        assert len({model for model, size in found if size == tp}) >= 260
