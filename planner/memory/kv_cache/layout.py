"""Model + engine + GPU -> Layout: the chosen backends, the block size, each layer's spec, the groups.

Mirrors Attention.get_kv_cache_spec and its siblings (model_executor/layers), Platform.update_block_size_for_backend
(platforms/interface.py) and MambaModelConfig (model_executor/models/config.py), all 0.33; what older versions do is in
planner/memory/kv_cache/versions.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import lcm
from typing import Any

from planner.engine import backends
from planner.engine.backends import BACKENDS, Backend, Query
from planner.engine.defaults import Engine
from planner.hardware.catalogue import Gpu
from planner.memory.kv_cache.capacity import Layout
from planner.memory.kv_cache.dtypes import KVDtype, kv_dtype
from planner.memory.kv_cache.groups import CacheLayer, cache_groups
from planner.memory.kv_cache.hybrid_manager import uses_hybrid_manager
from planner.memory.kv_cache.specs import (
    ChunkedSpec,
    CrossSpec,
    FullSpec,
    MLASpec,
    SlidingMLASpec,
    SlidingSpec,
    Spec,
    StateSpec,
)
from planner.memory.kv_cache.versions import Rules, rules
from planner.memory.weights import pipeline_ranges
from planner.model.architecture import Model
from planner.model.attention import (
    CompressedAttention,
    CrossAttention,
    KVAttention,
    LayerState,
    MLAttention,
    RecurrentState,
)
from planner.units import ceil_div, round_up

DEFAULT_BLOCK_SIZE, CPU_BLOCK_SIZE, CPU_MLA_BLOCK_SIZE = 16, 128, 16
_GDN_CHECKPOINT_ALIGNMENT = 64
"""v1/attention/backends/gdn_attn.py FLASHINFER_GDN_CHECKPOINT_ALIGNMENT."""
_MAMBA_CHUNK = 256
"""What mamba_cache_mode "all" (0.11-0.31) rounds blocks to: mamba_chunk_size, 256 in nearly every config."""
_WITHOUT_CACHE_CONFIG = frozenset({"FalconForCausalLM", "RWForCausalLM"})
"""Models whose attention is not told of --kv-cache-dtype: it stays in the model's dtype (models/falcon.py)."""
_COMPRESSED_BLOCK_SIZE = 256
"""DeepSeek-V4's (v1/attention/backends/mla/sparse_swa.py get_preferred_block_size)."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What one model layer keeps, and in which --kv-cache-dtype."""

    state: LayerState
    kv_cache_dtype: str


