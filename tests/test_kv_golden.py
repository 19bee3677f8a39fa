"""The KV cache plan against vLLM's own planning code, row by row (tests/golden/kv.jsonl.gz)."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.engine.args import EngineArgs
from planner.engine.defaults import resolve
from planner.engine.version import parse_version
from planner.errors import InputError, Refusal
from planner.hardware.catalogue import Gpu, find_gpu
from planner.memory.kv_cache import KVCachePlan, plan_kv_cache
from planner.memory.kv_cache.dtypes import checkpoint_kv_dtype
from tests.golden.cases import GPUS, RECIPES
from tests.kv_case import model, own_kv_dtype

GOLDEN = Path(__file__).parent / "golden" / "kv.jsonl.gz"
PARTS = 8

NOT_VLLM = (
    # What vLLM's code says in the make-believe environment that the golden file was made in, not on a GPU machine.
    "tensor model parallel group is not initialized",
    "requires FlashInfer with SM90 MLA support",
    "Can't load image processor",
    "requires the timm library",
    "integer division or modulo by zero",
)
"""Errors of the environment that made the golden file."""
ELSEWHERE = (
    "Supported models implement the `SupportsPP` interface",
    "must be divisible by tensor parallel size",
    "is not aligned with the quantized weight shape",
    "was supported in vLLM until",
    "is greater than the derived max_model_len",
    "max_model_len must be a positive integer",
    "KV cache is not supported by the Triton attention backend",
    "assert self.total_num_kv_heads % tp_size == 0",
    "assert all(output_size % self.tp_size == 0",
    "is not divisible by",
    "does not support float16",
    "is not supported for quantization method",
    "Unknown quantization method",
    "is not supported for the current GPU",
)
"""Errors that another part of the planner raises (sharding, quantization, arguments, encoders)."""


def rows() -> list[dict[str, Any]]:
    if not GOLDEN.exists():
        return []
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def card(name: str) -> Gpu:
    facts = GPUS[name]
    major, minor = facts["compute_capability"]
    return replace(
        find_gpu(name), name=facts["name"], memory_bytes=facts["memory_bytes"], compute_capability=f"{major}.{minor}"
    )


def plans(row: dict[str, Any], amounts: list[int]) -> list[KVCachePlan]:
    version = parse_version(row["vllm"])
    gpu, built = card(row["gpu"]), model(row["model"])
    args = dict(row["args"])
    if built.is_mm_prefix_lm and "resolved" in row:
        # Without the image processor the golden file's vLLM could not raise this to one whole image, as it does.
        args.setdefault("max_num_batched_tokens", row["resolved"]["max_num_batched_tokens"])
    engine = resolve(built, gpu, EngineArgs(args), version, "server")
    recipe = row.get("recipe")
    own = checkpoint_kv_dtype(RECIPES[recipe], version) if recipe else own_kv_dtype(row["model"], row["vllm"])
    stages = engine.pipeline_parallel_size
    return [plan_kv_cache(built, engine, gpu, [amount] * stages, checkpoint_kv_dtype=own) for amount in amounts]


def differences(row: dict[str, Any]) -> list[str]:
    """What is not as vLLM has it; empty when all is."""
    if "error" in row:
        return _refusal_differences(row)
    outcomes = row["outcomes"]
    got = plans(row, [outcome["available_bytes"] for outcome in outcomes])
    if not row["groups"]:
        return [] if not got[0].groups else ["vLLM keeps no cache for it"]
    found = []
    resolved, first, args = row["resolved"], got[0], row["args"]
    pairs = {
        "bytes per block": (row["bytes_per_block"], list(first.bytes_per_block_by_stage)),
        "block size": (resolved["block_size"], first.block_size),
        "dtype": (resolved["cache_dtype"], first.kv_cache_dtype),
        "groups": (_groups(row), [(g.layers, g.block_size, g.blocks_per_request) for g in first.groups]),
        "needed": (max(row["bytes_needed"]), first.bytes_for_one_request),
    }
    if args.get("max_model_len") == -1:  # the golden groups are those before auto-fit
        del pairs["groups"], pairs["needed"]
    if first.attention_backend is not None and first.attention_backend not in resolved["attention_backends"]:
        found.append(f"backend {first.attention_backend}, not {resolved['attention_backends']}")
    found += [f"{what}: {theirs}, not {ours}" for what, (theirs, ours) in pairs.items() if theirs != ours]
    for outcome, plan in zip(outcomes, got, strict=True):
        found += _outcome_differences(outcome, plan, args)
    return found


def _groups(row: dict[str, Any]) -> list[tuple[int, int, int]]:
    return [(g["layers"], g["block_size"], g["blocks_per_request"]) for g in row["groups"]]


def _outcome_differences(outcome: dict[str, Any], plan: KVCachePlan, args: dict[str, Any]) -> list[str]:
    at = outcome["available_bytes"]
    longest = min(plan.max_model_len_that_fits, plan.max_model_len)
    same_length = "num_gpu_blocks_override" in args or outcome["max_len_that_fits"] == longest
    if args.get("max_model_len") == -1:
        same_length = outcome["max_len_that_fits"] == plan.max_model_len
    if "error" in outcome:
        ours = plan.failure.message if plan.failure else None
        same = ours == outcome["error"] and (same_length or args.get("max_model_len") == -1)
        return [] if same else [f"at {at}: {outcome['error']!r}, not {ours!r}"]
    if plan.failure is not None:
        return [f"at {at}: it fits, not {plan.failure.message!r}"]
    theirs = (outcome["num_blocks"], outcome["tokens"], outcome["concurrency"])
    ours_ = (plan.num_blocks, plan.tokens, f"{plan.max_concurrency:.2f}")
    found = [] if theirs == ours_ else [f"at {at}: {theirs}, not {ours_}"]
    return found if same_length else [*found, f"at {at}: length {outcome['max_len_that_fits']}, not {longest}"]


def _refusal_differences(row: dict[str, Any]) -> list[str]:
    error = row["error"]
    message = error["message"]
    if error["kind"] != "refused" or any(words in message for words in (*NOT_VLLM, *ELSEWHERE)):
        return []
    try:
        plans(row, [1 << 30])
    except Refusal as refusal:
        return [] if _same_sentence(str(refusal), message) else [f"{message!r}, not {str(refusal)!r}"]
    return [f"vLLM refuses it: {message!r}"]


def _same_sentence(ours: str, theirs: str) -> bool:
    """Equal, but for what the make-believe environment says of packages, and for what the golden file cuts off."""
    if ours.startswith("No valid attention backend"):
        return ours.partition(" Reasons:")[0] == theirs.partition(" Reasons:")[0]
    return ours == theirs or (len(theirs) >= 1000 and ours.startswith(theirs))


@pytest.mark.parametrize("part", range(PARTS))
def test_plan_is_vllms(part: int) -> None:
    every = rows()
    if not every:
        pytest.skip("tests/golden/kv.jsonl.gz has not been made")
    wrong = []
    for row in every[part::PARTS]:
        try:
            found = differences(row)
        except (InputError, Refusal) as error:
            found = [f"{type(error).__name__}: {error}"]
        if found:
            wrong.append(f"{row['model']} {row['gpu']} {row.get('recipe', '')} {row['args']}: {'; '.join(found)}")
    assert not wrong, f"{len(wrong)} rows differ:\n" + "\n".join(wrong[:20])
