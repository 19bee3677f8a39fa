"""What vLLM refuses whatever the memory: each rule with its message and flag, and the launch next to it that starts."""

from __future__ import annotations

from typing import Any

import pytest

from planner.engine.args import parse_flags
from planner.errors import InputError
from planner.request import answer, prepare

LLAMA, MIXTRAL = "meta-llama/Llama-3.1-8B-Instruct", "mistralai/Mixtral-8x7B-Instruct-v0.1"
BASE: dict[str, Any] = {"model": LLAMA, "gpu": "H100", "max_model_len": 4096}
GPTQ, AWQ = "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct-AWQ"
SPECULATIVE = "--speculative-config"

REFUSED: list[tuple[dict[str, Any], dict[str, Any], str, str | None]] = [
    # (what is refused, the change that makes it start, code, flag)
    ({"tensor_parallel_size": 3}, {"tensor_parallel_size": 4}, "heads_not_divisible", "--tensor-parallel-size"),
    ({"pipeline_parallel_size": 64}, {"pipeline_parallel_size": 4}, "pp_exceeds_layers", "--pipeline-parallel-size"),
    ({"model": AWQ, "gpu": "V100-32GB-PCIe"}, {"gpu": "T4"}, "quantization_needs_capability", "--quantization"),
    ({"model": AWQ, "gpu": "V100-32GB-PCIe"}, {"model": GPTQ}, "quantization_needs_capability", "--quantization"),
    ({"gpu": "P100"}, {"gpu": "L40S"}, "gpu_too_old", None),
    (
        {"gpu": "T4", "dtype": "bfloat16"},
        {"dtype": "auto", "tensor_parallel_size": 2},
        "dtype_needs_capability",
        "--dtype",
    ),
    ({"max_model_len": 131073}, {"max_model_len": 131072}, "max_model_len_too_large", "--max-model-len"),
    (
        {"model": "openai/gpt-oss-20b", "vllm_version": "0.9.2"},
        {"vllm_version": "0.11.2"},
        "architecture_unknown_to_version",
        None,
    ),
    ({"kv_cache_dtype": "fp8", "gpu": "T4", "tensor_parallel_size": 2}, {"gpu": "L4"}, "", "--kv-cache-dtype"),
    (
        {"quantization": "fp8_per_block", "vllm_version": "0.19.0"},
        {"vllm_version": "0.20.0"},
        "unknown_quantization",
        "--quantization",
    ),
    (
        {"enable_expert_parallel": True},
        {"enable_expert_parallel": False},
        "expert_parallel_without_experts",
        "--enable-expert-parallel",
    ),
    (
        {"model": MIXTRAL, "enable_eplb": True, "tensor_parallel_size": 2},
        {"enable_expert_parallel": True},
        "eplb_needs_ep",
        "--enable-eplb",
    ),
    (
        {"model": MIXTRAL, "enable_eplb": True, "enable_expert_parallel": True},
        {"tensor_parallel_size": 2},
        "eplb_needs_ranks",
        "--enable-eplb",
    ),
    (
        {"model": "deepseek-ai/DeepSeek-V2-Lite", "tensor_parallel_size": 2, "decode_context_parallel_size": 3},
        {"decode_context_parallel_size": 2},
        "dcp_not_divisible",
        "--decode-context-parallel-size",
    ),
    ({"enable_lora": True, "max_lora_rank": 24}, {"max_lora_rank": 32}, "lora_rank", "--max-lora-rank"),
    (
        {"enable_lora": True, "max_loras": 4, "max_cpu_loras": 2},
        {"max_cpu_loras": 4},
        "max_cpu_loras",
        "--max-cpu-loras",
    ),
    ({"gpu": "MI300X", "quantization": "experts_int8"}, {"quantization": "fp8"}, "", "--quantization"),
    (
        {"gpu": "MI210", "quantization": "fp8"},
        {"quantization": "fp8_per_block"},
        "quantization_needs_fp8",
        "--quantization",
    ),
    ({"gpu": "MI210", "quantization": "fp8"}, {"gpu": "MI300X"}, "quantization_needs_fp8", "--quantization"),
    (
        {"gpu": "T4", "kv_cache_dtype": "bfloat16"},
        {"kv_cache_dtype": "float16"},
        "kv_cache_bfloat16",
        "--kv-cache-dtype",
    ),
    (
        {"model": "RedHatAI/Llama-3.1-8B-Instruct-NVFP4", "gpu": "V100-32GB-PCIe"},
        {"gpu": "T4"},
        "quantization_needs_capability",
        "--quantization",
    ),
    (
        {"attention_backend": "FLASHATTN"},
        {"attention_backend": "flash_attn"},
        "attention_backend_unknown",
        "--attention-backend",
    ),
    (
        {"attention_config": {"backend": "flashmla"}},
        {"attention_config": {"backend": "auto"}},
        "attention_backend_invalid",
        "--attention-backend",
    ),
    (
        {"offload_group_size": 4, "offload_num_in_group": 9},
        {"offload_num_in_group": 2},
        "offload_num_in_group",
        "--offload-num-in-group",
    ),
    ({"offload_backend": "prefetch"}, {"offload_group_size": 4}, "offload_num_in_group", "--offload-group-size"),
    (
        {"max_num_seqs": 512, "max_num_batched_tokens": 256},
        {"max_num_seqs": 256},
        "batched_tokens_below_seqs",
        "--max-num-batched-tokens",
    ),
]


@pytest.mark.parametrize(("changes", "instead", "code", "flag"), REFUSED)
def test_a_refusal_and_the_launch_beside_it(
    changes: dict[str, Any], instead: dict[str, Any], code: str, flag: str | None
):
    refused = answer({**BASE, **changes})
    assert refused["status"] == "refused"
    reason = refused["reasons"][0]
    assert code in ("", reason["code"])
    assert reason["flag"] == flag
    assert reason["message"]
    beside = answer({key: value for key, value in {**BASE, **changes, **instead}.items() if value is not None})
    assert beside["status"] != "refused", beside["reasons"]


