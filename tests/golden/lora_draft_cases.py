"""What make_lora_draft.py asks vLLM: models with LoRA slots, and targets with a draft. Imports nothing."""

from __future__ import annotations

from typing import Any


def _lora(model: str, **args: Any) -> dict[str, Any]:
    return {"model": model, "args": args}


LLAMA, QWEN25, QWEN3_MOE = "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen3-30B-A3B"

_ARCHITECTURES = """
tiiuae/Falcon3-10B-Instruct
BAAI/bge-large-en-v1.5
BAAI/bge-reranker-v2-m3
CohereLabs/c4ai-command-r7b-12-2024
CohereLabs/c4ai-command-r-08-2024
EleutherAI/gpt-neox-20b
MiniMaxAI/MiniMax-M2.5
Qwen/Qwen2-1.5B-Instruct
Qwen/Qwen2-57B-A14B-Instruct
Qwen/Qwen2.5-VL-3B-Instruct
Qwen/Qwen3-4B
Qwen/Qwen3-30B-A3B-Instruct-2507
Qwen/Qwen3-Coder-Next
Qwen/Qwen3.5-35B-A3B
Qwen/Qwen3.5-4B
meta-llama/Llama-4-Scout-17B-16E-Instruct
ai21labs/AI21-Jamba-Large-1.5
allenai/OLMo-2-0325-32B-Instruct
deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct
moonshotai/Moonlight-16B-A3B-Instruct
facebook/opt-125m
google/gemma-2-2b-it
google/gemma-2b
google/gemma-3-4b-it
google/gemma-3-270m-it
google/gemma-4-26B-A4B-it
ibm-granite/granite-4-8b-dense
ibm-granite/granite-3.1-3b-a800m-instruct
ibm-granite/granite-4.0-h-micro
intfloat/e5-mistral-7b-instruct
microsoft/phi-4
mistral-community/pixtral-12b
mistralai/Devstral-2-123B-Instruct-2512
mistralai/Mistral-Small-3.1-24B-Instruct-2503
mistralai/Mistral-Small-Instruct-2409
mistralai/Mixtral-8x22B-Instruct-v0.1
nvidia/Llama-3_3-Nemotron-Super-49B-v1_5
nvidia/NVIDIA-Nemotron-Nano-9B-v2
openai/gpt-oss-20b
zai-org/GLM-4-9B-0414
zai-org/GLM-4.5
zai-org/GLM-4.7-Flash
zai-org/glm-4-9b-chat-hf
zai-org/glm-4-9b-chat
""".split()
"""One model for each architecture of hf_configs whose class takes LoRA."""

LORAS: list[dict[str, Any]] = [
    *(_lora(model, tensor_parallel_size=2) for model in _ARCHITECTURES),
    *(_lora(LLAMA, tensor_parallel_size=tp, max_lora_rank=rank) for tp in (1, 2) for rank in (16, 64)),
    _lora(LLAMA, max_loras=4, max_lora_rank=64, lora_dtype="float16"),
    _lora(LLAMA, tensor_parallel_size=2, pipeline_parallel_size=2, fully_sharded_loras=True, max_lora_rank=64),
    _lora(LLAMA, lora_target_modules=["o_proj", "qkv_proj", "lm_head"]),
    _lora(LLAMA, lora_target_modules=["up_proj", "embed_tokens"], tensor_parallel_size=4),
    *(_lora(QWEN25, tensor_parallel_size=tp, max_lora_rank=64, fully_sharded_loras=True) for tp in (1, 2)),
    *(_lora(QWEN3_MOE, tensor_parallel_size=tp, max_lora_rank=rank) for tp in (1, 2) for rank in (16, 64)),
    _lora(QWEN3_MOE, tensor_parallel_size=2, enable_expert_parallel=True),
    _lora(QWEN3_MOE, tensor_parallel_size=2, fully_sharded_loras=True, max_loras=2),
    _lora(QWEN3_MOE, tensor_parallel_size=2, enable_expert_parallel=True, fully_sharded_loras=True),
    _lora(QWEN3_MOE, enable_moe_shared_loras=True, lora_target_modules=["experts", "q_proj"]),
    _lora("Qwen/Qwen3-30B-A3B-FP8"),
    _lora("Qwen/Qwen3-8B-AWQ", max_lora_rank=32),
    _lora("Qwen/Qwen3-4B", pipeline_parallel_size=2),
    _lora("Qwen/Qwen3.5-4B", tensor_parallel_size=2, fully_sharded_loras=True),
    _lora("Qwen/Qwen3.5-35B-A3B", enable_mixed_moe_lora_format=True),
    _lora("ibm-granite/granite-3.1-3b-a800m-instruct", pipeline_parallel_size=2),
    _lora("ibm-granite/granite-4.0-h-tiny"),
    _lora("nvidia/NVIDIA-Nemotron-Nano-9B-v2", tensor_parallel_size=2, fully_sharded_loras=True),
    _lora("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"),
    _lora("openai/gpt-oss-20b", max_lora_rank=8),
    _lora("openai/gpt-oss-20b", tensor_parallel_size=4),
    _lora("deepseek-ai/DeepSeek-V3", tensor_parallel_size=8),
    _lora("deepseek-ai/DeepSeek-V3.2", tensor_parallel_size=8),
    _lora("google/gemma-3-27b-it", max_lora_rank=24),
    _lora(LLAMA, max_loras=4, max_cpu_loras=2),
    *(
        _lora(model)
        for model in (
            "tiiuae/falcon-40b",
            "bigscience/bloom-7b1",
            "openai-community/gpt2",
            "state-spaces/mamba-2.8b-hf",
            "moonshotai/Kimi-Linear-48B-A3B-Instruct",
        )
    ),
]


