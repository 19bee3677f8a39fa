"""What is refused here and what vLLM's own classes refused, on a seeded sample of models, cards and flags."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from planner.errors import InputError
from planner.request import prepare

ROWS = [
    json.loads(line)
    for line in gzip.decompress((Path(__file__).parent / "golden" / "refusals.jsonl.gz").read_bytes()).splitlines()
]
KNOWN = (
    "integer division or modulo by zero",  # vLLM crashes: context parallel of a model without KV heads
    "assert a_dtype in [torch.half, torch.bfloat16]",  # NVFP4 on Marlin in float32
)
"""vLLM's words where it fails and we do not say so."""


def refused_here(row: dict[str, Any]) -> bool:
    """Wrong input is a refusal too: `vllm serve` would not have parsed it."""
    try:
        inputs = prepare({"model": row["model"], "gpu": row["gpu"], "vllm_version": row["vllm"], **row["args"]})
    except InputError:
        return True
    return inputs.estimate().status == "refused"


def test_the_sample_is_large_and_of_both_kinds():
    asked = [row for row in ROWS if "not_asked" not in row]
    assert len(asked) > 300
    assert 0.3 < sum(row["refused"] is not None for row in asked) / len(asked) < 0.8
    assert len(ROWS) - len(asked) < 0.1 * len(ROWS)


@pytest.mark.parametrize("gpu", sorted({row["gpu"] for row in ROWS}))
def test_what_vllm_refuses_is_refused_here_and_nothing_else(gpu: str):
    wrong = []
    for row in ROWS:
        if row["gpu"] != gpu or "not_asked" in row or any(word in (row["refused"] or "") for word in KNOWN):
            continue
        stages_without_layers = row["args"].get("pipeline_parallel_size") == 64 and "Nemotron" in row["model"]
        if refused_here(row) != (row["refused"] is not None) and not stages_without_layers:
            wrong.append((row["model"], row["args"], row["refused"]))
    assert wrong == []


@pytest.mark.parametrize(
    ("model", "more", "refused"),
    [
        ("MiniMaxAI/MiniMax-M2.5", {"vllm_version": "0.28.0"}, True),  # github.com/vllm-project/vllm/pull/48173
        ("Qwen/Qwen3-235B-A22B-FP8", {"vllm_version": "0.8.5"}, True),  # github.com/vllm-project/vllm/issues/17569
        ("MiniMaxAI/MiniMax-M2.5", {"vllm_version": "0.28.0", "enable_expert_parallel": True}, False),
        ("MiniMaxAI/MiniMax-M2.5", {"vllm_version": "0.28.0", "tensor_parallel_size": 4}, False),
        ("MiniMaxAI/MiniMax-M2.5", {"vllm_version": "0.29.0"}, False),
    ],
)
def test_experts_in_parts_of_a_block_are_refused_before_vllm_refined_their_scales(model, more, refused):
    """refine_fp8_moe_block_shape, fused_moe/oracle/fp8.py: in 0.29.0, not in 0.28.0."""
    request = {"model": model, "gpu": "H200-SXM", "tensor_parallel_size": 8, "max_model_len": 8192, **more}
    estimate = prepare(request).estimate()
    assert (estimate.status == "refused") == refused
    if refused:
        assert estimate.reasons[0].message == (
            "The output_size of gate's and up's weight = 192 is not divisible by weight quantization block_n = 128."
        )
