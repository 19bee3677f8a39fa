"""What make_lora_draft.py asks vLLM: models with LoRA slots, and targets with a draft. Imports nothing."""

from __future__ import annotations

from typing import Any


def _lora(model: str, **args: Any) -> dict[str, Any]:
    return {"model": model, "args": args}


LLAMA, QWEN25, QWEN3_MOE = "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen3-30B-A3B"

LORAS: list[dict[str, Any]] = [
    _lora(LLAMA),
    _lora(LLAMA, tensor_parallel_size=2, max_lora_rank=64, max_loras=4),
    _lora(QWEN25, tensor_parallel_size=2, max_lora_rank=64, fully_sharded_loras=True),
    _lora(QWEN3_MOE, tensor_parallel_size=2),
]


def _draft(model: str, spec: dict[str, Any], own: tuple[str, ...] = (), **args: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model, "args": {**args, "speculative_config": spec}}
    return row | {"own": list(own)} if own else row


CONFIGS: dict[str, dict[str, Any]] = {
    "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B": {
        "architectures": ["LlamaForCausalLMEagle3"],
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 2048,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 1,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.28.1",
        "use_cache": True,
        "vocab_size": 128256,
        "draft_vocab_size": 32000,
    },
}

EAGLE3 = "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B"
DRAFTS: list[dict[str, Any]] = [
    _draft(LLAMA, {"model": "meta-llama/Llama-3.2-1B-Instruct", "num_speculative_tokens": 3}),
    _draft(LLAMA, {"method": "eagle3", "model": EAGLE3, "num_speculative_tokens": 3}, ("lm_head",)),
    _draft("deepseek-ai/DeepSeek-V3", {"method": "mtp", "num_speculative_tokens": 1}, tensor_parallel_size=8),
    _draft("Qwen/Qwen3-Next-80B-A3B-Instruct", {"method": "mtp", "num_speculative_tokens": 2}, tensor_parallel_size=4),
    _draft("zai-org/GLM-4.5-Air", {"method": "mtp", "num_speculative_tokens": 1}, tensor_parallel_size=4),
]