def _draft(model: str, spec: dict[str, Any], own: tuple[str, ...] = (), **args: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model, "args": {**args, "speculative_config": spec}}
    return row | {"own": list(own)} if own else row


def _head(architecture: str, **sizes: Any) -> dict[str, Any]:
    """The config of an EAGLE head as they are published: one Llama-like layer."""
    return {
        "architectures": [architecture],
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 2048,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 1,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vocab_size": 128256,
        **sizes,
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B": _head("LlamaForCausalLMEagle3", draft_vocab_size=32000),
    "yuhuili/EAGLE3-LLaMA3.3-Instruct-70B": _head(
        "LlamaForCausalLMEagle3",
        draft_vocab_size=32000,
        hidden_size=6144,
        intermediate_size=16384,
        num_attention_heads=48,
        target_hidden_size=8192,
    ),
    "yuhuili/EAGLE-LLaMA3-Instruct-8B": _head("LlamaForCausalLM", rope_theta=500000.0),
    "AngelSlim/Qwen3-8B_eagle3": _head(
        "LlamaForCausalLMEagle3",
        draft_vocab_size=32000,
        head_dim=128,
        intermediate_size=12288,
        max_position_embeddings=40960,
        rope_theta=1000000,
        vocab_size=151936,
    ),
    "an/Eagle3-Qwen3": _head(
        "Eagle3Qwen3ForCausalLM",
        model_type="qwen3",
        attention_bias=True,
        eagle_config={"norm_before_fc": True},
        head_dim=128,
        intermediate_size=12288,
        max_position_embeddings=40960,
        num_hidden_layers=2,
        rope_theta=1000000,
        vocab_size=151936,
    ),
    "XiaomiMiMo/MiMo-7B-RL": {
        "architectures": ["MiMoForCausalLM"],
        "attention_bias": True,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "max_position_embeddings": 32768,
        "model_type": "mimo",
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "num_nextn_predict_layers": 1,
        "rms_norm_eps": 1e-05,
        "rope_theta": 640000,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 151680,
    },
}

EAGLE3 = "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B"
_HEAD = ("lm_head",)
_MTP: dict[str, Any] = {"method": "mtp", "num_speculative_tokens": 1}


def _eagle3(model: str = EAGLE3, tokens: int = 3, **more: Any) -> dict[str, Any]:
    return {"method": "eagle3", "model": model, "num_speculative_tokens": tokens, **more}


