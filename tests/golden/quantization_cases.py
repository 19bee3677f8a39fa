"""Small questions to vLLM about how it stores quantized layers: two layers of a few models in every format. Pure data.

quantization.jsonl.gz holds vLLM's answers; make_quantization.py asks again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

LAYERS = 2

BASES = {
    "L8": "meta-llama/Llama-3.1-8B-Instruct",
    "Q05": "Qwen/Qwen2.5-0.5B-Instruct",  # odd sizes, biases, a tied head
    "M30": "Qwen/Qwen3-30B-A3B",
    "MX": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "DS": "deepseek-ai/DeepSeek-V2-Lite",  # MLA, shared experts, sizes that are no multiple of 128
    "OSS": "openai/gpt-oss-20b",  # biases on the experts
}

_ROUTERS = ["re:.*mlp.gate$", "re:.*block_sparse_moe.gate$", "re:.*shared_expert_gate$", "re:.*router$"]


def _ct(
    weights: Mapping[str, Any],
    inputs: Mapping[str, Any] | None = None,
    *,
    form: str,
    ignore: tuple[str, ...] = ("lm_head",),
    kv: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": [*ignore, *_ROUTERS],
        "kv_cache_scheme": kv,
        "quantization_status": "compressed",
    }


def _args(
    bits: int, kind: str = "int", strategy: str = "group", group: int | None = None, **more: Any
) -> dict[str, Any]:
    plain = {"num_bits": bits, "type": kind, "strategy": strategy, "group_size": group}
    return {**plain, "symmetric": True, "dynamic": False, "actorder": None, "block_structure": None, **more}


def _packed(
    bits: int, group: int | None = None, inputs: Mapping[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    return _ct(_args(bits, "int", "group" if group else "channel", group, **more), inputs, form="pack-quantized")


_TOKEN8 = _args(8, "int", "token", dynamic=True)
_TOKEN_FP8 = _args(8, "float", "token", dynamic=True)
_BLOCK_FP8 = _args(8, "float", "block", block_structure=[128, 128])
_FP4 = _args(4, "float", "tensor_group", 16)
_MX = {"scale_dtype": "torch.uint8"}
_GPTQ_ROUTERS: dict[str, dict[str, Any]] = {
    r"-:.*mlp\.gate$": {},
    r"-:.*block_sparse_moe\.gate$": {},
    r"-:.*shared_expert_gate$": {},
}


def _gptq(bits: int = 4, group: int = 128, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False, "sym": True, **more}


def _awq(
    group: int = 128, *, zero_point: bool = True, skip: tuple[str, ...] | None = None, **more: Any
) -> dict[str, Any]:
    skip = ("lm_head", "mlp.gate.", "block_sparse_moe.gate", "shared_expert_gate") if skip is None else skip
    plain = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": zero_point, "version": "gemm"}
    return {**plain, "modules_to_not_convert": [*skip], **more}


def _modelopt(algo: str, **more: Any) -> dict[str, Any]:
    ignore = ["lm_head", "*.mlp.gate", "*block_sparse_moe.gate", "*shared_expert_gate", "*router"]
    return {"quant_method": "modelopt", "quant_algo": algo, "ignore": ignore, "producer": {"name": "modelopt"}, **more}


def _fp8(scheme: str, **more: Any) -> dict[str, Any]:
    gates = ("mlp.gate", "block_sparse_moe.gate", "mlp.shared_expert_gate")
    kept = ["lm_head", *(f"model.layers.{i}.{gate}" for i in range(LAYERS) for gate in gates)]
    return {"quant_method": "fp8", "activation_scheme": scheme, "modules_to_not_convert": kept, **more}


_NVFP4_GROUP = {
    "weights": {"num_bits": 4, "type": "float", "group_size": 16},
    "input_activations": {"num_bits": 4, "type": "float", "group_size": 16, "dynamic": False},
    "targets": ["Linear"],
}
_DYNAMIC = {r"+:.*\.0\..*": {"bits": 8}, r"+:.*\.1\..*": {"group_size": 64}, r"-:.*o_proj": {}}

CHECKPOINTS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "fp8_dyn": _fp8("dynamic"),
    "fp8_static": _fp8("static"),
    "fp8_block": _fp8("dynamic", weight_block_size=[128, 128]),
    "ct_fp8_chan": _ct(_args(8, "float", "channel"), _TOKEN_FP8, form="float-quantized"),
    "ct_fp8_tensor": _ct(_args(8, "float", "tensor"), _args(8, "float", "tensor"), form="float-quantized"),
    "ct_fp8_tensor_dyn": _ct(_args(8, "float", "tensor"), _TOKEN_FP8, form="float-quantized"),
    "ct_fp8_block": _ct(_BLOCK_FP8, _args(8, "float", "group", 128, dynamic=True), form="float-quantized"),
    "ct_fp8_w8a16": _ct(_args(8, "float", "channel"), form="float-quantized"),
    "ct_int8": _ct(_args(8, "int", "channel"), _TOKEN8, form="int-quantized"),
    "ct_int8_static": _ct(_args(8, "int", "channel"), _args(8, "int", "tensor"), form="int-quantized"),
    "ct_int8_asym": _ct(_args(8, "int", "channel"), {**_TOKEN8, "symmetric": False}, form="int-quantized"),
    "ct_int8_tensor": _ct(_args(8, "int", "tensor"), _args(8, "int", "tensor"), form="int-quantized"),
    "ct_w4a16": _packed(4, 128),
    "ct_w4a16_g32": _packed(4, 32),
    "ct_w4a16_g64": _packed(4, 64),
    "ct_w4a16_chan": _packed(4),
    "ct_w4a16_asym": _packed(4, 128, symmetric=False),
    "ct_w8a16": _packed(8, 128),
    "ct_w8a16_chan": _packed(8),
    "ct_w4a16_head": _ct(_args(4, group=128), form="pack-quantized", ignore=()),
    "ct_w4a16_kv": _ct(_args(4, group=128), form="pack-quantized", kv=_args(8, "float", "tensor")),
    "ct_w4a8_int": _packed(4, 128, _TOKEN8),
    "ct_w4a8_fp8": _packed(4, 128, _TOKEN_FP8),
    "ct_nvfp4": _ct(_FP4, {**_FP4, "dynamic": "local"}, form="nvfp4-pack-quantized"),
    "ct_nvfp4a16": _ct(_FP4, form="nvfp4-pack-quantized"),
    "ct_mxfp4": _ct(_args(4, "float", "group", 32, **_MX), form="mxfp4-pack-quantized"),
    "ct_mxfp4_a": _ct(
        _args(4, "float", "group", 32, **_MX),
        _args(4, "float", "group", 32, dynamic=True, **_MX),
        form="mxfp4-pack-quantized",
    ),
    "ct_mxfp8": _ct(
        _args(8, "float", "group", 32, **_MX),
        _args(8, "float", "group", 32, dynamic=True, **_MX),
        form="mxfp8-quantized",
    ),
    "awq": _awq(),
    "awq_g64": _awq(64),
    "awq_g32": _awq(32),
    "awq_nozp": _awq(zero_point=False),
    "awq_head": _awq(skip=("mlp.gate.",), lm_head=True),
    "awq_noskip": _awq(skip=()),
    "gptq4": _gptq(dynamic=_GPTQ_ROUTERS),
    "gptq4_g32": _gptq(4, 32, dynamic=_GPTQ_ROUTERS),
    "gptq4_g64": _gptq(4, 64, dynamic=_GPTQ_ROUTERS),
    "gptq4_chan": _gptq(4, -1, dynamic=_GPTQ_ROUTERS),
    "gptq8": _gptq(8, dynamic=_GPTQ_ROUTERS),
    "gptq8_chan": _gptq(8, -1, dynamic=_GPTQ_ROUTERS),
    "gptq_head": _gptq(lm_head=True),
    "gptq_nodyn": _gptq(),
    "gptq_dyn": _gptq(dynamic=_DYNAMIC),
    "mo_fp8": _modelopt("FP8"),
    "mo_fp8_pc": _modelopt("FP8_PER_CHANNEL_PER_TOKEN"),
    "mo_fp8_pb": _modelopt("FP8_PB_WO"),
    "mo_nvfp4": _modelopt("NVFP4", config_groups={"group_0": _NVFP4_GROUP}),
    "mo_w4a16": _modelopt("W4A16_NVFP4", group_size=16),
    "mo_mxfp8": _modelopt("MXFP8"),
    "mxfp4": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head", "re:.*gate"]},
    "ossq": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    },
}
"""quantization_config by name."""

ONLINE = (
    "fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "int8_per_channel_weight_only", "mxfp8",
    "nvfp4_per_token", "experts_int8", "awq",
)  # fmt: skip

# Errors that say something about asking without a GPU, not about what vLLM does on one.
HARNESS = ("scales must be on gpu", "0 active drivers", "FP8 KV cache is not supported")


def config_of(base: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
    """A model's config with two layers and this quantization_config."""
    config = copy.deepcopy({key: value for key, value in base.items() if key != "quantization_config"})
    config["num_hidden_layers"] = LAYERS
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][:LAYERS]
    if CHECKPOINTS.get(checkpoint):
        config["quantization_config"] = copy.deepcopy(CHECKPOINTS[checkpoint])
    return config
