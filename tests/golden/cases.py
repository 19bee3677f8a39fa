"""The questions of the golden files: which model, which GPU, which engine arguments. Pure data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GIB = 1 << 30

# Memory as cudaMemGetInfo reports it on these cards, SM counts from the vendor's data sheets.
GPUS: dict[str, dict[str, Any]] = {
    "t4": {"name": "Tesla T4", "compute_capability": (7, 5), "memory_bytes": int(14.56 * GIB), "sm_count": 40},
    "a100": {
        "name": "NVIDIA A100-SXM4-80GB", "compute_capability": (8, 0), "memory_bytes": int(79.25 * GIB),
        "sm_count": 108,
    },
    "l40s": {"name": "NVIDIA L40S", "compute_capability": (8, 9), "memory_bytes": int(44.39 * GIB), "sm_count": 142},
    "h100": {
        "name": "NVIDIA H100 80GB HBM3", "compute_capability": (9, 0), "memory_bytes": int(79.10 * GIB),
        "sm_count": 132,
    },
    "b200": {"name": "NVIDIA B200", "compute_capability": (10, 0), "memory_bytes": int(178.35 * GIB), "sm_count": 148},
}  # fmt: skip

# KV cache memory that every plan is made for; the last one is no round number on purpose.
AMOUNTS = [1 * GIB, 4 * GIB, 10 * GIB, 24 * GIB, 40 * GIB, 60 * GIB, 120 * GIB, 12_345_678_901]


@dataclass(frozen=True)
class Case:
    """One run of vLLM's classes; gives a row of weights.jsonl, of kv.jsonl, or of both."""

    model: str  # ORG/NAME
    gpu: str = "h100"
    args: dict[str, Any] = field(default_factory=dict)  # vLLM engine arguments
    recipe: str | None = None  # a name in RECIPES: the quantization_config added to the model's config
    weights: bool = True
    kv: bool = False

    def id(self) -> str:
        """Readable and unique: model | gpu | recipe | arguments that are not the default."""
        words = [self.model, self.gpu] + ([self.recipe] if self.recipe else [])
        words += [f"{key}={json.dumps(value)}" for key, value in sorted(self.args.items())]
        return " ".join(words)


def parallel(tp: int, pp: int = 1, **more: Any) -> dict[str, Any]:
    """Engine arguments for a tensor and pipeline parallel size, without the ones that are the default."""
    args = {"tensor_parallel_size": tp, "pipeline_parallel_size": pp, **more}
    return {
        key: value
        for key, value in args.items()
        if value != 1 or key not in ("tensor_parallel_size", "pipeline_parallel_size")
    }


# ------------------------------------------------------------------------------------------------ quantized checkpoints

# Models that get every recipe: dense (plain, with QKV bias, with q/k norms), mixture of experts, MLA with experts.
DENSE = ["meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen3-8B"]
EXPERTS = ["Qwen/Qwen3-30B-A3B", "mistralai/Mixtral-8x7B-Instruct-v0.1"]
MLA = ["deepseek-ai/DeepSeek-V2-Lite", "moonshotai/Moonlight-16B-A3B-Instruct"]
QUANTIZED = [*DENSE, *EXPERTS, *MLA]
ONE_OF_EACH = [DENSE[0], EXPERTS[0], MLA[0], DENSE[1]]

# What checkpoints leave in high precision besides lm_head: the routers. Each format spells it in its own way.
_ROUTERS_RE = ["re:.*mlp\\.gate$", "re:.*block_sparse_moe\\.gate$", "re:.*shared_expert_gate$"]
_ROUTERS = ["mlp.gate.", "mlp.gate", "block_sparse_moe.gate", "shared_expert_gate"]
_ROUTERS_GLOB = ["*mlp.gate", "*block_sparse_moe.gate", "*shared_expert_gate"]


