"""What an attention backend takes: the declarations of v1/attention/backend.py (validate_configuration, 0.33)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from planner.engine.version import VllmVersion

HALF = ("float16", "bfloat16")
FLOATS = (*HALF, "float32")
PLAIN = ("auto", *HALF)
FP8 = ("fp8", "fp8_e4m3")
TURBOQUANT = ("turboquant_k8v4", "turboquant_4bit_nc", "turboquant_k3v4_nc", "turboquant_3bit_nc")


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
        return self.kv_cache_dtype not in PLAIN


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One attention backend's declarations."""

    name: str
    dtypes: tuple[str, ...] = HALF
    kv_dtypes: tuple[str, ...] = PLAIN
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
