"""The attention backends, each as vLLM's class in v1/attention/backends declares it (0.33)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from planner.engine.backends.backend import FLOATS, FP8, PLAIN, TURBOQUANT, Backend, Query

# --- FlashAttention ------------------------------------------------------------------------------------------------


def flash_attn_version(query: Query, head_size: int | None = None) -> int:
    """2, 3 or 4: the FlashAttention that serves this layer (v1/attention/backends/fa_utils.py, 0.33)."""
    version = query.flash_attn_version or {9: 3, 10: 4}.get(query.major, 2)
    if version == 3 and query.major == 9 and head_size is not None and head_size > 256:
        version = 4
    if version == 4 and _is_fa4_256(query, head_size) and _fa4_256_refuses(query):
        version = 2
    wide = head_size is not None and head_size > 128 and not _is_fa4_256(query, head_size)
    return 2 if version == 4 and query.major >= 10 and wide else version


def _is_fa4_256(query: Query, head_size: int | None) -> bool:
    """FA4's own kernel for head size 256 on Blackwell, with 128-token pages."""
    return head_size == 256 and query.head_size_v in (None, 256) and query.major in (10, 11)


def _fa4_256_refuses(query: Query) -> bool:
    odd_block = query.block_size is not None and query.block_size % 128 != 0
    return query.sinks or query.softcap or query.quantized or odd_block or query.mm_prefix or query.dcp > 1


def _fa_takes_fp8(query: Query, head_size: int | None) -> bool:
    version = flash_attn_version(query, head_size)
    if query.major == 9:
        return version == 3 or (version == 4 and head_size in (None, 512))
    return version == 4 and query.major == 10


def _fa_kv(query: Query) -> bool:
    if query.kv_cache_dtype not in (*PLAIN, *FP8):
        return False
    return not query.quantized or _fa_takes_fp8(query, None)


def _fa_check(query: Query) -> str | None:
    if query.sinks and query.major < 9:
        return "sink not supported on compute capability < 9.0"
    if query.mm_prefix and query.quantized and query.capability == 90:
        return "SM90 FP8 KV with mm_prefix requires Triton"
    if query.quantized and (query.kv_cache_dtype == "fp8_e5m2" or not _fa_takes_fp8(query, query.head_size)):
        return "FP8 KV cache requires FA3 on SM90, FA4 with head_size=512 on SM90, or FA4 on SM100"
    if query.mm_prefix and flash_attn_version(query, query.head_size) != 4:
        return (
            "mm_prefix (PrefixLM bidirectional attention) requires FlashAttention v4, which does not resolve "
            "for this head_size"
        )
    return None


def _fa_sizes(query: Query) -> tuple[int, ...]:
    if query.major == 9 and query.kv_cache_dtype in FP8 and query.head_size == 512:
        return (64,)
    if _is_fa4_256(query, query.head_size) and flash_attn_version(query, query.head_size) == 4:
        return (128,)
    return (16,)


def _fa_preferred(query: Query, default: int) -> int | None:
    size = _fa_sizes(query)[0]
    return max(default, size) if size > 16 else None


# --- FlashInfer ----------------------------------------------------------------------------------------------------


def _flashinfer_kv(query: Query) -> bool:
    name = query.kv_cache_dtype
    if not name.startswith("nvfp4"):
        return name in (*PLAIN, *FP8, "fp8_e5m2")
    return name == "nvfp4" if query.major in (8, 9, 12) else query.major == 10


def _flashinfer_check(query: Query) -> str | None:
    if not query.kv_cache_dtype.startswith("nvfp4") or query.major not in (8, 9, 12):
        return None
    if query.head_size == 64:
        return "fa2 prefill misreads an NVFP4 KV cache at head_size 64"
    return "the sink prefill wrapper cannot read an NVFP4 KV cache" if query.sinks else None


def _flashinfer_sizes(query: Query) -> tuple[int, ...]:
    """Larger pages where TensorRT-LLM's kernels serve grouped queries."""
    grouped = query.kv_heads > 0 and query.heads // query.kv_heads > 1 and query.heads % query.kv_heads == 0
    return (16, 32, 64, 128, 256, 512, 1024) if query.major == 10 and grouped else (16, 32, 64)