def _ct(fmt: str, weights: dict[str, Any], activations: dict[str, Any] | None = None) -> dict[str, Any]:
    """A compressed-tensors quantization_config with one group over all linear layers."""
    return {
        "quant_method": "compressed-tensors",
        "format": fmt,
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"], "weights": weights, "input_activations": activations, "output_activations": None,
            }
        },
        "ignore": ["lm_head", *_ROUTERS_RE],
    }  # fmt: skip


def _numbers(
    bits: int, kind: str, strategy: str, *, group: int | None = None, sym: bool = True, dynamic: bool | str = False
) -> dict[str, Any]:
    return {
        "num_bits": bits, "type": kind, "strategy": strategy, "group_size": group, "symmetric": sym, "dynamic": dynamic,
        "actorder": None, "block_structure": None, "observer": "minmax", "observer_kwargs": {},
    }  # fmt: skip


def _gptq(bits: int, group: int = 128, *, desc_act: bool = False, lm_head: bool = False) -> dict[str, Any]:
    return {
        "quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": desc_act, "sym": True,
        "lm_head": lm_head,
        "dynamic": {"-:.*mlp\\.gate$": {}, "-:.*block_sparse_moe\\.gate$": {}, "-:.*shared_expert_gate$": {}},
    }  # fmt: skip


def _awq(group: int) -> dict[str, Any]:
    return {
        "quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm",
        "modules_to_not_convert": _ROUTERS,
    }  # fmt: skip


def _modelopt(algo: str, **more: Any) -> dict[str, Any]:
    return {
        "quant_method": "modelopt", "producer": {"name": "modelopt", "version": "0.29.0"}, "quant_algo": algo,
        "kv_cache_quant_algo": None, "ignore": ["lm_head", *_ROUTERS_GLOB], **more,
    }  # fmt: skip


RECIPES: dict[str, dict[str, Any]] = {
    "awq_g128": _awq(128),
    "awq_g64": _awq(64),
    "gptq_int4_g128": _gptq(4),
    "gptq_int4_g32": _gptq(4, 32),
    "gptq_int4_channel": _gptq(4, -1),
    "gptq_int8_g128": _gptq(8),
    "gptq_int4_g128_desc_act": _gptq(4, desc_act=True),
    "gptq_int4_g128_lm_head": _gptq(4, lm_head=True),
    "ct_w4a16_g128": _ct("pack-quantized", _numbers(4, "int", "group", group=128)),
    "ct_w4a16_g128_asym": _ct("pack-quantized", _numbers(4, "int", "group", group=128, sym=False)),
    "ct_w4a16_g32": _ct("pack-quantized", _numbers(4, "int", "group", group=32)),
    "ct_w8a16_g128": _ct("pack-quantized", _numbers(8, "int", "group", group=128)),
    "ct_w8a16_channel": _ct("pack-quantized", _numbers(8, "int", "channel")),
    "ct_w8a8_int8": _ct("int-quantized", _numbers(8, "int", "channel"), _numbers(8, "int", "token", dynamic=True)),
    "ct_w8a8_int8_static": _ct("int-quantized", _numbers(8, "int", "tensor"), _numbers(8, "int", "tensor")),
    "ct_fp8_channel": _ct(
        "float-quantized", _numbers(8, "float", "channel"), _numbers(8, "float", "token", dynamic=True)
    ),
    "ct_fp8_tensor": _ct("float-quantized", _numbers(8, "float", "tensor"), _numbers(8, "float", "tensor")),
    "ct_fp8_w8a16": _ct("float-quantized", _numbers(8, "float", "channel")),
    "ct_nvfp4": _ct(
        "nvfp4-pack-quantized",
        _numbers(4, "float", "tensor_group", group=16),
        _numbers(4, "float", "tensor_group", group=16, dynamic="local"),
    ),
    "ct_nvfp4a16": _ct("nvfp4-pack-quantized", _numbers(4, "float", "tensor_group", group=16)),
    "fp8_tensor": {"quant_method": "fp8", "activation_scheme": "dynamic", "ignored_layers": None},
    "fp8_tensor_static": {"quant_method": "fp8", "activation_scheme": "static"},
    "fp8_block_128": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    "modelopt_fp8": _modelopt("FP8"),
    "modelopt_nvfp4": _modelopt("NVFP4", group_size=16),
    "modelopt_mxfp8": _modelopt("MXFP8", group_size=32),
    "mxfp4": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head", *_ROUTERS]},
}

