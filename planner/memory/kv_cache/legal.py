"""KV cache flags that vLLM refuses before it looks for an attention backend: one entry per rule, with its own sentence.

Mirrors config/vllm.py _reject_mismatched_float_kv_cache and validate_nvfp4_kv_cache_with_mla, and config/model.py
verify_with_parallel_config (0.33). What a backend refuses is in planner/engine/backends.
"""

from __future__ import annotations

from collections.abc import Callable

from planner.engine.defaults import Engine
from planner.errors import Refusal
from planner.model.architecture import Model
from planner.model.attention import KVAttention, MLAttention

Check = Callable[[Model, Engine, str], Refusal | None]


def check(model: Model, engine: Engine, kv_cache_dtype: str) -> None:
    """Raise the first refusal, in the order in which vLLM would."""
    for since, rule in RULES:
        refusal = rule(model, engine, kv_cache_dtype) if engine.vllm_version >= since else None
        if refusal is not None:
            raise refusal


def _other_float(model: Model, engine: Engine, kv_cache_dtype: str) -> Refusal | None:
    if kv_cache_dtype not in ("float16", "bfloat16") or kv_cache_dtype == engine.dtype:
        return None
    allowed = f"`auto` or `{engine.dtype}`" if engine.dtype in ("float16", "bfloat16") else "`auto`"
    return Refusal(
        "kv_cache_dtype_mismatch",
        f'kv_cache_dtype="{kv_cache_dtype}" is incompatible with dtype="{engine.dtype}". '
        f"Please set `--kv-cache-dtype` to {allowed}.",
        "--kv-cache-dtype",
    )


def _nvfp4_with_mla(model: Model, engine: Engine, kv_cache_dtype: str) -> Refusal | None:
    if not kv_cache_dtype.startswith("nvfp4") or kv_cache_dtype.endswith("_ds_mla") or not _uses_mla(model):
        return None
    return Refusal(
        "kv_cache_dtype_needs_attention",
        "nvfp4 KV cache is not supported with MLA (Multi-head Latent Attention) backends. Please use a different "
        "--kv-cache-dtype (e.g., 'fp8', 'auto', or 'nvfp4_ds_mla' with a sparse MLA backend) for MLA models such as "
        "DeepSeek.",
        "--kv-cache-dtype",
    )


def _on_cpu(model: Model, engine: Engine, kv_cache_dtype: str) -> Refusal | None:
    """platforms/cpu.py get_attn_backend_cls; fp8 needs AVX-512 or AMX, which is not known here."""
    plain = kv_cache_dtype in ("auto", "bfloat16", "float16")
    mla = _uses_mla(model)
    if not engine.on_cpu or plain or (kv_cache_dtype in ("fp8", "fp8_e4m3", "fp8_e5m2") and not mla):
        return None
    where = "MLA attention on CPU." if mla else "the CPU attention backend on this host."
    return Refusal(
        "kv_cache_dtype_needs_attention",
        f"--kv-cache-dtype {kv_cache_dtype} is not supported by {where}",
        "--kv-cache-dtype",
    )


def _alibi_with_fp8(model: Model, engine: Engine, kv_cache_dtype: str) -> Refusal | None:
    """FlashAttention 2 has to do what FlashAttention 3 cannot (ALiBi), and has no fp8 (fa_utils.py)."""
    if engine.capability != 90 or not kv_cache_dtype.startswith("fp8"):
        return None
    if not any(module.name.endswith("alibi_slopes") for layer in model.layers for module in layer.modules):
        return None
    return Refusal(
        "kv_cache_dtype_needs_attention",
        "FlashAttention does not support fp8 kv-cache on this device.",
        "--kv-cache-dtype",
    )


def _context_parallel(model: Model, engine: Engine, kv_cache_dtype: str) -> Refusal | None:
    dcp, tp = engine.decode_context_parallel_size, engine.tensor_parallel_size
    if dcp == 1 or _uses_mla(model):
        return None
    kv_heads = max((state.kv_heads for state in model.states if isinstance(state, KVAttention)), default=0)
    if not model.states:
        kv_heads = model.num_attention_heads  # an encoder, which caches nothing but has heads
    if not kv_heads:
        return None
    flag, per_kv = "--decode-context-parallel-size", model.num_attention_heads // kv_heads
    if tp <= kv_heads:
        return Refusal(
            "dcp_needs_tp",
            f"Decode context parallelism for GQA/MQA requires `--tensor-parallel-size` ({tp}) to be greater than the "
            f"model's total number of KV heads ({kv_heads}). Increase `--tensor-parallel-size` or set "
            "`--decode-context-parallel-size 1`.",
            flag,
        )
    if dcp > tp // kv_heads:
        return Refusal(
            "dcp_too_large",
            f"`--decode-context-parallel-size` ({dcp}) exceeds the maximum supported value ({tp // kv_heads}) for "
            f"`--tensor-parallel-size` ({tp}) and {kv_heads} model KV heads.",
            flag,
        )
    if per_kv % dcp:
        return Refusal(
            "dcp_not_divisible",
            f"The model's number of query heads per KV head ({per_kv}) must be divisible by "
            f"`--decode-context-parallel-size` ({dcp}) for GQA/MQA.",
            flag,
        )
    return None


def _uses_mla(model: Model) -> bool:
    return MLAttention in model.state_kinds


def _context_parallel_windows(model: Model, engine: Engine, kv_cache_dtype: str) -> Refusal | None:
    """v1/kv_cache_interface.py SlidingWindowSpec."""
    windowed = any(isinstance(state, KVAttention) and state.sliding_window for state in model.states)
    if engine.decode_context_parallel_size == 1 or not windowed:
        return None
    return Refusal("dcp_sliding_window", "DCP not support sliding window.", "--decode-context-parallel-size")


RULES: tuple[tuple[tuple[int, ...], Check], ...] = (
    ((0, 10), _context_parallel),
    ((0, 10), _context_parallel_windows),
    ((0, 24), _nvfp4_with_mla),
    ((0, 33), _other_float),
    ((0, 20), _on_cpu),
    ((0, 9), _alibi_with_fp8),
)
"""(first version, rule)."""
