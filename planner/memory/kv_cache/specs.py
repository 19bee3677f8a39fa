"""What vLLM keeps for one layer: the size of a page, and how many blocks one request of full length holds.

Mirrors the specs of v1/kv_cache_interface.py (0.33). `blocks` is plain integer arithmetic over a Demand, whose fields
may be numpy arrays. Two layers share a bucket exactly when their specs are equal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from planner.units import ceil_div


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a request of full length asks of the cache; max_model_len and in_flight may be arrays."""

    max_model_len: int
    in_flight: int
    """Tokens scheduled but not settled: max_num_batched_tokens x concurrent batches (one before 0.26)."""
    encoder_tokens: int = 0
    """max_num_encoder_input_tokens, what cross attention is charged for."""

    def with_len(self, max_model_len: int) -> Self:
        """The same demand for requests of another length, in tokens."""
        return replace(self, max_model_len=max_model_len)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One layer's cache. `block_size` tokens take `page` bytes on one rank."""

    kind: ClassVar[str] = ""
    block_size: int
    token_bytes: int
    """Bytes of one token, whatever the block size; 0 for a recurrent state."""
    shape: tuple[object, ...] = ()
    """What else must agree for two layers to be the same to vLLM: heads, head sizes, dtype."""
    padded: int | None = None
    """The page after padding to another layer's."""

    @property
    def page(self) -> int:
        """Bytes of one block of one layer: the tokens of a block, or what unifying the page sizes has padded it to."""
        return self.block_size * self.token_bytes if self.padded is None else self.padded

    @property
    def uniform_key(self) -> tuple[object, ...]:
        """Layers with equal keys need the same number of token slots and can share one group."""
        return (self.kind, self.block_size)

    def blocks(self, demand: Demand) -> int:
        """Blocks that one request of full length holds."""
        raise NotImplementedError

    def unified(self, page: int) -> Spec:
        """The same layer with its page made `page` bytes: longer blocks where that divides, padding elsewhere."""
        ratio, rest = divmod(page, self.page)
        return replace(self, padded=page) if rest else replace(self, block_size=self.block_size * ratio)


@dataclass(frozen=True, kw_only=True)
class FullSpec(Spec):
    """FullAttentionSpec: every token of the context."""

    kind: ClassVar[str] = "full_attention"
    dcp: int = 1
    """Decode context parallel ranks that share the tokens."""

    def blocks(self, demand: Demand) -> int:
        """All tokens of the request; decode context parallelism deals them out over its ranks."""
        return ceil_div(ceil_div(demand.max_model_len, self.dcp), self.block_size)


@dataclass(frozen=True, kw_only=True)
class MLASpec(FullSpec):
    """MLAAttentionSpec: one latent vector a token; also the sparse indexer's cache."""

    kind: ClassVar[str] = "mla_attention"

    @property
    def uniform_key(self) -> tuple[object, ...]:
        """That of full attention: vLLM registers MLAAttentionSpec with FullAttentionSpec as its base."""
        return (FullSpec.kind, self.block_size)

    def unified(self, page: int) -> Spec:
        """More tokens a block, never padding. Raises CannotUnifyError where the page is no multiple of its own."""
        if page % self.page:
            raise CannotUnifyError
        return super().unified(page)


class CannotUnifyError(Exception):
    """Pages that vLLM can neither multiply nor pad to one size."""


@dataclass(frozen=True, kw_only=True)
class SlidingSpec(Spec):
    """SlidingWindowSpec: the window and what is in flight, and one block because a window rarely starts on an edge."""

    kind: ClassVar[str] = "sliding_window"
    window: int

    @property
    def uniform_key(self) -> tuple[object, ...]:
        """Windows of different sizes are not uniform (SlidingWindowSpec.merge, 0.33)."""
        return (self.kind, self.block_size, self.window)

    def blocks(self, demand: Demand) -> int:
        """The window and the step in flight, and one block more, for a window that starts inside a block."""
        held = smaller(self.window - 1 + demand.in_flight, demand.max_model_len)
        return ceil_div(held, self.block_size) + 1


@dataclass(frozen=True, kw_only=True)
class SlidingMLASpec(SlidingSpec):
    """SlidingWindowMLASpec: DeepSeek-V4's windows and the states of its compressors."""

    kind: ClassVar[str] = "sliding_window_mla"


@dataclass(frozen=True, kw_only=True)
class ChunkedSpec(Spec):
    """ChunkedLocalAttentionSpec: the chunk and what is in flight."""

    kind: ClassVar[str] = "chunked_local_attention"
    chunk: int

    @property
    def uniform_key(self) -> tuple[object, ...]:
        """Chunks of different sizes are not uniform (ChunkedLocalAttentionSpec.merge, 0.33)."""
        return (self.kind, self.block_size, self.chunk)

    def blocks(self, demand: Demand) -> int:
        """The chunk and the step in flight; chunks start with a block, so none more."""
        held = smaller(self.chunk + demand.in_flight, demand.max_model_len)
        return ceil_div(held, self.block_size)


@dataclass(frozen=True, kw_only=True)
class StateSpec(Spec):
    """MambaSpec: a state of fixed size; `states` of them per request."""

    kind: ClassVar[str] = "mamba"
    token_bytes: int = 0
    state_bytes: int
    states: int = 1
    every_block: bool = False
    """mamba_cache_mode "all" (0.11-0.31): one state for every block of the context."""

    @property
    def page(self) -> int:
        """Bytes of one state, however many tokens it stands for, or what unifying has padded it to."""
        return self.state_bytes if self.padded is None else self.padded

    @property
    def uniform_key(self) -> tuple[object, ...]:
        """States of different sizes are not uniform (MambaSpec.merge, 0.33)."""
        return (self.kind, self.block_size, self.page, self.states)

    def blocks(self, demand: Demand) -> int:
        """The states that a request keeps at any length; in cache mode "all" one more for each block of tokens."""
        if self.every_block:
            return ceil_div(demand.max_model_len, self.block_size) + self.states
        return self.states + 0 * demand.max_model_len

    def unified(self, page: int) -> Spec:
        """Padded to the page: a state cannot take more tokens."""
        return replace(self, padded=page)


@dataclass(frozen=True, kw_only=True)
class CrossSpec(Spec):
    """CrossAttentionSpec: keys and values over encoder outputs, charged for the whole encoder budget."""

    kind: ClassVar[str] = "cross_attention"

    def blocks(self, demand: Demand) -> int:
        """The encoder's tokens, however long the request is (CrossAttentionSpec, 0.33)."""
        return ceil_div(demand.encoder_tokens, self.block_size) + 0 * demand.max_model_len


def smaller(a: int, b: int) -> int:
    """The smaller of two; elementwise where one is a numpy array."""
    plain: Any = a
    if isinstance(plain, int) and isinstance(b, int):
        return min(a, b)
    import numpy as np

    least: Any = np.minimum(a, b)
    return least  # type: ignore[no-any-return]