# `--quantization X` on a bf16 checkpoint: quantized while loading.
ONLINE = [
    "fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "mxfp8", "mxfp4", "int8_per_channel_weight_only",
    "nvfp4_per_token", "experts_int8", "moe_wna16", "bitsandbytes", "gguf",
]  # fmt: skip

EXPERT_PARALLEL = [
    "Qwen/Qwen3-30B-A3B", "mistralai/Mixtral-8x7B-Instruct-v0.1", "deepseek-ai/DeepSeek-V2-Lite",
    "deepseek-ai/DeepSeek-V3",
    "openai/gpt-oss-20b", "openai/gpt-oss-120b", "Qwen/Qwen3-30B-A3B-FP8", "Qwen/Qwen3-Next-80B-A3B-Instruct",
    "meta-llama/Llama-4-Scout-17B-16E-Instruct", "zai-org/GLM-4.5-Air", "ibm-granite/granite-3.1-3b-a800m-instruct",
    "Qwen/Qwen2-57B-A14B-Instruct", "ai21labs/AI21-Jamba-Mini-1.6", "MiniMaxAI/MiniMax-M2.5",
    "databricks/dbrx-instruct",
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "Qwen/Qwen3.5-35B-A3B", "google/gemma-4-26B-A4B-it",
]  # fmt: skip

OTHER_DTYPES = [
    "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-30B-A3B", "deepseek-ai/DeepSeek-V2-Lite", "google/gemma-3-4b-it",
    "openai-community/gpt2", "Qwen/Qwen2.5-VL-3B-Instruct", "BAAI/bge-large-en-v1.5", "state-spaces/mamba-2.8b-hf",
    "microsoft/Phi-3.5-mini-instruct", "Qwen/Qwen3-Next-80B-A3B-Instruct",
]  # fmt: skip

# ------------------------------------------------------------------------------------------------ KV cache samples

# One model of each kind of cache: full, MQA, GQA, sliding only, sliding and full, chunked, MLA, sparse MLA, Mamba 1 and
# 2, gated delta net, KV shared between layers, cross attention, per-layer head counts, none.
KINDS = [
    "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "microsoft/phi-4", "tiiuae/falcon-40b",
    "mistralai/Mistral-7B-v0.1", "google/gemma-3-27b-it", "google/gemma-3-270m-it", "google/gemma-2-9b-it",
    "openai/gpt-oss-20b", "CohereLabs/c4ai-command-r7b-12-2024", "meta-llama/Llama-4-Scout-17B-16E-Instruct",
    "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V2-Lite", "deepseek-ai/DeepSeek-V3.2", "zai-org/GLM-4.7-Flash",
    "ai21labs/AI21-Jamba-Mini-1.6", "state-spaces/mamba-2.8b-hf", "nvidia/NVIDIA-Nemotron-Nano-9B-v2",
    "ibm-granite/granite-4.0-h-tiny", "Qwen/Qwen3-Next-80B-A3B-Instruct", "Qwen/Qwen3.5-9B",
    "google/gemma-4-26B-A4B-it",
    "google/gemma-3n-E2B-it", "meta-llama/Llama-3.2-11B-Vision-Instruct", "moonshotai/Kimi-Linear-48B-A3B-Instruct",
    "nvidia/Llama-3_3-Nemotron-Super-49B-v1_5", "BAAI/bge-large-en-v1.5", "Qwen/Qwen3-30B-A3B",
    "Qwen/Qwen2.5-VL-7B-Instruct",
]  # fmt: skip