DRAFTS: list[dict[str, Any]] = [
    _draft(LLAMA, {"model": "meta-llama/Llama-3.2-1B-Instruct", "num_speculative_tokens": 3}),
    _draft(LLAMA, {"model": "meta-llama/Llama-3.2-1B-Instruct", "num_speculative_tokens": 5}, tensor_parallel_size=2),
    _draft("Qwen/Qwen3-8B", {"model": "Qwen/Qwen3-0.6B", "num_speculative_tokens": 4}),
    _draft("Qwen/Qwen3-32B-FP8", {"model": "Qwen/Qwen3-0.6B", "num_speculative_tokens": 4}, tensor_parallel_size=2),
    _draft("Qwen/Qwen3-32B", {"model": "Qwen/Qwen3-0.6B-FP8", "num_speculative_tokens": 4}, tensor_parallel_size=2),
    _draft(LLAMA, _eagle3(), _HEAD),
    _draft(LLAMA, _eagle3(), _HEAD, max_model_len=131072),
    _draft(LLAMA, _eagle3(), _HEAD, tensor_parallel_size=2),
    _draft(LLAMA, _eagle3(), _HEAD, pipeline_parallel_size=2),
    _draft("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", _eagle3(), _HEAD),
    _draft(LLAMA, _eagle3(), ("embed_tokens", "lm_head")),
    _draft(
        "meta-llama/Llama-3.3-70B-Instruct",
        _eagle3("yuhuili/EAGLE3-LLaMA3.3-Instruct-70B"),
        ("embed_tokens", "lm_head"),
        tensor_parallel_size=4,
    ),
    _draft(
        "meta-llama/Meta-Llama-3-8B-Instruct",
        {"method": "eagle", "model": "yuhuili/EAGLE-LLaMA3-Instruct-8B", "num_speculative_tokens": 2},
    ),
    _draft("Qwen/Qwen3-8B", _eagle3("AngelSlim/Qwen3-8B_eagle3"), _HEAD),
    _draft("Qwen/Qwen3-8B", _eagle3("an/Eagle3-Qwen3"), _HEAD, tensor_parallel_size=2),
    _draft("deepseek-ai/DeepSeek-V3", _MTP, tensor_parallel_size=8),
    _draft("deepseek-ai/DeepSeek-V3", _MTP, tensor_parallel_size=8, enable_expert_parallel=True),
    _draft("deepseek-ai/DeepSeek-V3", _MTP, tensor_parallel_size=8, pipeline_parallel_size=2),
    _draft("nvidia/DeepSeek-V3.1-NVFP4", _MTP, tensor_parallel_size=8),
    _draft("deepseek-ai/DeepSeek-V3.2", _MTP, tensor_parallel_size=8),
    _draft("Qwen/Qwen3-Next-80B-A3B-Instruct", {**_MTP, "num_speculative_tokens": 2}, tensor_parallel_size=4),
    _draft("Qwen/Qwen3-Next-80B-A3B-Instruct", _MTP, tensor_parallel_size=2, pipeline_parallel_size=2),
    _draft("Qwen/Qwen3.5-35B-A3B", _MTP),
    _draft("Qwen/Qwen3.5-4B", _MTP),
    _draft("Qwen/Qwen3.5-122B-A10B-FP8", _MTP, tensor_parallel_size=4),
    _draft("zai-org/GLM-4.5-Air", _MTP, tensor_parallel_size=4),
    _draft("zai-org/GLM-4.5", _MTP, tensor_parallel_size=8),
    _draft("zai-org/GLM-4.7-Flash", _MTP, tensor_parallel_size=2),
    _draft("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8", _MTP, tensor_parallel_size=4),
    _draft("XiaomiMiMo/MiMo-7B-RL", _MTP),
    _draft("meta-llama/Llama-3.2-3B-Instruct", _eagle3(), (*_HEAD, "embed_tokens"), pipeline_parallel_size=2),
    _draft("zai-org/GLM-4.5-Air", {**_MTP, "num_speculative_tokens": 3}, quantization="fp8", tensor_parallel_size=2),
    _draft("Qwen/Qwen3.5-4B", _MTP, pipeline_parallel_size=2),
    _draft(LLAMA, _MTP),
    _draft("moonshotai/Kimi-K2-Instruct-0905", _MTP, tensor_parallel_size=8),
    _draft(LLAMA, {"model": "Qwen/Qwen3-0.6B", "num_speculative_tokens": 3}),
    _draft(LLAMA, _eagle3(draft_tensor_parallel_size=2), tensor_parallel_size=4),
    _draft(LLAMA, _eagle3(tensor_parallel_size=1)),
]
