"""What vLLM refuses whatever the memory, and why: one entry per rule, with vLLM's own message.

Rules that belong to one layer's sharding or to one quantization's layout live there (planner/model/modules.py,
planner/memory/quantization) and raise the same Refusal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from planner.engine.args import OTHER_CHOICES, flag_of, unknown_to
from planner.engine.backends import BACKENDS
from planner.engine.defaults import Engine
from planner.engine.version import parse_version
from planner.errors import Refusal
from planner.hardware.catalogue import Gpu
from planner.memory.quantization import Quantization
from planner.memory.quantization.schemes import Fp8
from planner.model.architecture import Model
from planner.model.modules import Experts, Linear, Placement

Rule = Callable[[Model, Gpu, Engine, Quantization | None], None]


def check(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    """Raise the Refusal of the first rule that this launch breaks, in the order in which vLLM would raise."""
    for rule in RULES:
        rule(model, gpu, engine, quantization)


_OURS_TOO = frozenset({"kv_cache_memory_bytes"})
"""Also what the environment's VLLM_CPU_KVCACHE_SPACE, or the memory that a log says was left, is called here."""


def _unknown_flags(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    """The command line's own refusal, before any config is read; the LLM class warns of some and goes on."""
    for name in engine.args if engine.usage == "server" else ():
        why = unknown_to(name, engine.vllm_version)
        if why is not None and name not in _OURS_TOO:
            flag = flag_of(name)
            raise Refusal(
                "unknown_flag",
                f"vllm: error: unrecognized arguments: {flag}; vLLM {engine.vllm_version} does not have this flag "
                f"({why}).",
                flag,
            )


def _unknown_choices(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    """Values that a flag took in older versions."""
    for name, values in OTHER_CHOICES.items():
        value = engine.args.get(name)
        gone = values.get(value) if isinstance(value, str) else None
        if gone is not None and engine.vllm_version >= gone:
            message = f"vllm: error: argument {flag_of(name)}: invalid choice: '{value}'"
            raise Refusal("invalid_choice", f"{message} (gone since {gone[0]}.{gone[1]}).", flag_of(name))


_BACKENDS_BESIDE = frozenset(
    """AMX_MLA B12X CPU_ATTN CPU_MLA CUSTOM CUTLASS_MSA FLASHINFER_MLA_SPARSE_DSV4 FLASHINFER_MLA_SPARSE_DSV41
    FLASHMLA_MEGA_ATTN_DSV41 FLASHMLA_SPARSE_DSV4 FLASHMLA_SPARSE_DSV41 FLASH_ATTN_DIFFKV HPC_ATTN IPEX NO_ATTENTION
    PALLAS ROCM_AITER_FA ROCM_AITER_MLA ROCM_AITER_MLA_SPARSE ROCM_AITER_TRITON_MLA ROCM_AITER_UNIFIED_ATTN
    ROCM_ATTN ROCM_FLASHMLA_SPARSE_DSV4 ROCM_SEGMENTED_ATTN TORCH_SDPA TREE_ATTN TRITON_ATTN_DIFFKV TRITON_MSA
    ULTRAQUANT XFORMERS XPU_MLA_SPARSE""".split()
)
"""Those of v1/attention/backends/registry.py (0.32), and older ones, that planner/engine/backends does not describe: on
CUDA the layers are then taken to get what vLLM would choose by itself."""


def _attention_backend(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    """v1/attention/backends/registry.py (0.32)."""
    valid = _BACKENDS_BESIDE | BACKENDS.keys()
    if engine.attention_backend is not None and engine.attention_backend not in valid:
        raise Refusal(
            "attention_backend_unknown",
            f"Unknown attention backend: '{engine.attention_backend}'. Valid options are: {', '.join(sorted(valid))}",
            "--attention-backend",
        )


def _offload_groups(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    """config/offload.py (0.17 to 0.33)."""
    group, taken = engine.args.get("offload_group_size", 0), engine.args.get("offload_num_in_group", 1)
    if (group > 0 or engine.args.get("offload_backend") == "prefetch") and taken > group:
        raise Refusal(
            "offload_num_in_group",
            f"offload_num_in_group ({taken}) must be <= offload_group_size ({group})",
            "--offload-num-in-group" if group else "--offload-group-size",
        )


def _heads(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    heads, tp = model.num_attention_heads, engine.tensor_parallel_size
    if heads % tp:
        raise Refusal(
            "heads_not_divisible",
            f"Total number of attention heads ({heads}) must be divisible by tensor parallel size ({tp}).",
            "--tensor-parallel-size",
        )


def _layers(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    if engine.pipeline_parallel_size > len(model.layers):
        raise Refusal(
            "pp_exceeds_layers",
            f"pipeline parallel size ({engine.pipeline_parallel_size}) is larger than the number of layers "
            f"({len(model.layers)}).",
            "--pipeline-parallel-size",
        )


def _capability(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    if gpu.capability is not None and gpu.capability < 70:
        raise Refusal(
            "gpu_too_old", f"vLLM needs compute capability 7.0 or higher; {gpu.name} has {gpu.capability / 10}.", None
        )


def _quantization_capability(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    """config/vllm.py _get_quantization_config (0.33)."""
    if quantization is None or gpu.capability is None or gpu.capability >= quantization.min_capability:
        return
    raise Refusal(
        "quantization_needs_capability",
        f"The quantization method {quantization.name} is not supported for the current GPU. Minimum capability: "
        f"{quantization.min_capability}. Current capability: {gpu.capability}.",
        "--quantization",
    )


def _architecture(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    """models/registry.py: what this version knows no more, or not yet.

    What has no class of its own can still run through Transformers where it is plain; experts, recurrent layers and
    towers cannot in the versions before theirs.
    """
    last = _architectures()["last_in"].get(model.architecture)
    if last is not None and engine.vllm_version > parse_version(last):
        raise Refusal(
            "architecture_gone",
            f"Model architecture {model.architecture} was supported in vLLM until v{last}, and is not supported "
            "anymore. Please use an older version of vLLM if you want to use this model architecture.",
        )
    absent = _architectures()["not_yet_in"].get(model.architecture)
    special = model.is_moe or model.is_hybrid or model.is_multimodal
    if absent is not None and special and engine.vllm_version <= parse_version(absent):
        raise Refusal(
            "architecture_unknown_to_version",
            f"Model architectures ['{model.architecture}'] are not supported for now.",
        )


@cache
def _architectures() -> dict[str, dict[str, str]]:
    """Made by tools/make_architectures.py from vLLM's wheels."""
    path = Path(__file__).parent / "data" / "architectures.json"
    table: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return table


def _quantization_version(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    if quantization is not None:
        quantization.check_version(engine.vllm_version)


def _quantization_dtype(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    """config/vllm.py _get_quantization_config (0.33)."""
    if quantization is None or engine.dtype in quantization.dtypes:
        return
    taken = ", ".join(f"torch.{dtype}" for dtype in quantization.dtypes)
    raise Refusal(
        "quantization_dtype",
        f"torch.{engine.dtype} is not supported for quantization method {quantization.name}. Supported dtypes: "
        f"[{taken}]",
        "--dtype",
    )


_EXPERTS_UNSEEN = frozenset({"DbrxForCausalLM"})
"""Their experts' count stands under a key that vLLM's get_num_experts does not read."""
_EXPERTS_IMAGINED = frozenset({"NemotronHForCausalLM"})
"""Their config class has a count of experts even where no layer has any."""


def _expert_parallel(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    """config/model.py _verify_with_expert_parallelism (0.33)."""
    experts = (model.is_moe and model.architecture not in _EXPERTS_UNSEEN) or model.architecture in _EXPERTS_IMAGINED
    if engine.enable_expert_parallel and not experts:
        raise Refusal(
            "expert_parallel_without_experts",
            "Number of experts in the model must be greater than 0 when expert parallelism is enabled.",
            "--enable-expert-parallel",
        )


_METHODS_SINCE: Mapping[str, tuple[int, int]] = {
    "modelopt_fp4": (0, 9),
    "mxfp4": (0, 10),
    "inc": (0, 10),
    "fp_quant": (0, 11),
    "modelopt_mxfp8": (0, 16),
    "modelopt_mixed": (0, 17),
    "mxfp8": (0, 19),
    "online": (0, 20),
    "fp8_per_tensor": (0, 20),
    "fp8_per_block": (0, 20),
    "int8_per_channel_weight_only": (0, 20),
    "humming": (0, 20),
    "auto_gptq": (0, 22),
    "auto_awq": (0, 24),
    "fp8_per_channel": (0, 24),
    "nvfp4_per_token": (0, 26),
}
"""The first minor version whose QuantizationMethods (layers/quantization/__init__.py of the wheels) has the name."""


def _quantization_not_yet(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    if quantization is None or quantization.assumed:
        return
    named = engine.quantization or quantization.parameters.get("quant_method")
    since = _METHODS_SINCE.get(str(named))
    if since is not None and engine.vllm_version < since:
        raise Refusal("unknown_quantization", f"Unknown quantization method: {named}.", "--quantization")


_ON_ROCM = frozenset(
    "awq awq_marlin auto_awq gptq gptq_marlin auto_gptq fp8 deepseek_v4_fp8 compressed-tensors fbgemm_fp8 inc gguf "
    "quark ptpc_fp8 petit_nvfp4 mxfp4 gpt_oss_mxfp4 mxfp8 torchao bitsandbytes modelopt modelopt_fp4 modelopt_mxfp8 "
    "modelopt_mixed fp8_per_tensor fp8_per_block fp8_per_channel online none".split()
)
"""RocmPlatform.supported_quantization (platforms/rocm.py, 0.32), what earlier versions had besides, and no method."""


def _quantization_platform(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    """platforms/interface.py verify_quantization (0.32)."""
    if quantization is None or gpu.kind != "rocm":
        return
    named = str(engine.quantization or quantization.name)
    if named not in _ON_ROCM:
        message = f"{named} quantization is currently not supported in rocm."
        raise Refusal("quantization_platform", message, "--quantization")


_FP8_ARCHITECTURES = ("gfx94", "gfx95", "gfx12")
"""platforms/rocm.py supports_fp8 (0.32)."""


def _fp8_on_rocm(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    """kernels/linear/__init__.py: without fp8 in hardware, only weights scaled in blocks have a kernel (0.32)."""
    architecture = gpu.compute_capability or ""
    if quantization is None or gpu.kind != "rocm" or architecture.startswith(_FP8_ARCHITECTURES):
        return
    for layer, index in {layer: index for index, layer in enumerate(model.layers)}.items():
        at = Placement(quantization=quantization, dtype=engine.dtype, prefix=f"{model.layer_prefix}{index}.")
        for module in layer.quantizable:
            scheme = at.scheme(module)
            if not isinstance(scheme, Fp8):
                continue
            if isinstance(module, Linear) and scheme.scales != "block":
                message = "Failed to find a kernel that can implement the ScaledMM linear layer."
                raise Refusal("quantization_needs_fp8", f"{message} {gpu.name} has no fp8.", "--quantization")
            if isinstance(module, Experts) and architecture.startswith("gfx11"):
                message = "No FP8 MoE backend supports the deployment configuration."
                raise Refusal("quantization_needs_fp8", message, "--quantization")


def _context_parallel(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    """config/parallel.py _validate_parallel_config (0.10.2 to 0.33)."""
    tp, dcp = engine.tensor_parallel_size, engine.decode_context_parallel_size
    if tp % dcp:
        raise Refusal(
            "dcp_not_divisible", f"tp_size={tp} must be divisible by dcp_size={dcp}.", "--decode-context-parallel-size"
        )
    if dcp > 1 and model.is_pooling and not model.states:
        raise Refusal(  # where keys and values are cached: planner/memory/kv_cache/legal.py
            "dcp_needs_tp",
            f"Decode context parallelism for GQA/MQA requires `--tensor-parallel-size` ({tp}) to be greater than the "
            f"model's total number of KV heads ({model.num_attention_heads}). Increase `--tensor-parallel-size` or set "
            "`--decode-context-parallel-size 1`.",
            "--decode-context-parallel-size",
        )


def _kv_cache_bfloat16(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    """v1/attention/backends/triton_attn.py (0.32), the only backend of these cards."""
    if engine.kv_cache_dtype == "bfloat16" and gpu.capability is not None and gpu.capability < 80:
        raise Refusal(
            "kv_cache_bfloat16",
            f"bfloat16 KV cache is not supported on {gpu.name} (compute capability {gpu.capability / 10}); bfloat16 "
            "requires SM80+. Re-run with --kv-cache-dtype float16.",
            "--kv-cache-dtype",
        )


def _expert_balancing(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    """config/parallel.py _validate_parallel_config (0.33)."""
    if not engine.args.get("enable_eplb"):
        return
    if not engine.enable_expert_parallel:
        raise Refusal("eplb_needs_ep", "enable_expert_parallel must be True to use EPLB.", "--enable-eplb")
    if engine.tensor_parallel_size == engine.data_parallel_size == 1:
        raise Refusal(
            "eplb_needs_ranks",
            "EPLB requires tensor, prefill-context, or data parallelism, but got "
            f"TP={engine.tensor_parallel_size}, PCP=1, DP={engine.data_parallel_size}.",
            "--enable-eplb",
        )


_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""config/lora.py MaxLoRARanks (0.8.5 to 0.33), to which 0.11 added 1."""


def _lora(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    """config/lora.py LoRAConfig (0.33)."""
    if not engine.args.get("enable_lora"):
        return
    new = engine.vllm_version >= (0, 11)
    rank, loras = engine.args.get("max_lora_rank", 16), engine.args.get("max_loras", 1)
    if rank not in _LORA_RANKS and not (new and rank == 1):
        message = (
            f"max_lora_rank: Input should be 1, {', '.join(map(str, _LORA_RANKS[:-1]))} or {_LORA_RANKS[-1]}"
            if new
            else f"max_lora_rank ({rank}) must be one of {_LORA_RANKS}."
        )
        raise Refusal("lora_rank", message, "--max-lora-rank")
    on_host = engine.args.get("max_cpu_loras")
    if on_host is not None and on_host < loras:
        raise Refusal("max_cpu_loras", f"max_cpu_loras ({on_host}) must be >= max_loras ({loras}).", "--max-cpu-loras")


_NOT_ASYNC = frozenset({"ngram", "suffix", "medusa", "mlp_speculator"})


def _speculation(model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None) -> None:
    """config/speculative.py _verify_args (0.33); what makes no sense at all is wrong input (memory/draft.py)."""
    config = engine.args.get("speculative_config")
    if not isinstance(config, Mapping):
        return
    if engine.args.get("async_scheduling") and engine.vllm_version >= (0, 14) and config.get("method") in _NOT_ASYNC:
        raise Refusal(
            "async_speculation",
            "Currently, async scheduling is only supported with EAGLE/MTP/Draft Model/NGram GPU/DSpark/DFlash kind of "
            "speculative decoding",
            "--async-scheduling",
        )
    low, high = config.get("prompt_lookup_min"), config.get("prompt_lookup_max")
    if isinstance(low, int) and isinstance(high, int) and low > high:
        raise Refusal(
            "prompt_lookup", f"prompt_lookup_min={low} must be <= prompt_lookup_max={high}", "--speculative-config"
        )


RULES: tuple[Rule, ...] = (
    _unknown_flags,
    _unknown_choices,
    _attention_backend,
    _offload_groups,
    _capability,
    _architecture,
    _heads,
    _expert_parallel,
    _layers,
    _context_parallel,
    _kv_cache_bfloat16,
    _expert_balancing,
    _lora,
    _speculation,
    _quantization_version,
    _quantization_not_yet,
    _quantization_platform,
    _fp8_on_rocm,
    _quantization_capability,
    _quantization_dtype,
)