KV_DTYPES = [
    "float16", "bfloat16", "fp8_e4m3", "fp8_e5m2", "fp8_ds_mla", "nvfp4", "nvfp4_4over6", "nvfp4_ds_mla",
    "int8_per_token_head",
    "int4_per_token_head", "fp8_per_token_head", "turboquant_k8v4", "turboquant_4bit_nc", "turboquant_k3v4_nc",
    "turboquant_3bit_nc",
]  # fmt: skip

KV_DTYPE_MODELS = [
    "meta-llama/Llama-3.1-8B-Instruct", "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3.2", "google/gemma-3-27b-it",
    "openai/gpt-oss-20b", "Qwen/Qwen3-Next-80B-A3B-Instruct", "google/gemma-4-26B-A4B-it",
    "ai21labs/AI21-Jamba-Mini-1.6",
]  # fmt: skip

# Flags that change the plan, one at a time.
KV_FLAGS: list[dict[str, Any]] = [
    {"block_size": 32},
    {"block_size": 64},
    {"block_size": 128},
    {"enable_prefix_caching": False},
    {"disable_hybrid_kv_cache_manager": True},
    {"max_num_batched_tokens": 2048},
    {"max_num_batched_tokens": 32768, "max_num_seqs": 64},
    {"async_scheduling": False},
    {"enforce_eager": True},
    {"num_gpu_blocks_override": 1000},
    {"max_model_len": 2048},
    {"max_model_len": 8192},
    {"max_model_len": 10001},
    {"max_model_len": -1},
    {"tensor_parallel_size": 8, "decode_context_parallel_size": 2},
    {"dtype": "float16"},
]


# ------------------------------------------------------------------------------------------------ the lists


def own(models: list[str], tps: list[int], pp: int = 1) -> Iterator[Case]:
    """Every model as published: weights, and the KV cache of the same launch."""
    for tp in tps:
        for model in models:
            yield Case(model, args=parallel(tp, pp), kv=True)


def fp8_kv(models: list[str], tps: list[int]) -> Iterator[Case]:
    for tp in tps:
        for model in models:
            yield Case(model, args=parallel(tp, kv_cache_dtype="fp8"), weights=False, kv=True)


def quantized() -> Iterator[Case]:
    """Every recipe and every online method on every model of QUANTIZED."""
    for tp, models in ((2, QUANTIZED), (1, ONE_OF_EACH)):
        for model in models:
            for recipe in RECIPES:
                yield Case(model, args=parallel(tp), recipe=recipe)
            for method in ONLINE:
                yield Case(model, args=parallel(tp, quantization=method))


def quantized_elsewhere() -> Iterator[Case]:
    """The same on cards where other kernels, and so other layouts, are chosen. Blackwell's are marked inexact."""
    for gpu in ("a100", "l40s", "b200"):
        for model in ONE_OF_EACH[:3] if gpu == "b200" else ONE_OF_EACH:
            for recipe in RECIPES:
                yield Case(model, gpu=gpu, args=parallel(2), recipe=recipe)
            for method in ONLINE:
                yield Case(model, gpu=gpu, args=parallel(2, quantization=method))


def quantized_wide() -> Iterator[Case]:
    """Shards that a group or a block does not divide."""
    for model in ONE_OF_EACH:
        for tp in (4, 8):
            for recipe in RECIPES:
                yield Case(model, args=parallel(tp), recipe=recipe)


def expert_parallel() -> Iterator[Case]:
    for model in EXPERT_PARALLEL:
        for tp in (2, 4, 8):
            yield Case(model, args=parallel(tp, enable_expert_parallel=True))


def dtypes() -> Iterator[Case]:
    for model in OTHER_DTYPES:
        for dtype in ("float16", "float32"):
            yield Case(model, args=parallel(2 if "Next" in model else 1, dtype=dtype))