# --- MLA -----------------------------------------------------------------------------------------------------------


def _mla_heads(size: int) -> bool:
    return size in (320, 512, 576)


def _flashinfer_mla_check(query: Query) -> str | None:
    if query.nope in (64, 128, 192):
        return None
    return f"FlashInfer MLA kernel requires qk_nope_head_dim in [64, 128, 192], but got {query.nope}"


def _fa_mla_check(query: Query) -> str | None:
    return None if query.major == 9 else "FlashAttention MLA not supported on this device"


def _flashmla_check(query: Query) -> str | None:
    if query.sparse:
        if query.major in (9, 10):
            return None
        return "FlashMLA Sparse is only supported on Hopper and Blackwell DC devices."
    return None if query.major == 9 else "FlashMLA Dense is only supported on Hopper devices."


def _tokenspeed_check(_: Query) -> str | None:
    """vLLM does not depend on it."""
    return "tokenspeed_mla package is not installed. Install it with: `uv pip install tokenspeed-mla`"


def _fa_mla_sparse_check(query: Query) -> str | None:
    if query.quantized:
        return "FlashAttention MLA Sparse currently supports only FP16/BF16 KV cache"
    if query.major != 9:
        return "FlashAttention MLA not supported on this device"
    return "FlashAttention MLA Sparse does not support DCP for now" if query.dcp > 1 else None


def _flashmla_sparse_check(query: Query) -> str | None:
    if query.head_size == 512:
        if query.major == 9 and query.kv_cache_dtype in (*PLAIN, "fp8_ds_mla"):
            if query.rope != 0:
                return "FLASHMLA_SPARSE supports head_size 512 only for rope-free (NoPE) models"
        else:
            return (
                "FLASHMLA_SPARSE supports head_size 512 only with bf16 or fp8_ds_mla kv-cache on SM90 (NoPE), "
                f"got kv_cache_dtype={query.kv_cache_dtype}, capability={query.capability / 10}"
            )
    if query.kv_cache_dtype == "nvfp4_ds_mla" and query.major != 10:
        return "FLASHMLA_SPARSE only supports the nvfp4_ds_mla kv-cache dtype on SM100 (Blackwell)"
    return None


def _flashinfer_sparse_check(query: Query) -> str | None:
    if query.kv_cache_dtype == "fp8_ds_mla":
        return "FLASHINFER_MLA_SPARSE SM10 does not support fp8_ds_mla kv-cache dtype"
    if query.rope == 0:
        if query.nope != 256 or query.kv_lora_rank != 512:
            return (
                "FlashInfer native no-rope MLA requires qk_nope_head_dim=256 and kv_lora_rank=512, but got "
                f"qk_nope_head_dim={query.nope}, kv_lora_rank={query.kv_lora_rank}"
            )
    elif query.nope not in (128, 192):
        return f"FlashInfer MLA Sparse kernel requires qk_nope_head_dim in [128, 192], but got {query.nope}"
    return None


def _fa4_sparse_check(query: Query) -> str | None:
    if query.index_topk % 128:
        return f"FA4 sparse MLA requires index_topk % 128 == 0, got {query.index_topk}"
    dims = (query.kv_lora_rank, query.rope)
    if dims != (512, 64):
        return f"FA4 sparse MLA requires (kv_lora_rank, qk_rope_head_dim) == (512, 64), got {dims}"
    counts = (8, 16, 32, 64) if query.dcp > 1 else (8, 16, 32, 64, 128)
    if query.heads * query.dcp not in counts:
        return (
            f"FA4 sparse MLA requires {counts} gathered query heads, got num_heads={query.heads} * dcp_size={query.dcp}"
        )
    return _flashinfer_sparse_check(query)


def _sm90_sparse_check(query: Query) -> str | None:
    if query.kv_lora_rank != 512:
        return "FLASHINFER_MLA_SPARSE_SM90 requires kv_lora_rank=512"
    return None if query.rope in (0, 64) else "FLASHINFER_MLA_SPARSE_SM90 requires qk_rope_head_dim in (0, 64)"