def test_checkpoints_whose_config_names_no_method_are_taken_on_rocm():
    for model in ("nvidia/Llama-3.1-70B-Instruct-FP8", "Qwen/Qwen3-32B-FP8-Static-PerTensor"):
        assert answer({"model": model, "gpu": "MI300X"})["status"] == "fits"


@pytest.mark.parametrize(
    ("model", "gpu", "refused"),
    [
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", "MI210", True),
        ("nvidia/Llama-3.1-70B-Instruct-FP8", "MI210", True),
        ("Qwen/Qwen3-8B-FP8", "MI210", False),
        ("Qwen/Qwen3-30B-A3B-FP8", "MI210", False),
        ("Qwen/Qwen3-30B-A3B-FP8", "RX 7900 XTX", True),
        ("Qwen/Qwen3-8B-FP8", "RX 7900 XTX", False),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", "MI300X", False),
    ],
)
def test_fp8_checkpoints_on_amd_cards(model: str, gpu: str, refused: bool):
    """As vLLM 0.32's own classes answered behind such a card (planner/engine/ask_vllm)."""
    assert (answer({"model": model, "gpu": gpu})["status"] == "refused") == refused


def test_a_small_batch_is_raised_to_one_video():
    """Gemma 4 attends both ways within an item, so that it must fit in one step (32 frames of 78 tokens)."""
    base = {"model": "google/gemma-4-31B-it", "tensor_parallel_size": 4, "max_model_len": 8192}
    for gpu, tokens in (("L4", 2496), ("H100", 8192)):
        assert answer({**base, "gpu": gpu})["engine"]["max_num_batched_tokens"] == tokens
    assert answer({**base, "gpu": "L4", "max_num_batched_tokens": 512})["engine"]["max_num_batched_tokens"] == 512


def test_lora_rank_1_came_in_0_11():
    one = {**BASE, "enable_lora": True, "max_lora_rank": 1}
    assert answer({**one, "vllm_version": "0.10.2"})["status"] == "refused"
    assert answer({**one, "vllm_version": "0.11.2"})["status"] == "fits"


def test_deepseeks_latent_is_not_divided_by_tp():
    """Every rank keeps the whole latent: 61 layers x 576 x 2 bytes a token at TP 1 and at TP 8."""
    base = {"model": "deepseek-ai/DeepSeek-V3", "gpu": "B200", "max_model_len": 8192, "kv_cache_memory_bytes": 1 << 33}
    pages = []
    for size in (4, 8):
        kv = answer({**base, "tensor_parallel_size": size})["kv_cache"]
        pages.append(kv["bytes_per_block"] / kv["block_size"])
    assert pages == [61 * 576 * 2, 61 * 576 * 2]


def test_qwen3_32b_starts_on_one_h100():
    result = answer({"model": "Qwen/Qwen3-32B", "gpu": "H100", "gpu_memory_utilization": 0.9, "max_model_len": 16000})
    assert result["status"] == "fits"


def test_a_backend_in_small_letters_is_that_backend() -> None:
    named = {spelling: answer({**BASE, "attention_backend": spelling}) for spelling in ("FLASHINFER", "flashinfer")}
    assert {found["engine"]["attention_backend"] for found in named.values()} == {"FLASHINFER"}


def test_a_value_that_older_versions_take_is_one_there_alone() -> None:
    request = {"model": "nvidia/NVIDIA-Nemotron-Nano-9B-v2", "gpu": "H100", "mamba_cache_mode": "all"}
    assert answer({**request, "vllm_version": "0.24.0"})["status"] == "fits"
    (reason,) = answer({**request, "vllm_version": "0.32.0"})["reasons"]
    assert (reason["code"], reason["flag"]) == ("invalid_choice", "--mamba-cache-mode")


def test_a_kv_cache_dtype_of_unknown_size_is_no_refusal_of_vllms() -> None:
    with pytest.raises(InputError, match="ultraquant_4bit"):
        answer({**BASE, "gpu": "MI300X", "kv_cache_dtype": "ultraquant_4bit", "vllm_version": "0.32.0"})


@pytest.mark.parametrize(
    ("flags", "last", "first"),
    [  # words that the version `last` takes and `first` does not, or the other way round
        ("--swap-space 4", "0.17.0", "0.18.0"),
        ("--task generate", "0.12.0", "0.13.0"),
        ("--device cuda", "0.9.2", "0.10.0"),
        ("--num-lookahead-slots 0", "0.11.2", "0.12.0"),
        ("--enable-reasoning", "0.9.2", "0.10.0"),
        ("--disable-log-requests", "0.16.0", "0.17.0"),
        ("--disable-frontend-multiprocessing", "0.18.0", "0.19.0"),
        ("--kv-offloading-size 4", "0.11.1", "0.11.0"),
        ("--monokernel", "0.33.0", "0.32.0"),
    ],
)
def test_a_flag_that_a_version_lacks_is_refused_as_the_command_line_does(flags: str, last: str, first: str) -> None:
    args, _ = parse_flags(flags.split())
    request = {"model": "Qwen/Qwen2.5-7B-Instruct", "gpu": "H100", **args}
    assert prepare({**request, "vllm_version": last}).estimate().status == "fits"
    found = prepare({**request, "vllm_version": first}).estimate()
    assert (found.status, [reason.flag for reason in found.reasons]) == ("refused", [flags.split()[0]])
    assert prepare({**request, "vllm_version": first, "usage": "offline"}).estimate().status == "fits"
