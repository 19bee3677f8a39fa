"""The kinds of layer state that vLLM keeps between steps, and what one block of each costs on one rank.

Mirrors vllm/v1/kv_cache_interface.py (0.33): each kind knows its own page size. Blocks per request and grouping are in
planner/memory/kv_cache, since they depend on the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from planner.model.modules import Heads, divide
from planner.units import DTYPE_BYTES


@dataclass(frozen=True, kw_only=True)
class KVAttention:
    """Keys and values of one decoder layer (FullAttentionSpec, SlidingWindowSpec, ChunkedLocalAttentionSpec)."""

    heads: int
    kv_heads: int
    head_size: int
    head_size_v: int | None = None
    """None: as head_size."""
    sliding_window: int | None = None
    chunk_size: int | None = None
    """attention_chunk_size of Llama 4's local layers."""
    sinks: bool = False
    index_head_size: int | None = None
    """Keys of MiniMax-M3's sparse indexer, one vector a token in a cache of its own; None without one."""

    @property
    def value_size(self) -> int:
        """Elements of one value head, mostly those of a key head."""
        return self.head_size if self.head_size_v is None else self.head_size_v

    def local_kv_heads(self, tp: int) -> int:
        """KV heads on one rank, at least one. Raises Refusal where they neither divide nor replicate."""
        return Heads(count=self.kv_heads, size=self.head_size).local(tp)


@dataclass(frozen=True, kw_only=True)
class MLAttention:
    """Multi-head latent attention: one compressed vector per token, whole on every tensor-parallel rank."""

    heads: int
    kv_lora_rank: int
    qk_rope_head_dim: int
    qk_nope_head_dim: int
    v_head_dim: int
    index_head_dim: int | None = None
    """Head size of DeepSeek-V3.2's sparse indexer, which keeps a cache of its own; None without one."""
    sliding_window: int | None = None

    @property
    def latent_size(self) -> int:
        """Elements that a token leaves in the cache: the compressed key and value, and the shared rotary key."""
        return self.kv_lora_rank + self.qk_rope_head_dim


@dataclass(frozen=True, kw_only=True)
class StateShape:
    """One recurrent state tensor of a layer (model_executor/layers/mamba/mamba_utils.py, 0.33)."""

    shape: tuple[int, ...]
    split: int
    """The dimension that tensor parallelism divides."""
    role: Literal["conv", "ssm"]
    """Which flag sets its dtype: --mamba-cache-dtype or --mamba-ssm-cache-dtype."""
    dtype: str = "auto"
    """What the model takes where the flag says auto: "auto" is the model's dtype, for ssm that of the conv state."""
    groups: Heads | None = None
    """Mamba 2's B and C, which come on top along `split`: sharded by groups, a single group replicated."""
    grows: bool = True
    """A conv state's first dimension holds one row more for each speculative token; not in Mamba 1."""

    def nbytes(self, tp: int, *, dtype: str, speculative_tokens: int = 0) -> int:
        """Bytes on one rank, in a resolved dtype."""
        sizes = list(self.shape)
        sizes[self.split] = divide(sizes[self.split], tp)
        if self.groups is not None:
            sizes[self.split] += self.groups.local(tp) * self.groups.size
        if self.role == "conv" and self.grows:
            sizes[0] += speculative_tokens
        return prod(sizes) * DTYPE_BYTES[dtype]


@dataclass(frozen=True, kw_only=True)
class RecurrentState:
    """The fixed-size state of a Mamba, gated-delta-net, linear-attention or short-convolution layer (MambaSpec)."""

    type: str
    """vLLM's mamba_type: mamba1, mamba2, gdn_attention, linear_attention, short_conv …; kda for Kimi's delta net."""
    states: tuple[StateShape, ...]

    def nbytes(
        self,
        tp: int,
        *,
        model_dtype: str,
        cache_dtype: str = "auto",
        ssm_cache_dtype: str = "auto",
        speculative_tokens: int = 0,
    ) -> int:
        """Bytes of one request's state in this layer on one rank (MambaStateDtypeCalculator's rules for the dtypes).

        cache_dtype and ssm_cache_dtype are --mamba-cache-dtype and --mamba-ssm-cache-dtype.
        """
        conv = model_dtype if cache_dtype == "auto" else cache_dtype
        total = 0
        for state in self.states:
            own = cache_dtype if state.role == "conv" else ssm_cache_dtype
            wanted = state.dtype if own == "auto" else own
            total += state.nbytes(tp, dtype=conv if wanted == "auto" else wanted, speculative_tokens=speculative_tokens)
        return total


@dataclass(frozen=True, kw_only=True)
class CrossAttention:
    """Keys and values over encoder outputs (CrossAttentionSpec: Whisper, Llama 3.2 Vision)."""

    heads: int
    kv_heads: int
    head_size: int


@dataclass(frozen=True, kw_only=True)
class CompressedAttention:
    """The caches of one DeepSeek-V4 layer (vllm/models/deepseek_v4/attention.py get_kv_cache_spec, 0.33).

    All layers keep a sliding window (SlidingWindowMLASpec); compress_ratio > 1 adds a cache of one entry for that many
    tokens and an fp32 compressor state; index_head_dim a second such pair for the indexer.
    """

    heads: int
    head_dim: int
    rope_dim: int
    sliding_window: int
    compress_ratio: int
    index_head_dim: int | None = None


LayerState = KVAttention | MLAttention | RecurrentState | CrossAttention | CompressedAttention
