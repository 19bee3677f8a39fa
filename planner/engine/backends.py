"""Which attention backend vLLM chooses for a layer, which block sizes it takes, and which --kv-cache-dtype is legal.

Mirrors platforms/cuda.py _get_backend_priorities and get_attn_backend_cls, v1/attention/backend.py
validate_configuration, and the backends' own declarations in v1/attention/backends (0.33). What older versions do
differently is in the entries' `since` and in _PRIORITIES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import lcm

from planner.engine.version import VllmVersion
from planner.errors import Refusal

_HALF = ("float16", "bfloat16")
_FLOATS = (*_HALF, "float32")
_PLAIN = ("auto", *_HALF)
_FP8 = ("fp8", "fp8_e4m3")
_TURBOQUANT = ("turboquant_k8v4", "turboquant_4bit_nc", "turboquant_k3v4_nc", "turboquant_3bit_nc")


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a layer asks of a backend (AttentionSelectorConfig), and what of the model the backends look at."""

    version: VllmVersion
    device: str = "this GPU"
    capability: int
    """Compute capability x 10."""
    head_size: int
    dtype: str
    kv_cache_dtype: str
    block_size: int | None = None
    """Only what the person gave."""
    mla: bool = False
    sinks: bool = False
    sparse: bool = False
    mm_prefix: bool = False
    sliding_window: bool = False
    heads: int = 1
    """Query heads on this rank."""
    kv_heads: int = 1
    dcp: int = 1
    kv_lora_rank: int = 0
    nope: int = 0
    rope: int = 0
    value: int = 0
    index_topk: int = 2048
    head_size_v: int | None = None
    flash_attn_version: int | None = None
    """attention_config.flash_attn_version, given or set by the model's own rules."""
    softcap: bool = False

    @property
    def major(self) -> int:
        """9 for Hopper."""
        return self.capability // 10

    @property
    def fp8(self) -> bool:
        """Whether keys and values are in an 8-bit float."""
        return self.kv_cache_dtype.startswith("fp8")

    @property
    def quantized(self) -> bool:
        """Whether keys and values are in fewer bits than a 16- or 32-bit float."""
        return self.kv_cache_dtype not in _PLAIN


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One attention backend's declarations."""

    name: str
    dtypes: tuple[str, ...] = _HALF
    kv_dtypes: tuple[str, ...] = _PLAIN
    blocks: tuple[int, ...] = (16,)
    """Kernel block sizes."""
    exact: bool = False
    """Only these sizes; otherwise any multiple of the first."""
    majors: tuple[int, ...] | None = None
    """Major compute capabilities; None: all."""
    heads: Callable[[int], bool] = lambda _: True
    mla: bool = False
    sparse: bool = False
    sinks: Callable[[Query], bool] = lambda _: False
    mm_prefix: Callable[[Query], bool] = lambda _: False
    sliding_window: bool = False
    check: Callable[[Query], str | None] = lambda _: None
    """What else it refuses, in vLLM's words (supports_combination)."""
    kv_check: Callable[[Query], bool] | None = None
    """Replaces `kv_dtypes` where that depends on the GPU."""
    sizes: Callable[[Query], tuple[int, ...]] | None = None
    """Replaces `blocks` where they depend on the layer."""
    preferred: Callable[[Query, int], int | None] | None = None
    implementation: Callable[[Query], str | None] = lambda _: None
    """What it refuses only once it is built for a layer, with no other backend tried."""
    stored_as: Mapping[str, str] = field(default_factory=dict)
    """The --kv-cache-dtype that it really stores, where that differs from the one given."""
    layouts: Callable[[Query], tuple[str, ...] | None] = lambda _: None
    """KV cache layouts its kernels take; None: any."""

    def block_sizes(self, query: Query) -> tuple[int, ...]:
        """Sizes of one kernel block."""
        return self.sizes(query) if self.sizes is not None else self.blocks

    def takes_block_size(self, query: Query, block_size: int) -> bool:
        """Whether a block of so many tokens is made of whole kernel blocks (supports_block_size)."""
        return any(block_size % size == 0 for size in self.block_sizes(query))

    def preferred_block_size(self, query: Query, default: int) -> int:
        """get_preferred_block_size: the default where it is allowed, else the smallest of its own."""
        if self.preferred is not None and (size := self.preferred(query, default)) is not None:
            return size
        return default if self.takes_block_size(query, default) else min(self.block_sizes(query))

    def largest_block_within(self, query: Query, block_size: int) -> int:
        """The kernel block that a sliding-window layer takes beside blocks of block_size tokens.

        layers/attention/attention.py _largest_kernel_block_within (0.33).
        """
        sizes = self.block_sizes(query)
        if not self.exact and sizes == self.blocks:
            base = sizes[0]
            sizes = (max(base, block_size // base * base),)
        fitting = [size for size in sizes if size <= block_size]
        return max(fitting) if fitting else min(sizes)

    def reasons(self, query: Query) -> list[str]:
        """Why it cannot serve this layer, in vLLM's words and order; empty when it can."""
        takes_kv = self.kv_check(query) if self.kv_check is not None else query.kv_cache_dtype in self.kv_dtypes
        block_size = query.block_size
        rules = (
            (self.heads(query.head_size), "head_size not supported"),
            (query.dtype in self.dtypes, "dtype not supported"),
            (takes_kv, "kv_cache_dtype not supported"),
            (block_size is None or self.takes_block_size(query, block_size), "block_size not supported"),
            (
                not query.mm_prefix or self.mm_prefix(query),
                "partial multimodal token full attention not supported",
            ),
            (query.mla <= self.mla, "MLA not supported"),
            (self.mla <= query.mla, "non-MLA not supported"),
            (not query.sinks or self.sinks(query), "attention sinks not supported"),
            (query.sparse <= self.sparse, "sparse not supported"),
            (self.sparse <= query.sparse, "non-sparse not supported"),
            (self.majors is None or query.major in self.majors, "compute capability not supported"),
            (not query.sliding_window or self.sliding_window, "sliding window not supported"),
        )
        found = [words for allowed, words in rules if not allowed]
        combination = self.check(query)
        return found if combination is None else [*found, combination]


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
    if query.kv_cache_dtype not in (*_PLAIN, *_FP8):
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
    if query.major == 9 and query.kv_cache_dtype in _FP8 and query.head_size == 512:
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
        return name in (*_PLAIN, *_FP8, "fp8_e5m2")
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
        if query.major == 9 and query.kv_cache_dtype in (*_PLAIN, "fp8_ds_mla"):
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
    if query.kv_cache_dtype not in ("auto", *_FP8, "fp8_ds_mla"):
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
    dtypes=_FLOATS,
    kv_dtypes=(
        *_PLAIN,
        *_FP8,
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
            dtypes=_FLOATS,
            mm_prefix=lambda _: True,
            sliding_window=True,
            layouts=lambda _: ("LBNHC",),
        ),
        Backend(
            name="TURBOQUANT",
            kv_dtypes=_TURBOQUANT,
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
            kv_dtypes=(*_PLAIN, *_FP8),
            blocks=(64,),
            exact=True,
            majors=(9, 10),
            heads=_mla_heads,
            mla=True,
            check=_flashmla_check,
        ),
        Backend(
            name="FLASHINFER_MLA",
            kv_dtypes=(*_PLAIN, *_FP8),
            blocks=(32, 64),
            exact=True,
            majors=(10,),
            heads=_mla_heads,
            mla=True,
            check=_flashinfer_mla_check,
        ),
        Backend(
            name="TOKENSPEED_MLA",
            kv_dtypes=_FP8,
            blocks=(32, 64),
            exact=True,
            majors=(10,),
            heads=_mla_heads,
            mla=True,
            check=_tokenspeed_check,
        ),
        Backend(
            name="CUTLASS_MLA",
            kv_dtypes=(*_PLAIN, *_FP8),
            blocks=(128,),
            exact=True,
            majors=(10,),
            heads=_mla_heads,
            mla=True,
        ),
        Backend(
            name="TRITON_MLA",
            kv_dtypes=(*_PLAIN, *_FP8),
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
            kv_dtypes=(*_PLAIN, *_FP8),
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
            kv_dtypes=("auto", "bfloat16", *_FP8),
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
            kv_dtypes=("auto", *_FP8, "fp8_ds_mla"),
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
            kv_check=lambda q: q.kv_cache_dtype in (*_PLAIN, *_FP8) and _fa_kv(q),
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
            kv_check=lambda q: q.kv_cache_dtype in (*_PLAIN, *_FP8, "fp8_e5m2"),
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


def priorities(query: Query) -> tuple[str, ...]:
    """Backends in vLLM's order of preference (platforms/cuda.py _get_backend_priorities, 0.33)."""
    if not query.mla:
        if query.major == 10:
            order = ("FLASHINFER", "FLASH_ATTN", "TRITON_ATTN", "FLEX_ATTENTION", "TURBOQUANT")
            return ("TRITON_FLASHINFER", *order) if query.mm_prefix else order
        order = ("FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "FLEX_ATTENTION", "TURBOQUANT")
        return ("TRITON_FLASH_ATTN", *order) if query.mm_prefix and query.major == 9 else order
    if query.major == 10:
        return (
            "FLASHINFER_MLA",
            "TOKENSPEED_MLA",
            "CUTLASS_MLA",
            "FLASH_ATTN_MLA",
            "FLASHMLA",
            "TRITON_MLA",
            *_sparse_on_blackwell(query),
        )
    if query.major == 12:
        return ("TRITON_MLA", "FLASHINFER_MLA_SPARSE_SM120")
    tail = ("FLASH_ATTN_MLA_SPARSE", "FLASHMLA_SPARSE")
    other = ("FLASHINFER_MLA_SPARSE_SM90",)
    dense = ("FLASH_ATTN_MLA", "FLASHMLA", "FLASHINFER_MLA", "TRITON_MLA")
    return (*dense, *other, *tail) if query.head_size == 512 else (*dense, *tail, *other)


def _sparse_on_blackwell(query: Query) -> tuple[str, ...]:
    if query.quantized:
        return ("FLASHINFER_MLA_SPARSE", "FLASHMLA_SPARSE")
    if query.heads <= 16:
        return ("FLASH_ATTN_MLA_SPARSE_FA4", "FLASHINFER_MLA_SPARSE", "FLASHMLA_SPARSE")
    return ("FLASHMLA_SPARSE", "FLASHINFER_MLA_SPARSE")


def select(query: Query, wanted: str | None = None) -> Backend:
    """The backend that serves this layer; Refusal with vLLM's sentence where none does."""
    if wanted is not None and wanted in BACKENDS:
        reasons = BACKENDS[wanted].reasons(query)
        if reasons:
            raise Refusal(
                "attention_backend_invalid",
                f"Selected backend AttentionBackendEnum.{wanted} is not valid for this configuration. "
                f"Reason: {reasons}",
                "--attention-backend",
            )
        return _built(BACKENDS[wanted], query)
    refused: dict[str, list[str]] = {}
    for name in priorities(query):
        reasons = BACKENDS[name].reasons(query)
        if not reasons:
            return _built(BACKENDS[name], query)
        refused[name] = reasons
    listed = ", ".join(f"{name}: [{', '.join(reasons)}]" for name, reasons in refused.items())
    raise Refusal(
        "no_attention_backend",
        f"No valid attention backend found for cuda with {_config(query)}. Reasons: {{{listed}}}.",
        "--kv-cache-dtype" if query.quantized else None,
    )


def _built(backend: Backend, query: Query) -> Backend:
    refusal = backend.implementation(query)
    if refusal is not None:
        raise Refusal("kv_cache_dtype_needs_capability", refusal, "--kv-cache-dtype")
    return backend


def _config(query: Query) -> str:
    """AttentionSelectorConfig as vLLM prints it."""
    return (
        f"AttentionSelectorConfig(head_size={query.head_size}, dtype=torch.{query.dtype}, "
        f"kv_cache_dtype={query.kv_cache_dtype}, block_size={query.block_size}, use_mla={query.mla}, "
        f"has_sink={query.sinks}, use_sparse={query.sparse}, use_mm_prefix={query.mm_prefix}, "
        "use_per_head_quant_scales=False, attn_type=AttentionType.DECODER, "
        f"has_sliding_window={query.sliding_window}, use_non_causal=False, use_batch_invariant=False, "
        "use_kv_connector=False, use_adaptive_verification=False, use_pcp=False, "
        f"use_dcp={query.dcp > 1}, use_rswa=False)"
    )


def common_block_size(chosen: Sequence[tuple[Backend, Query]], default: int) -> int:
    """The smallest block size that every backend takes (platforms/interface.py, 0.33)."""
    if len(chosen) == 1:
        backend, query = chosen[0]
        return backend.preferred_block_size(query, default)
    if all(backend.takes_block_size(query, default) for backend, query in chosen):
        return default
    candidates = sorted({lcm(*sizes) for sizes in product(*(b.block_sizes(q) for b, q in chosen))})
    for size in candidates:
        if all(backend.takes_block_size(query, size) for backend, query in chosen):
            return size
    raise Refusal("no_common_block_size", "The attention backends share no supported KV cache block size.", None)


def check_layouts(chosen: Sequence[tuple[Backend, Query]]) -> None:
    """Refusal where a model's backends share no KV cache layout (get_supported_kv_cache_layouts, 0.33)."""
    lists = [layouts for backend, query in chosen if (layouts := backend.layouts(query)) is not None]
    if lists and not set.intersection(*map(set, lists)):
        listed = [list(layouts) for layouts in lists]
        raise Refusal(
            "no_common_kv_layout",
            f"No KV cache layout satisfies every supported set: {listed}.",
            "--kv-cache-dtype",
        )


def old_block_size(version: VllmVersion, capability: int, given: int, *, mla: bool, sparse: bool) -> int:
    """Before 0.18 a table set the block size for MLA (platforms/cuda.py check_and_update_config)."""
    if not mla or version < (0, 8):
        return given
    if sparse:
        return 64
    major = capability // 10
    if major == 10 and version >= (0, 10):
        return given if given % 128 == 0 else 128
    return given if major != 9 or given % 64 == 0 else 64


def distinct(chosen: Iterable[tuple[Backend, Query]]) -> list[tuple[Backend, Query]]:
    """One entry per backend, in layer order, asked for the largest head, as a model's own head size is."""
    found: dict[str, tuple[Backend, Query]] = {}
    for backend, query in chosen:
        known = found.get(backend.name)
        if known is None or query.head_size > known[1].head_size:
            found[backend.name] = (backend, query)
    return list(found.values())
