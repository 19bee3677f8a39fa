"""The sweep: the same numbers as `estimate`, for a hundred thousand combinations in a second."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_configs
from benchmarks.in_process import MIXED
from planner.errors import InputError
from planner.planning.sweep import Grid, request_of_row, sweep
from planner.request import prepare

LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"


def agrees(request: dict[str, Any], row: Any) -> None:
    """Every column against the estimate of the row's own request."""
    estimate = prepare(request_of_row(request, row)).estimate()
    assert row["status"] == estimate.status, (row, estimate.reasons)
    assert row["reason"] == (estimate.reasons[0].code if estimate.reasons else ""), row
    if estimate.status == "refused":
        return
    rank, kv = estimate.ranks[estimate.tightest], estimate.kv_cache
    assert row["weights_bytes"] == rank.weights_bytes
    assert row["model_loading_bytes"] == rank.loading_bytes
    assert row["available_kv_bytes"] == rank.available_kv_bytes
    if kv is not None:
        assert (row["bytes_per_block"], row["num_blocks"]) == (kv.bytes_per_block, kv.num_blocks)
        assert (row["tokens"], row["max_concurrency"]) == (kv.tokens, kv.max_concurrency)


def test_a_hundred_thousand_combinations_are_estimates():
    """benchmarks/in_process.py says in what time."""
    table = sweep({"model": LLAMA_8B}, MIXED)
    assert len(table) == MIXED.size == 102_400
    for row in table.sample(40, random_state=0).to_dict("records"):
        agrees({"model": LLAMA_8B}, row)


def test_more_pipeline_stages_than_numpy_chooses_among():
    request = {"model": "meta-llama/Llama-3.1-70B-Instruct", "gpu": "H100", "max_model_len": 4096}
    (row,) = sweep(request, Grid(pipeline_parallel_size=(80,))).to_dict("records")
    agrees(request, row)


def test_a_quantization_that_contradicts_the_checkpoint_is_refused():
    request = {"model": "openai/gpt-oss-20b", "gpu": "H100"}
    for row in sweep(request, Grid(quantization=(None, "fp8"))).to_dict("records"):
        agrees(request, row)


def test_a_grid_too_large_for_a_machine_word_is_too_large():
    many = tuple(range(1, (1 << 16) + 1))
    grid = Grid(tensor_parallel_size=many, max_model_len=many, max_num_seqs=many, max_num_batched_tokens=many)
    with pytest.raises(InputError, match="combinations"):
        sweep({"model": LLAMA_8B, "gpu": "H100"}, grid)


@pytest.mark.parametrize(
    ("model", "more"),
    [
        (LLAMA_8B, {"enable_lora": True, "max_lora_rank": 64, "max_loras": 8}),
        (LLAMA_8B, {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}}),
        (
            LLAMA_8B,
            {"speculative_config": {"model": "meta-llama/Llama-3.2-1B-Instruct", "num_speculative_tokens": 3}},
        ),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", {"speculative_config": {"method": "mtp", "num_speculative_tokens": 2}}),
    ],
)
def test_adapters_and_drafts_count(model: str, more: dict[str, Any]):
    grid = Grid(
        gpu=("L40S", "H200"),
        tensor_parallel_size=(1, 2, 4),
        kv_cache_dtype=(None, "fp8"),
        max_model_len=(4096, 32768),
        max_num_seqs=(None, 64),
        max_num_batched_tokens=(None, 4096),
    )
    request = {"model": model, **more}
    rows = sweep(request, grid).to_dict("records")
    assert any(row["status"] == "fits" for row in rows)
    for row in random.Random(0).sample(rows, 30):
        agrees(request, row)


MODELS = [
    LLAMA_8B,
    "meta-llama/Llama-3.1-70B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct-AWQ",
    "deepseek-ai/DeepSeek-V2-Lite",
    "google/gemma-3-27b-it",
    "openai/gpt-oss-20b",
    "ai21labs/AI21-Jamba-Mini-1.6",
    "Qwen/Qwen3-Next-80B-A3B-Instruct",
    "BAAI/bge-large-en-v1.5",
    "mistralai/Mistral-7B-v0.1",
    "Qwen/Qwen3-235B-A22B-FP8",
]
GRIDS = st.builds(
    Grid,
    gpu=st.sampled_from([("T4", "H100"), ("L4", "B200"), ("A100-40",), ("MI300X", "L40S")]),
    tensor_parallel_size=st.sampled_from([(1, 2), (4,), (8, 3)]),
    pipeline_parallel_size=st.sampled_from([(1,), (1, 2), (3,)]),
    quantization=st.sampled_from([(None,), (None, "what-if:awq"), (None, "fp8")]),
    kv_cache_dtype=st.sampled_from([(None,), ("auto", "fp8")]),
    max_model_len=st.lists(st.integers(1, 10**6), min_size=1, max_size=3).map(tuple),
    max_num_seqs=st.lists(st.none() | st.integers(1, 4096), min_size=1, max_size=2).map(tuple),
    max_num_batched_tokens=st.lists(st.none() | st.integers(1, 65536), min_size=1, max_size=2).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MODELS), GRIDS, st.sampled_from(["0.33.0", "0.26.0", "0.20.0", "0.11.2", "0.9.2"]))
def test_every_row_is_the_estimate(model: str, grid: Grid, version: str):
    request = {"model": model, "vllm_version": version}
    table = sweep(request, grid).to_dict("records")
    assert len(table) == grid.size
    for row in random.Random(0).sample(table, min(8, len(table))):
        agrees(request, row)


@pytest.mark.slow
def test_every_model_of_the_catalogue():
    grid = Grid(gpu=("H100", "L4"), tensor_parallel_size=(1, 2), pipeline_parallel_size=(1, 2), max_num_seqs=(64, 300))
    for model in hf_configs.names():
        for row in sweep({"model": model}, grid).sample(2, random_state=1).to_dict("records"):
            agrees({"model": model}, row)


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (Grid(max_model_len=()), "no values"),
        (Grid(max_model_len=tuple(range(1, 10**5)), max_num_seqs=tuple(range(1, 10**4))), "at most"),
        (Grid(tensor_parallel_size=(0,)), "tensor_parallel_size"),
        (Grid(gpu=("Z99",)), "unknown GPU"),
        (Grid(quantization=("frobnicate",)), "frobnicate"),
    ],
)
def test_a_grid_that_makes_no_sense_is_wrong_input(grid: Grid, words: str):
    with pytest.raises(InputError, match=words):
        sweep({"model": LLAMA_8B, "gpu": "H100"}, grid)
