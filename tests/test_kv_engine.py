"""Real engines on this machine's CPU print the blocks, tokens and concurrency that the plan says."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from planner.engine.args import EngineArgs
from planner.engine.defaults import resolve
from planner.engine.launch import LaunchSpec, launch
from planner.engine.version import parse_version
from planner.memory.kv_cache import plan_kv_cache
from planner.model.config import Config
from planner.model.families import build_model
from tests.cpu_engine import ON_CPU_ENGINE
from tests.kv_case import CPU

pytestmark = ON_CPU_ENGINE

ROOM = (1 << 30) + 12_345_678  # no multiple of any block

MLA: dict[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "hidden_size": 256,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": None,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
"""Latent attention in DeepSeek-V2's sizes, with plain MLPs."""


def catalogue(name: str, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((files("hf_configs") / name / "config.json").read_text(encoding="utf-8"))
    return {**values, **changes}


CASES = {
    "full": (catalogue("Qwen--Qwen2.5-0.5B"), {"max_model_len": 3001}),
    "sliding": (catalogue("google--gemma-3-270m-it"), {"max_model_len": 8000, "max_num_batched_tokens": 1024}),
    "latent": (MLA, {"max_model_len": 1000}),
}


def _has_amx() -> bool:
    try:
        return "amx_tile" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


@pytest.mark.parametrize("case", CASES)
def test_engine_agrees_to_the_token(case: str) -> None:
    if case == "latent" and _has_amx():
        pytest.skip("AMX_MLA takes another block size than the CPU_MLA that is modelled")
    config = CASES[case][0]
    args: dict[str, Any] = {**CASES[case][1], "dtype": "bfloat16"}
    measured = launch(LaunchSpec(config=config, engine_args=args, kv_cache_memory_bytes=ROOM))
    version = parse_version(str(measured.engine["vllm_version"]))
    model = build_model(Config(config, where="config.json"), case)
    engine = resolve(model, CPU, EngineArgs(args, kv_cache_memory_bytes=ROOM), version, "offline")
    planned = plan_kv_cache(model, engine, CPU, [ROOM])
    cache = measured.kv_cache
    assert (planned.num_blocks, planned.block_size) == (cache.num_blocks, cache.block_size)
    assert planned.tokens == cache.tokens
    assert planned.max_concurrency == pytest.approx(cache.max_concurrency, abs=0.005)