def _sm120_sparse_check(query: Query) -> str | None:
    if query.dtype != "bfloat16":
        return "dtype not supported"
    if query.kv_cache_dtype not in ("auto", *FP8, "fp8_ds_mla"):
        return "kv_cache_dtype not supported"
    if query.index_topk != 2048:
        return f"FLASHINFER_MLA_SPARSE_SM120 requires index_topk=2048; got {query.index_topk}"
    return None


def _triton_on_old_gpu(name: str) -> Callable[[Query], str | None]:
    """Triton's fp8 needs Ada, its bfloat16 Ampere (v1/attention/backends/triton_attn.py, mla/triton_mla.py)."""

    def check(query: Query) -> str | None:
        where = f"on {query.device} (compute capability {query.capability // 10}.{query.capability % 10})"
        if query.fp8 and query.capability < 89 and query.version >= (0, 24):
            return (
                f"FP8 KV cache is not supported by the {name} backend {where}; native FP8 (fp8e4nv) requires SM89+. "
                f"Re-run with --kv-cache-dtype {'float16' if query.capability < 80 else 'bfloat16'}."
            )
        return None

    return check


_TO_DS_MLA = dict.fromkeys(("fp8", "fp8_e4m3", "fp8_e5m2", "fp8_ds_mla"), "fp8_ds_mla")


_FLASH_ATTN = Backend(
    name="FLASH_ATTN",
    heads=lambda size: size % 8 == 0,
    kv_check=_fa_kv,
    majors=(8, 9, 10, 11, 12),
    sinks=lambda q: flash_attn_version(q) in (3, 4),
    mm_prefix=lambda q: q.major in (9, 10, 11),
    sliding_window=True,
    sizes=_fa_sizes,
    preferred=_fa_preferred,
    check=_fa_check,
)
_FLASHINFER = Backend(
    name="FLASHINFER",
    heads=lambda size: size in (64, 128, 256, 512),
    kv_check=_flashinfer_kv,
    majors=(8, 9, 10, 11, 12),
    sinks=lambda q: q.major in (9, 10, 12),
    sliding_window=True,
    sizes=_flashinfer_sizes,
    exact=True,
    check=_flashinfer_check,
    layouts=lambda q: ("LBHNC", "BLHNC") if q.major == 10 else None,
)
_TRITON = Backend(
    name="TRITON_ATTN",
    dtypes=FLOATS,
    kv_dtypes=(
        *PLAIN,
        *FP8,
        "fp8_e5m2",
        "int4_per_token_head",
        "int8_per_token_head",
        "fp8_per_token_head",
    ),
    heads=lambda size: size >= 32,
    sinks=lambda _: True,
    mm_prefix=lambda _: True,
    sliding_window=True,
    implementation=_triton_on_old_gpu("Triton attention"),
)