@dataclass(frozen=True, kw_only=True, eq=False)
class CacheModel:
    """What the layers keep under one engine, before and after the block size is known."""

    model: Model
    engine: Engine
    gpu: Gpu
    kv_cache_dtype: str
    """What the flag, the checkpoint or a model's own rule says (plan.resolved_kv_dtype)."""
    draft: tuple[LayerState, ...] = ()
    """What a speculative draft's layers keep, on the last pipeline stage."""

    @cached_property
    def rules(self) -> Rules:
        """What this version of vLLM does where versions differ."""
        return rules(self.engine.vllm_version)

    @property
    def tp(self) -> int:
        """The tensor parallel size: over how many ranks KV heads and states are sharded."""
        return self.engine.tensor_parallel_size

    @cached_property
    def kept(self) -> tuple[tuple[int, Kept], ...]:
        """(index of the model layer, what it keeps), in vLLM's order."""
        layers = [(index, state) for index, layer in enumerate(self.model.layers) for state in layer.states]
        last = len(self.model.layers) - 1
        return tuple(
            (index, Kept(state=state, kv_cache_dtype=self._dtype_name(index, state)))
            for index, state in (*layers, *((last, state) for state in self.draft))
        )

    @cached_property
    def kinds(self) -> tuple[Kept, ...]:
        """The distinct ones, in layer order."""
        return tuple(dict.fromkeys(kept for _, kept in self.kept))

    # --- dtypes ------------------------------------------------------------------------------------------------------

    @cached_property
    def _skipped(self) -> frozenset[str]:
        """--kv-cache-dtype-skip-layers, and the first and last two layers under TurboQuant."""
        given = self.engine.args.get("kv_cache_dtype_skip_layers") or ()
        if not self.kv_cache_dtype.startswith("turboquant_") or self.model.is_hybrid:
            return frozenset(map(str, given))
        count = len(self.model.layers)
        edge = min(2, count // 2)
        return frozenset(map(str, (*given, *range(edge), *range(count - edge, count))))

    def _dtype_name(self, index: int, state: LayerState) -> str:
        if self.model.architecture in _WITHOUT_CACHE_CONFIG:
            return "auto"
        windowed = getattr(state, "sliding_window", None) is not None
        if str(index) in self._skipped or (windowed and "sliding_window" in self._skipped):
            return "auto"
        return self.kv_cache_dtype

    def dtype(self, kept: Kept) -> KVDtype:
        """The entry for one layer: sparse MLA backends store fp8 in a layout of their own."""
        return kv_dtype(self._stored_name(kept), self.engine.vllm_version)

    def _stored_name(self, kept: Kept) -> str:
        name, backend = kept.kv_cache_dtype, self.backend(kept)
        return name if backend is None else backend.stored_as.get(name, name)

    @cached_property
    def resolved_dtype(self) -> str:
        """cache_dtype after all layers are built."""
        if self._is_compressed:
            return "fp8_ds_mla"
        stored = [self._stored_name(kept) for kept in self.kinds if isinstance(kept.state, MLAttention)]
        return stored[0] if stored else self.kv_cache_dtype

    # --- backends ----------------------------------------------------------------------------------------------------

    def query(self, kept: Kept) -> Query:
        """What a layer asks of the attention backends."""
        state, engine = kept.state, self.engine
        assert not isinstance(state, RecurrentState | CompressedAttention)
        common: dict[str, Any] = {
            "version": engine.vllm_version,
            "device": self.gpu.name,
            "capability": engine.capability or 0,
            "dtype": engine.dtype,
            "kv_cache_dtype": kept.kv_cache_dtype,
            "block_size": engine.block_size,
            "heads": max(1, state.heads // self.tp),
            "dcp": engine.decode_context_parallel_size,
            "flash_attn_version": self._forced_version,
        }
        if isinstance(state, MLAttention):
            return Query(
                **common,
                head_size=state.latent_size,
                mla=True,
                sparse=state.index_head_dim is not None,
                sliding_window=state.sliding_window is not None,
                kv_lora_rank=state.kv_lora_rank,
                nope=state.qk_nope_head_dim,
                rope=state.qk_rope_head_dim,
            )
        return Query(
            **common,
            head_size=state.head_size,
            head_size_v=getattr(state, "head_size_v", None),
            sinks=getattr(state, "sinks", False),
            sliding_window=getattr(state, "sliding_window", None) is not None,
            mm_prefix=self.model.is_mm_prefix_lm and not self.engine.args.get("language_model_only"),
            kv_heads=max(1, state.kv_heads // self.tp),
        )

    @cached_property
    def _forced(self) -> tuple[str | None, int | None]:
        """(backend, FlashAttention version) that the dtype or a model's own rule sets.

        engine/arg_utils.py (TurboQuant), models/config.py Gemma4Config.
        """
        if self.kv_cache_dtype.startswith("turboquant_"):
            return None, 2
        sizes = {state.head_size for state in self.model.states if isinstance(state, KVAttention)}
        if not self.model.architecture.startswith("Gemma4") or len(sizes) < 2:
            return None, None
        major = (self.engine.capability or 0) // 10
        if major not in (9, 10, 11):
            return "TRITON_ATTN", None
        return None, None if major == 9 and self.kv_cache_dtype.startswith("fp8") else 4

    @property
    def _forced_version(self) -> int | None:
        return self._forced[1]

    def backend(self, kept: Kept) -> Backend | None:
        """The backend of one layer; None for recurrent states and off CUDA."""
        return self._chosen.get(kept)

    @cached_property
    def _chosen(self) -> dict[Kept, Backend]:
        if self.gpu.kind != "cuda":
            return {}
        wanted = self.engine.attention_backend or self._forced[0]
        return {
            kept: self._own_backend(kept) or backends.select(self.query(kept), wanted)
            for kept in self.kinds
            if not isinstance(kept.state, RecurrentState | CompressedAttention)
        }

    def _own_backend(self, kept: Kept) -> Backend | None:
        """Where the model's class names the backend (vllm/models/minimax_m3)."""
        return BACKENDS["MINIMAX_M3_SPARSE"] if getattr(kept.state, "index_head_size", None) else None

    @cached_property
    def backends(self) -> list[tuple[Backend, Query]]:
        """The distinct attention backends, in layer order."""
        found = []
        for kept, backend in self._chosen.items():
            found.append((backend, self.query(kept)))
            if isinstance(kept.state, MLAttention) and kept.state.index_head_dim is not None:
                found.append((BACKENDS["DEEPSEEK_V32_INDEXER"], self.query(kept)))
        return backends.distinct(found)

    @property
    def backend_name(self) -> str | None:
        """For display: the backend of the first attention layer."""
        if self.gpu.kind == "cpu":
            return "CPU_MLA" if self._is_mla else "CPU_ATTN"
        if self._is_compressed:
            return "FLASHMLA_SPARSE_DSV4"
        return self.backends[0][0].name if self.backends else None

    @cached_property
    def _is_mla(self) -> bool:
        return any(isinstance(kept.state, MLAttention) for kept in self.kinds)

    @property
    def is_packed(self) -> bool:
        """Whether the KV cache layout puts the block outermost, so that pages of several sizes share one."""
        return self._is_compressed

    @cached_property
    def _is_compressed(self) -> bool:
        return any(isinstance(kept.state, CompressedAttention) for kept in self.kinds)

    # --- block size --------------------------------------------------------------------------------------------------

    @cached_property
    def attention_block_size(self) -> int:
        """Before hybrids and mixed dtypes are aligned."""
        if self._is_compressed:
            return _COMPRESSED_BLOCK_SIZE
        if self.gpu.kind == "cpu":
            return CPU_MLA_BLOCK_SIZE if self._is_mla else self.engine.block_size or CPU_BLOCK_SIZE
        if not self.rules.backend_block_size:
            return backends.old_block_size(
                self.engine.vllm_version,
                self.engine.capability or 0,
                self.engine.block_size or DEFAULT_BLOCK_SIZE,
                mla=self._is_mla,
                sparse=any(backend.sparse for backend, _ in self.backends),
            )
        if self.engine.block_size is not None or not self.backends:
            return self.engine.block_size or DEFAULT_BLOCK_SIZE
        chosen = self.backends if self.rules.common_block_size else self.backends[:1]
        return backends.common_block_size(chosen, DEFAULT_BLOCK_SIZE)

    @cached_property
    def hybrid_block_size(self) -> int:
        """Hybrids need an attention page at least as large as a Mamba state (_align_hybrid_block_size)."""
        token, state = self.hybrid_token_bytes, self.state_bytes
        if token == 0 or state == 0:
            return self.attention_block_size
        if self.mamba_mode == "all":
            chunk = lcm(_MAMBA_CHUNK, self._hybrid_alignment)
            return max(self.attention_block_size, chunk * ceil_div(ceil_div(state, token), chunk))
        alignment = self._hybrid_alignment
        if self.mamba_mode == "align" and self.rules.gdn_checkpoint:
            alignment = lcm(alignment, self.checkpoint_alignment or 1)
        size = alignment * ceil_div(state, alignment * token)
        if self.rules.hybrid_every_backend:
            every = lcm(*self._smallest_blocks)
            size = every * ceil_div(size, every)
        return max(self.attention_block_size, size)

    @cached_property
    def _smallest_blocks(self) -> list[int]:
        """Of each backend; 32 for the CPU's."""
        return [min(backend.block_sizes(query)) for backend, query in self.backends] or [32]

    @cached_property
    def _hybrid_alignment(self) -> int:
        if self.rules.hybrid_by_backend:
            least = self.rules.hybrid_mla_alignment if self._is_mla else 1
            return max(self._smallest_blocks[0], self.attention_block_size, least)
        if self._is_mla:
            return 128 if (self.engine.capability or 0) // 10 == 10 else 64
        wide = any(isinstance(kept.state, KVAttention) and kept.state.head_size == 256 for kept in self.kinds)
        return 32 if wide and (self.engine.capability or 0) // 10 == 10 else 16

    @cached_property
    def block_size(self) -> int:
        """The final one: longer where layers of several dtypes share the pool (_align_heterogeneous_kv_block_size)."""
        if not self._skipped or not self.rules.mixed_dtypes or not self.backends:
            return self.hybrid_block_size
        primary, padded = self._mixed_token_bytes
        if primary == padded:
            return self.hybrid_block_size
        smallest = self._smallest_blocks[0]
        alignment = max(smallest, self.hybrid_block_size)
        required = max(padded * smallest, self._state_page or 0)
        return max(self.hybrid_block_size, alignment * ceil_div(required, alignment * primary))

    @cached_property
    def _mixed_token_bytes(self) -> tuple[int, int]:
        """(a quantized layer's bytes per token, a skipped layer's), as vLLM's alignment reckons them.

        It asks the first layer's backend, which does not know another's packing: then it is a byte per value.
        """
        state = next(kept.state for kept in self.kinds if isinstance(kept.state, KVAttention | MLAttention))
        name, version = self.kv_cache_dtype, self.engine.vllm_version
        own = self.backends[0][0]
        quantized = kv_dtype(name, version)
        if name not in own.kv_dtypes and own.kv_check is None:
            quantized = kv_dtype("fp8", version)
        if own.name == "FLASH_ATTN" and quantized.packing != "plain":
            quantized = kv_dtype("fp8", version)
        return self._bytes_of(state, quantized), self._bytes_of(state, kv_dtype("auto", version))

    @cached_property
    def shared_page(self) -> int | None:
        """skip_page_size_padded: the page that sliding-window layers are padded to beside other dtypes."""
        if not self._skipped or not self.rules.mixed_dtypes or not self.backends:
            return None
        primary, padded = self._mixed_token_bytes
        return None if primary == padded else self.block_size * primary

    @cached_property
    def hybrid_token_bytes(self) -> int:
        """Bytes of one token in one attention layer of a model that has Mamba layers too; 0 for others."""
        if not any(isinstance(kept.state, RecurrentState) for kept in self.kinds):
            return 0
        for kept in self.kinds:
            if isinstance(kept.state, KVAttention | MLAttention):
                return self._bytes_of(kept.state, self.dtype(kept))
        return 0

    # --- recurrent states --------------------------------------------------------------------------------------------

    @cached_property
    def mamba_mode(self) -> str:
        """mamba_cache_mode, resolved (MambaModelConfig)."""
        modes = self.rules.mamba_modes
        if not self.engine.enable_prefix_caching or len(modes) == 1:
            return "none"
        can_all = "all" in modes and self._takes_all_states
        wanted = self.engine.args.get("mamba_cache_mode")
        if can_all and (wanted == "all" or self.rules.mamba_all_first or "align" not in modes):
            return wanted if wanted == "align" and "align" in modes else "all"
        return "align" if "align" in modes else "none"

    @cached_property
    def _takes_all_states(self) -> bool:
        """Models with SupportsMambaPrefixCaching: those of Mamba 1 and 2."""
        types = {kept.state.type for kept in self.kinds if isinstance(kept.state, RecurrentState)}
        return types <= {"mamba1", "mamba2"}

    @cached_property
    def checkpoint_alignment(self) -> int | None:
        """Token alignment of states exported from inside a prefill; None unless every layer can."""
        kinds = {kept.state.type for kept in self.kinds if isinstance(kept.state, RecurrentState)}
        capability = self.engine.capability or 0
        on_flashinfer = self.gpu.kind == "cuda" and (capability == 90 or capability // 10 in (10, 12))
        return _GDN_CHECKPOINT_ALIGNMENT if kinds == {"gdn_attention"} and on_flashinfer else None

    @cached_property
    def state_bytes(self) -> int:
        """The largest recurrent state of a layer."""
        states = [kept.state for kept in self.kinds if isinstance(kept.state, RecurrentState)]
        return max(map(self._state_bytes, states), default=0)

    @cached_property
    def _state_page(self) -> int | None:
        """mamba_page_size_padded: a state is padded to the attention page."""
        page = self.hybrid_block_size * self.hybrid_token_bytes
        return page if page and page != self.state_bytes else None

    def _state_bytes(self, state: RecurrentState) -> int:
        given = self.engine.args
        return state.nbytes(
            self.tp,
            model_dtype=self.engine.dtype,
            cache_dtype=given.get("mamba_cache_dtype", "auto"),
            ssm_cache_dtype=given.get("mamba_ssm_cache_dtype", "auto"),
            speculative_tokens=self.speculative_tokens,
        )

    @cached_property
    def speculative_tokens(self) -> int:
        """Tokens drafted ahead in each step: a recurrent layer keeps that many more states of a request."""
        config = self.engine.args.get("speculative_config")
        count = config.get("num_speculative_tokens", 0) if isinstance(config, dict) else 0
        return count if isinstance(count, int) else 0

    def _states_per_request(self, state: RecurrentState) -> int:
        if self.mamba_mode != "align":
            return self.speculative_tokens + (self.mamba_mode == "none")
        exports = (state.type == "mamba2" and self.rules.mamba2_checkpoint) or (
            state.type == "gdn_attention" and self.rules.gdn_checkpoint and self.checkpoint_alignment is not None
        )
        return 2 + self.speculative_tokens + exports

    # --- specs -------------------------------------------------------------------------------------------------------

    def layers(self) -> Iterator[CacheLayer]:
        """vLLM's kv_cache_spec."""
        made = {kept: tuple(self._specs(kept)) for kept in self.kinds}
        for index, kept in self.kept:
            for spec in made[kept]:
                yield CacheLayer(index=index, spec=spec)

    def _bytes_of(self, state: LayerState, dtype: KVDtype) -> int:
        """Bytes of one token of one layer on one rank."""
        if isinstance(state, MLAttention):
            return dtype.latent_bytes(state.latent_size, self.engine.dtype)
        assert not isinstance(state, RecurrentState | CompressedAttention)
        value = getattr(state, "value_size", state.head_size)
        return self._kv_heads(state) * dtype.head_bytes(state.head_size, value, self.engine.dtype)

    def _kv_heads(self, state: KVAttention | CrossAttention) -> int:
        return state.local_kv_heads(self.tp) if isinstance(state, KVAttention) else max(1, state.kv_heads // self.tp)

    def _specs(self, kept: Kept) -> Iterator[Spec]:
        state = kept.state
        if isinstance(state, RecurrentState):
            yield self._state_spec(state)
        elif isinstance(state, MLAttention):
            yield from self._mla_specs(kept, state)
        elif isinstance(state, CompressedAttention):
            yield from compressed_specs(state, self.block_size)
        else:
            yield self._attention_spec(kept, state)
            index = getattr(state, "index_head_size", None)
            if index:  # MiniMax-M3's indexer: one bf16 key a token
                yield MLASpec(block_size=self.block_size, token_bytes=index * 2, shape=("indexer",))

    def _mla_specs(self, kept: Kept, state: MLAttention) -> Iterator[Spec]:
        dtype, block, dcp = self.dtype(kept), self.block_size, self.engine.decode_context_parallel_size
        token, shape = self._bytes_of(state, dtype), (state.latent_size, dtype.name)
        if state.sliding_window is not None:
            yield SlidingSpec(block_size=block, token_bytes=token, shape=shape, window=state.sliding_window)
        else:
            yield MLASpec(block_size=block, token_bytes=token, shape=shape, dcp=dcp)
        if state.index_head_dim is not None:
            indexer = indexer_bytes(state.index_head_dim)
            yield MLASpec(block_size=block, token_bytes=indexer, shape=("indexer",), dcp=dcp)

    def _attention_spec(self, kept: Kept, state: KVAttention | CrossAttention) -> Spec:
        dtype, block = self.dtype(kept), self.block_size
        token = self._bytes_of(state, dtype)
        shape = (self._kv_heads(state), state.head_size, getattr(state, "value_size", state.head_size), dtype.name)
        if isinstance(state, CrossAttention):
            return CrossSpec(block_size=block, token_bytes=token, shape=shape)
        if state.chunk_size is not None:
            return ChunkedSpec(block_size=block, token_bytes=token, shape=shape, chunk=state.chunk_size)
        if state.sliding_window is not None:
            return SlidingSpec(
                block_size=self._window_block(kept, token),
                token_bytes=token,
                shape=shape,
                window=state.sliding_window,
                padded=self.shared_page,
            )
        dcp = self.engine.decode_context_parallel_size
        return FullSpec(block_size=block, token_bytes=token, shape=shape, dcp=dcp)

    def _window_block(self, kept: Kept, token: int) -> int:
        """The block of a sliding-window layer: the backend's largest that fits the page it shares."""
        backend = self.backend(kept)
        if backend is None or not self.rules.window_blocks:
            return self.block_size
        tokens = self.block_size if self.shared_page is None else self.shared_page // token
        return backend.largest_block_within(self.query(kept), tokens)

    def _state_spec(self, state: RecurrentState) -> StateSpec:
        block = self.block_size if self.mamba_mode in ("align", "all") else self.engine.max_model_len
        return StateSpec(
            block_size=block,
            state_bytes=self._state_bytes(state),
            states=self._states_per_request(state),
            every_block=self.mamba_mode == "all",
            shape=(state,),
            padded=self.shared_page if self._state_page and self.shared_page else self._state_page,
        )


def indexer_bytes(head_dim: int) -> int:
    """One token of DeepSeek-V3.2's indexer: fp8 values and one fp32 scale per 128 of them (models/deepseek_v2.py)."""
    return head_dim + head_dim // 128 * 4


_COMPRESSED_TOKEN, _COMPRESSED_ALIGNMENT = 584, 576
"""448 fp8 values, 64 rotary ones in bf16 and 8 scales; pages are multiples of FlashMLA's stride."""


def compressed_specs(state: CompressedAttention, block_size: int) -> Iterator[Spec]:
    """One DeepSeek-V4 layer's caches, in vLLM's order (vllm/models/deepseek_v4, fp8_ds_mla layout, 0.33)."""

    def page(nbytes: int) -> int:
        return round_up(nbytes, _COMPRESSED_ALIGNMENT)

    def window(rows: int, token: int, length: int) -> SlidingMLASpec:
        return SlidingMLASpec(block_size=rows, token_bytes=token, window=length, padded=page(rows * token))

    def compressed(token: int) -> MLASpec:
        rows = block_size // state.compress_ratio
        return MLASpec(
            block_size=block_size, token_bytes=0, shape=(token, state.compress_ratio), padded=page(rows * token)
        )

    def compressor(width: int) -> SlidingMLASpec:
        overlap = 2 if state.compress_ratio == 4 else 1
        rows = 4 if state.compress_ratio == 4 else 8
        return window(rows, 2 * overlap * width * 4, overlap * state.compress_ratio)

    yield window(64, _COMPRESSED_TOKEN, state.sliding_window)
    if state.index_head_dim is not None:
        yield compressed(indexer_bytes(state.index_head_dim))
        yield compressor(state.index_head_dim)
    if state.compress_ratio > 1:
        yield compressed(_COMPRESSED_TOKEN)
        yield compressor(state.head_dim)


def make_layout(cache: CacheModel) -> Layout:
    """The layout of one engine's cache. Refusal where no backend takes the model with these flags."""
    engine, model = cache.engine, cache.model
    if cache.rules.common_layout:
        backends.check_layouts(cache.backends)
    return Layout(
        groups=cache_groups(
            tuple(cache.layers()),
            cache.rules,
            hybrid_manager=uses_hybrid_manager(model, engine),
            packed=cache.is_packed,
        ),
        stages=pipeline_ranges(len(model.layers), engine.pipeline_parallel_size),
        block_size=cache.block_size,
        rules=cache.rules,
        dcp=engine.decode_context_parallel_size,
        blocks_override=engine.num_gpu_blocks_override,
        packed=cache.is_packed,
    )
