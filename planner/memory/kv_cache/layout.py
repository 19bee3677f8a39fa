"""Model + engine + GPU -> Layout: the chosen backends, the block size, each layer's spec, the groups.

Mirrors Attention.get_kv_cache_spec and its siblings (model_executor/layers), Platform.update_block_size_for_backend
(platforms/interface.py) and MambaModelConfig (model_executor/models/config.py), all 0.33.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import lcm

from planner.engine.backends import BACKENDS, Backend, Query, common_block_size, distinct, select
from planner.engine.defaults import Engine
from planner.hardware.catalogue import Gpu
from planner.memory.kv_cache.capacity import Layout
from planner.memory.kv_cache.dtypes import KVDtype, kv_dtype
from planner.memory.kv_cache.groups import CacheLayer, cache_groups
from planner.memory.kv_cache.specs import ChunkedSpec, CrossSpec, FullSpec, MLASpec, SlidingSpec, Spec, StateSpec
from planner.memory.kv_cache.versions import rules
from planner.memory.weights import pipeline_ranges
from planner.model.architecture import Model
from planner.model.attention import CrossAttention, KVAttention, LayerState, MLAttention, RecurrentState
from planner.units import ceil_div

DEFAULT_BLOCK_SIZE, CPU_BLOCK_SIZE, CPU_MLA_BLOCK_SIZE = 16, 128, 16
_GDN_CHECKPOINT_ALIGNMENT = 64
"""v1/attention/backends/gdn_attn.py FLASHINFER_GDN_CHECKPOINT_ALIGNMENT."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CacheModel:
    """What the layers keep under one engine, before and after the block size is known."""

    model: Model
    engine: Engine
    gpu: Gpu
    kv_cache_dtype: str
    """Resolved: what the flag or the checkpoint says."""

    @cached_property
    def dtype(self) -> KVDtype:
        return kv_dtype(self.kv_cache_dtype, self.engine.vllm_version)

    @property
    def tp(self) -> int:
        return self.engine.tensor_parallel_size

    @cached_property
    def states(self) -> tuple[tuple[int, LayerState], ...]:
        """(index of the model layer, what it keeps), in vLLM's order."""
        return tuple((index, state) for index, layer in enumerate(self.model.layers) for state in layer.states)

    # --- backends ---------------------------------------------------------------------------------------------------

    def query(self, state: KVAttention | MLAttention | CrossAttention) -> Query:
        """What a layer asks of the attention backends."""
        engine = self.engine
        common = {
            "version": engine.vllm_version,
            "capability": engine.capability or 0,
            "dtype": engine.dtype,
            "kv_cache_dtype": self.kv_cache_dtype,
            "block_size": engine.block_size,
            "heads": max(1, state.heads // self.tp),
            "dcp": engine.decode_context_parallel_size,
        }
        if isinstance(state, MLAttention):
            return Query(
                **common,  # type: ignore[arg-type]
                head_size=state.latent_size,
                mla=True,
                sparse=state.index_head_dim is not None,
                sliding_window=state.sliding_window is not None,
                kv_lora_rank=state.kv_lora_rank,
                nope=state.qk_nope_head_dim,
                rope=state.qk_rope_head_dim,
                value=state.v_head_dim,
            )
        return Query(
            **common,  # type: ignore[arg-type]
            head_size=state.head_size,
            head_size_v=getattr(state, "head_size_v", None),
            sinks=getattr(state, "sinks", False),
            sliding_window=getattr(state, "sliding_window", None) is not None,
            mm_prefix=self.model.is_mm_prefix_lm,
            kv_heads=max(1, state.kv_heads // self.tp),
        )

    def backend(self, state: LayerState) -> Backend | None:
        """The backend of one layer; None for recurrent states and off CUDA."""
        if isinstance(state, RecurrentState) or self.gpu.kind != "cuda":
            return None
        return self._chosen[state]

    @cached_property
    def _chosen(self) -> dict[LayerState, Backend]:
        kinds = dict.fromkeys(state for _, state in self.states if not isinstance(state, RecurrentState))
        return {state: select(self.query(state), self.engine.attention_backend) for state in kinds}

    @cached_property
    def backends(self) -> list[tuple[Backend, Query]]:
        """The distinct attention backends, in layer order."""
        if self.gpu.kind != "cuda":
            return []
        found = []
        for state, backend in self._chosen.items():
            if isinstance(state, RecurrentState):
                continue
            found.append((backend, self.query(state)))
            if isinstance(state, MLAttention) and state.index_head_dim is not None:
                found.append((BACKENDS["DEEPSEEK_V32_INDEXER"], self.query(state)))
        return distinct(found)

    @property
    def backend_name(self) -> str | None:
        """For display: the backend of the first attention layer."""
        if self.gpu.kind == "cpu":
            return "CPU_MLA" if self._is_mla else "CPU_ATTN"
        return self.backends[0][0].name if self.backends else None

    @cached_property
    def _is_mla(self) -> bool:
        return any(isinstance(state, MLAttention) for _, state in self.states)

    # --- block size -------------------------------------------------------------------------------------------------

    @cached_property
    def attention_block_size(self) -> int:
        """Before hybrids are aligned."""
        if self.gpu.kind == "cpu":
            if self._is_mla:
                return CPU_MLA_BLOCK_SIZE
            return self.engine.block_size or CPU_BLOCK_SIZE
        if self.engine.block_size is not None:
            return self.engine.block_size
        if not self.backends:
            return DEFAULT_BLOCK_SIZE
        return common_block_size(self.backends, DEFAULT_BLOCK_SIZE)

    @cached_property
    def block_size(self) -> int:
        """The final one: hybrids need an attention page at least as large as a Mamba state (_align_hybrid_block_size)."""
        if self.hybrid_token_bytes == 0 or self.state_bytes == 0:
            return self.attention_block_size
        smallest = [min(backend.block_sizes(query)) for backend, query in self.backends] or [32]
        alignment = max(smallest[0], self.attention_block_size, 128 if self._is_mla else 0)
        if self.mamba_mode == "align":
            alignment = lcm(alignment, self.checkpoint_alignment or 1)
        size = alignment * ceil_div(self.state_bytes, alignment * self.hybrid_token_bytes)
        size = lcm(*smallest) * ceil_div(size, lcm(*smallest))
        return max(self.attention_block_size, size)

    @cached_property
    def hybrid_token_bytes(self) -> int:
        """Bytes of one token in one attention layer of a model that has Mamba layers too; 0 for others."""
        if not any(isinstance(state, RecurrentState) for _, state in self.states):
            return 0
        for _, state in self.states:
            if isinstance(state, KVAttention | MLAttention):
                return self._token_bytes(state)
        return 0

    # --- recurrent states -------------------------------------------------------------------------------------------

    @cached_property
    def mamba_mode(self) -> str:
        """mamba_cache_mode: "none", or "align" with prefix caching."""
        return "align" if self.engine.enable_prefix_caching else "none"

    @cached_property
    def checkpoint_alignment(self) -> int | None:
        """Token alignment of states exported from inside a prefill; None unless every layer can."""
        kinds = {state.type for _, state in self.states if isinstance(state, RecurrentState)}
        if kinds != {"gdn_attention"} or not self._gdn_on_flashinfer:
            return None
        return _GDN_CHECKPOINT_ALIGNMENT

    @property
    def _gdn_on_flashinfer(self) -> bool:
        return self.gpu.kind == "cuda" and (self.engine.capability == 90 or (self.engine.capability or 0) // 10 in (10, 12))

    @cached_property
    def state_bytes(self) -> int:
        """The largest recurrent state of a layer."""
        return max(
            (self._state_bytes(state) for _, state in self.states if isinstance(state, RecurrentState)), default=0
        )

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
        config = self.engine.args.get("speculative_config")
        count = config.get("num_speculative_tokens", 0) if isinstance(config, dict) else 0
        return count if isinstance(count, int) else 0

    def _states_per_request(self, state: RecurrentState) -> int:
        if self.mamba_mode != "align":
            return 1 + self.speculative_tokens
        exports = state.type == "mamba2" or (state.type == "gdn_attention" and self.checkpoint_alignment is not None)
        return 2 + self.speculative_tokens + exports

    # --- specs ------------------------------------------------------------------------------------------------------

    def layers(self) -> Iterator[CacheLayer]:
        """vLLM's kv_cache_spec."""
        made: dict[LayerState, tuple[Spec, ...]] = {}
        for index, state in self.states:
            if state not in made:
                made[state] = tuple(self._specs(state))
            for spec in made[state]:
                yield CacheLayer(index=index, spec=spec)

    def _token_bytes(self, state: KVAttention | MLAttention | CrossAttention) -> int:
        dtype, model_dtype = self.dtype, self.engine.dtype
        if isinstance(state, MLAttention):
            return dtype.latent_bytes(state.latent_size, model_dtype)
        value = getattr(state, "value_size", state.head_size)
        return self._kv_heads(state) * dtype.head_bytes(state.head_size, value, model_dtype)

    def _kv_heads(self, state: KVAttention | CrossAttention) -> int:
        if isinstance(state, KVAttention):
            return state.local_kv_heads(self.tp)
        return max(1, state.kv_heads // self.tp)

    def _specs(self, state: LayerState) -> Iterator[Spec]:
        if isinstance(state, RecurrentState):
            yield self._state_spec(state)
            return
        token, block, dcp = self._token_bytes(state), self.block_size, self.engine.decode_context_parallel_size
        if isinstance(state, MLAttention):
            shape: tuple[object, ...] = (state.latent_size, self.dtype.name)
            if state.sliding_window is not None:
                yield SlidingSpec(block_size=block, token_bytes=token, shape=shape, window=state.sliding_window)
            else:
                yield MLASpec(block_size=block, token_bytes=token, shape=shape, dcp=dcp)
            if state.index_head_dim is not None:
                indexer = indexer_bytes(state.index_head_dim)
                yield MLASpec(block_size=block, token_bytes=indexer, shape=("indexer",), dcp=dcp)
            return
        shape = (self._kv_heads(state), state.head_size, getattr(state, "value_size", state.head_size))
        if isinstance(state, CrossAttention):
            yield CrossSpec(block_size=block, token_bytes=token, shape=shape)
        elif state.chunk_size is not None:
            yield ChunkedSpec(block_size=block, token_bytes=token, shape=shape, chunk=state.chunk_size)
        elif state.sliding_window is not None:
            backend = self.backend(state)
            within = block if backend is None else backend.largest_block_within(self.query(state), block)
            yield SlidingSpec(block_size=within, token_bytes=token, shape=shape, window=state.sliding_window)
        else:
            yield FullSpec(block_size=block, token_bytes=token, shape=shape, dcp=dcp)

    def _state_spec(self, state: RecurrentState) -> StateSpec:
        size = self._state_bytes(state)
        padded = self.block_size * self.hybrid_token_bytes or None
        return StateSpec(
            block_size=self.block_size if self.mamba_mode == "align" else self.engine.max_model_len,
            state_bytes=size,
            states=self._states_per_request(state),
            shape=(state,),
            padded=None if padded == size else padded,
        )


def indexer_bytes(head_dim: int) -> int:
    """One token of DeepSeek-V3.2's indexer: fp8 values and one fp32 scale per 128 of them (models/deepseek_v2.py)."""
    return head_dim + head_dim // 128 * 4


def make_layout(cache: CacheModel) -> Layout:
    """The layout of one engine's cache. Refusal where no backend takes the model with these flags."""
    engine = cache.engine
    version = rules(engine.vllm_version)
    return Layout(
        groups=cache_groups(
            tuple(cache.layers()), version, hybrid_manager=not engine.disable_hybrid_kv_cache_manager
        ),
        stages=pipeline_ranges(len(cache.model.layers), engine.pipeline_parallel_size),
        block_size=cache.block_size,
        rules=version,
        dcp=engine.decode_context_parallel_size,
        blocks_override=engine.num_gpu_blocks_override,
    )