BACKENDS = {
    backend.name: backend
    for backend in (
        _FLASH_ATTN,
        _FLASHINFER,
        _TRITON,
        Backend(
            name="FLEX_ATTENTION",
            dtypes=FLOATS,
            mm_prefix=lambda _: True,
            sliding_window=True,
            layouts=lambda _: ("LBNHC",),
        ),
        Backend(
            name="TURBOQUANT",
            kv_dtypes=TURBOQUANT,
            blocks=(16, 32, 64, 128),
            exact=True,
            layouts=lambda _: ("LBNHC",),
        ),
        Backend(
            name="FLASH_ATTN_MLA",
            majors=(9,),
            heads=_mla_heads,
            mla=True,
            check=_fa_mla_check,
        ),
        Backend(
            name="FLASHMLA",
            kv_dtypes=(*PLAIN, *FP8),
            blocks=(64,),
            exact=True,
            majors=(9, 10),
            heads=_mla_heads,
            mla=True,
            check=_flashmla_check,
        ),
        Backend(
            name="FLASHINFER_MLA",
            kv_dtypes=(*PLAIN, *FP8),
            blocks=(32, 64),
            exact=True,
            majors=(10,),
            heads=_mla_heads,
            mla=True,
            check=_flashinfer_mla_check,
        ),
        Backend(
            name="TOKENSPEED_MLA",
            kv_dtypes=FP8,
            blocks=(32, 64),
            exact=True,
            majors=(10,),
            heads=_mla_heads,
            mla=True,
            check=_tokenspeed_check,
        ),
        Backend(
            name="CUTLASS_MLA",
            kv_dtypes=(*PLAIN, *FP8),
            blocks=(128,),
            exact=True,
            majors=(10,),
            heads=_mla_heads,
            mla=True,
        ),
        Backend(
            name="TRITON_MLA",
            kv_dtypes=(*PLAIN, *FP8),
            mla=True,
            implementation=_triton_on_old_gpu("Triton MLA"),
        ),
        Backend(
            name="FLASH_ATTN_MLA_SPARSE",
            blocks=(64,),
            majors=(9,),
            mla=True,
            sparse=True,
            check=_fa_mla_sparse_check,
        ),
        Backend(
            name="FLASH_ATTN_MLA_SPARSE_FA4",
            dtypes=("bfloat16",),
            kv_dtypes=("auto", "bfloat16"),
            blocks=(64,),
            majors=(10,),
            heads=lambda size: size == 576,
            mla=True,
            sparse=True,
            check=_fa4_sparse_check,
        ),
        Backend(
            name="FLASHMLA_SPARSE",
            dtypes=("bfloat16",),
            kv_dtypes=("auto", "bfloat16", "fp8_ds_mla", "fp8", "nvfp4_ds_mla"),
            blocks=(64,),
            majors=(9, 10),
            heads=lambda size: size in (512, 576),
            mla=True,
            sparse=True,
            check=_flashmla_sparse_check,
            stored_as=_TO_DS_MLA,
        ),
        Backend(
            name="FLASHINFER_MLA_SPARSE",
            kv_dtypes=(*PLAIN, *FP8),
            blocks=(32,),
            majors=(10,),
            heads=lambda size: size in (512, 576),
            mla=True,
            sparse=True,
            check=_flashinfer_sparse_check,
        ),
        Backend(
            name="FLASHINFER_MLA_SPARSE_SM90",
            dtypes=("bfloat16",),
            kv_dtypes=("auto", "bfloat16", *FP8),
            blocks=(64,),
            majors=(9,),
            heads=lambda size: size in (512, 576),
            mla=True,
            sparse=True,
            check=_sm90_sparse_check,
        ),
        Backend(
            name="FLASHINFER_MLA_SPARSE_SM120",
            dtypes=("bfloat16",),
            kv_dtypes=("auto", *FP8, "fp8_ds_mla"),
            blocks=(64,),
            majors=(12,),
            heads=lambda size: size in (512, 576),
            mla=True,
            sparse=True,
            check=_sm120_sparse_check,
            stored_as={"auto": "fp8_ds_mla", "fp8": "fp8_ds_mla", "fp8_e4m3": "fp8_ds_mla"},
        ),
        # Caches without an attention of their own, and layers whose model names their backend itself.
        Backend(name="DEEPSEEK_V32_INDEXER", blocks=(64,), exact=True),
        Backend(name="MINIMAX_M3_SPARSE", blocks=(128,), exact=True),
        # Composites: image prefixes to Triton, the rest to the faster one.
        Backend(
            name="TRITON_FLASH_ATTN",
            heads=lambda size: size in (256, 512),
            kv_check=lambda q: q.kv_cache_dtype in (*PLAIN, *FP8) and _fa_kv(q),
            majors=(9,),
            sinks=lambda q: flash_attn_version(q) in (3, 4),
            mm_prefix=lambda _: True,
            sliding_window=True,
            sizes=_fa_sizes,
            check=lambda q: _causal(_fa_check, q),
        ),
        Backend(
            name="TRITON_FLASHINFER",
            heads=lambda size: size in (256, 512),
            kv_check=lambda q: q.kv_cache_dtype in (*PLAIN, *FP8, "fp8_e5m2"),
            majors=(10,),
            sinks=lambda q: q.major in (9, 10, 12),
            mm_prefix=lambda _: True,
            sliding_window=True,
            blocks=(64,),
            exact=True,
        ),
    )
}


def _causal(check: Callable[[Query], str | None], query: Query) -> str | None:
    """A composite's faster half never sees an image's prefix; what it refuses comes with its name."""
    reason = check(replace(query, mm_prefix=False))
    return None if reason is None else f"FLASH_ATTN: {reason}"