def kv_samples() -> Iterator[Case]:
    for model in KINDS:
        for gpu in ("a100", "l40s", "b200", "t4"):
            args = parallel(2) | ({"dtype": "float16"} if gpu == "t4" else {})
            yield Case(model, gpu=gpu, args=args, weights=False, kv=True)
            yield Case(model, gpu=gpu, args=args | {"kv_cache_dtype": "fp8"}, weights=False, kv=True)
        for flags in KV_FLAGS:
            yield Case(model, args={**parallel(2), **flags}, weights=False, kv=True)
    for model in KV_DTYPE_MODELS:
        for dtype in KV_DTYPES:
            yield Case(model, args=parallel(2, kv_cache_dtype=dtype), weights=False, kv=True)
    for model in KV_DTYPE_MODELS[:3]:
        for gpu in ("a100", "l40s", "b200", "t4"):
            for dtype in KV_DTYPES:
                args = parallel(2, kv_cache_dtype=dtype) | ({"dtype": "float16"} if gpu == "t4" else {})
                yield Case(model, gpu=gpu, args=args, weights=False, kv=True)


# Asked again by tests/test_golden_live.py: dense, sliding-window hybrid, AWQ, MLA with experts, Mamba hybrid in two
# stages, online fp8. All of them are the same in vLLM 0.32 and 0.33.
LIVE = [
    Case("meta-llama/Llama-3.2-1B-Instruct", kv=True),
    Case("google/gemma-3-270m-it", kv=True),
    Case("Qwen/Qwen2.5-1.5B-Instruct-AWQ", args=parallel(2), kv=True),
    Case("deepseek-ai/DeepSeek-V2-Lite", args=parallel(4), kv=True),
    Case("ibm-granite/granite-4.0-h-tiny", args=parallel(1, 2), kv=True),
    Case("meta-llama/Llama-3.1-8B-Instruct", args=parallel(2, quantization="fp8")),
]


def phases(models: list[str]) -> dict[str, list[Case]]:
    """All cases, in the order in which they are generated; a case of two phases is generated once."""
    lists: dict[str, Iterator[Case]] = {
        "live": iter(LIVE),
        "own-tp1": own(models, [1]),
        "own-tp2": own(models, [2]),
        "quantized": quantized(),
        "own-tp4": own(models, [4]),
        "own-tp8": own(models, [8]),
        "expert-parallel": expert_parallel(),
        "dtypes": dtypes(),
        "quantized-elsewhere": quantized_elsewhere(),
        "kv-fp8": fp8_kv(models, [1, 2, 4, 8]),
        "own-pp2": own(models, [1, 2, 4, 8], pp=2),
        "kv-samples": kv_samples(),
        "quantized-wide": quantized_wide(),
    }
    seen: set[str] = set()
    result: dict[str, list[Case]] = {}
    for name, cases in lists.items():
        result[name] = []
        for case in cases:
            if case.id() not in seen:
                seen.add(case.id())
                result[name].append(case)
    return result


# ------------------------------------------------------------------------------------------------ configs

# Keys that no size depends on: two models whose configs differ only here share one run.
_IRRELEVANT = {
    "_name_or_path", "transformers_version", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "auto_map",
    "initializer_range", "unsloth_version", "unsloth_fixed",
}  # fmt: skip


def read_configs(folder: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """{"ORG/NAME": (config.json, {other file: content})} of a folder of ORG--NAME folders."""
    configs = {}
    for path in sorted(folder.glob("*/config.json")):
        files = {
            other.name: json.loads(other.read_text()) for other in sorted(path.parent.glob("*.json")) if other != path
        }
        configs[path.parent.name.replace("--", "/", 1)] = (json.loads(path.read_text()), files)
    return configs


def fingerprint(config: dict[str, Any], files: dict[str, Any]) -> str:
    plain = {key: value for key, value in config.items() if key not in _IRRELEVANT}
    return hashlib.sha256(json.dumps([plain, files], sort_keys=True).encode()).hexdigest()[:16]
