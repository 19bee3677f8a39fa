"""The plan: how many blocks, tokens and concurrent requests a launch gets, or vLLM's sentence why it does not start."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from planner.engine.defaults import Engine
from planner.errors import Reason
from planner.hardware.catalogue import Gpu
from planner.memory.kv_cache import legal
from planner.memory.kv_cache.capacity import Layout
from planner.memory.kv_cache.layout import CacheModel, make_layout
from planner.memory.kv_cache.messages import cannot_auto_fit, kv_too_small, no_cache_blocks
from planner.memory.kv_cache.specs import Demand
from planner.model.architecture import Model
from planner.model.attention import KVAttention, LayerState, MLAttention, RecurrentState
from planner.units import ceil_div


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """One KV cache group, as vLLM forms it."""

    kind: str
    layers: int
    block_size: int
    page_bytes: int
    """Of one layer; of all layers where their pages differ."""
    blocks_per_request: int


@dataclass(frozen=True, kw_only=True)
class KVCachePlan:
    """What vLLM's engine core works out from the available memory, and prints."""

    block_size: int
    attention_backend: str | None
    kv_cache_dtype: str
    """Resolved: of the flag or, for `auto`, of the checkpoint."""
    bytes_per_block: int
    """Of the tightest pipeline stage."""
    bytes_per_block_by_stage: tuple[int, ...]
    num_blocks: int
    tokens: int
    """ "GPU KV cache size"."""
    max_concurrency: float
    blocks_per_request: int
    bytes_for_one_request: int
    """Of the stage that needs most."""
    max_model_len: int
    """After auto-fit."""
    max_model_len_that_fits: int
    """The longest that this memory would serve, up to what the model allows."""
    groups: tuple[GroupSummary, ...]
    failure: Reason | None = None
    notes: tuple[str, ...] = ()
    """What had to be left out, each a sentence."""
    layout: Layout | None = field(default=None, repr=False, compare=False)
    """What it was worked out from; None where nothing is cached."""
    demand: Demand | None = field(default=None, repr=False, compare=False)

    def concurrency_at(self, length: int, spare_bytes: int = 0) -> float:
        """Requests of this many tokens that the blocks hold at once, with so many bytes of each rank left over."""
        if self.layout is None or self.demand is None or not self.bytes_per_block:
            return math.inf
        blocks = self.num_blocks - ceil_div(spare_bytes, self.bytes_per_block)
        return self.layout.capacity(max(0, blocks), self.demand.with_len(length))[1]


def cache_model(
    model: Model,
    engine: Engine,
    gpu: Gpu,
    checkpoint_kv_dtype: str | None = None,
    draft: Model | None = None,
) -> CacheModel:
    """checkpoint_kv_dtype: the checkpoint's own KV scheme (dtypes.checkpoint_kv_dtype), for --kv-cache-dtype auto.

    draft: the model of speculative_config, whose layers join the cache.
    """
    name = resolved_kv_dtype(model, engine, gpu, checkpoint_kv_dtype)
    legal.check(model, engine, name)
    return CacheModel(
        model=model, engine=engine, gpu=gpu, kv_cache_dtype=name, draft=draft_states(model, engine, draft)
    )


_WITHOUT_LAYERS = frozenset({"ngram", "ngram_gpu", "suffix"})


def speculative_method(engine: Engine) -> str | None:
    """The method of speculative_config; None without one."""
    config = engine.args.get("speculative_config")
    if not isinstance(config, dict):
        return None
    method = config.get("method")
    return method if isinstance(method, str) else "draft_model"


def draft_states(model: Model, engine: Engine, draft: Model | None) -> tuple[LayerState, ...]:
    """What a draft's layers keep. A multi-token predictor is one more attention layer of the model's own kind."""
    method = speculative_method(engine)
    if method is None or method in _WITHOUT_LAYERS:
        return ()
    if draft is not None:
        return tuple(state for layer in draft.layers for state in layer.states)
    if not method.endswith("mtp"):
        return ()
    full = [
        state
        for layer in model.layers
        for state in layer.states
        if isinstance(state, MLAttention) or (isinstance(state, KVAttention) and state.sliding_window is None)
    ]
    return tuple(full[-1:])


def state_notes(model: Model, engine: Engine, gpu: Gpu) -> tuple[str, ...]:
    """Says so where the processor decides how wide a recurrent state is (platforms/cpu.py check_and_update_config)."""
    if gpu.kind != "cpu":
        return ()
    states = [state for state in model.states if isinstance(state, RecurrentState)]
    asked = engine.args.get("mamba_ssm_cache_dtype", "auto")

    def size(state: RecurrentState, dtype: str) -> int:
        return state.nbytes(1, model_dtype=engine.dtype, ssm_cache_dtype=dtype)

    if all(size(state, asked) == size(state, "float32") for state in states):
        return ()
    return (
        "On a processor with AVX512-BF16 vLLM keeps recurrent states in float32, in larger blocks; "
        "--mamba-ssm-cache-dtype float32 estimates that.",
    )


def resolved_kv_dtype(model: Model, engine: Engine, gpu: Gpu, checkpoint_kv_dtype: str | None) -> str:
    """cache_dtype before the layers are built: flag, checkpoint, then the model's own rule (models/config.py)."""
    name = engine.kv_cache_dtype
    if name == "auto" and checkpoint_kv_dtype is not None:
        name = checkpoint_kv_dtype
    for architectures, since, until, rule in _MODEL_DTYPES:
        if model.architecture in architectures and since <= engine.vllm_version < until:
            name = rule(name, gpu.capability)
    return name


def _sparse_deepseek(name: str, capability: int | None) -> str:
    return "auto" if name == "bfloat16" else name


def _old_sparse_deepseek(name: str, capability: int | None) -> str:
    return "fp8_ds_mla" if name.startswith("fp8") else _sparse_deepseek(name, capability)


def _fp8_on_blackwell(name: str, capability: int | None) -> str:
    return "fp8_e4m3" if name == "auto" and capability is not None and capability // 10 == 10 else name


_DtypeRule = Callable[[str, int | None], str]
_MODEL_DTYPES: tuple[tuple[frozenset[str], tuple[int, int], tuple[int, int], _DtypeRule], ...] = (
    (frozenset({"DeepseekV32ForCausalLM"}), (0, 11), (0, 18), _old_sparse_deepseek),
    (frozenset({"DeepseekV32ForCausalLM"}), (0, 18), (1, 0), _sparse_deepseek),
    (frozenset({"GlmMoeDsaForCausalLM"}), (0, 33), (1, 0), _fp8_on_blackwell),
)
"""(architectures, first version, first version without it, rule over cache_dtype and compute capability)."""


def demand_of(engine: Engine, layout: Layout) -> Demand:
    """What one request of full length asks of this engine's cache."""
    batches = engine.max_concurrent_batches if layout.rules.concurrent_batches else 1
    return Demand(
        max_model_len=engine.max_model_len,
        in_flight=engine.max_num_batched_tokens * batches,
        encoder_tokens=engine.max_num_batched_tokens,
    )


def plan_kv_cache(
    model: Model,
    engine: Engine,
    gpu: Gpu,
    available_bytes: Sequence[int],
    *,
    checkpoint_kv_dtype: str | None = None,
    draft: Model | None = None,
) -> KVCachePlan:
    """What this much memory per pipeline stage (of one rank) holds. Refusal for an illegal dtype or backend."""
    cache = cache_model(model, engine, gpu, checkpoint_kv_dtype, draft)
    layout = make_layout(cache)
    demand = demand_of(engine, layout)
    if not layout.groups:
        return _attention_free(cache, demand, len(available_bytes))
    checked = layout.checked(available_bytes)
    longest = layout.longest(checked, demand, max(model.max_position, demand.max_model_len))
    failure = None
    if engine.auto_max_model_len and layout.rules.auto_fit:
        if longest > 0:
            demand = demand.with_len(min(longest, demand.max_model_len))
        elif min(checked) > 0:
            failure = cannot_auto_fit()
    blocks = max(0, layout.num_blocks(available_bytes))
    failure = failure or start_up_failure(layout, checked, demand, longest, blocks)
    tokens, concurrency = layout.capacity(blocks, demand)
    per_block, needed = layout.bytes_per_block, layout.bytes_needed(demand)
    tightest = min(range(len(per_block)), key=lambda i: available_bytes[i] // per_block[i] if per_block[i] else 1 << 62)
    return KVCachePlan(
        block_size=layout.block_size,
        attention_backend=cache.backend_name,
        kv_cache_dtype=cache.resolved_dtype,
        bytes_per_block=per_block[tightest],
        bytes_per_block_by_stage=per_block,
        num_blocks=blocks,
        tokens=tokens,
        max_concurrency=concurrency,
        blocks_per_request=layout.blocks_per_request(demand),
        bytes_for_one_request=max(needed),
        max_model_len=demand.max_model_len,
        max_model_len_that_fits=longest,
        groups=tuple(_summary(layout, demand)),
        failure=failure,
        notes=state_notes(model, engine, gpu),
        layout=layout,
        demand=demand,
    )


def start_up_failure(
    layout: Layout, checked: Sequence[int], demand: Demand, longest: int, blocks: int
) -> Reason | None:
    """vLLM's own sentence when the cache cannot serve one request of full length; None when it can."""
    wording, length = layout.rules.wording, demand.max_model_len
    if layout.rules.length_check == "tokens":
        tokens = blocks * layout.block_size
        if blocks <= 0:
            return no_cache_blocks(wording)
        if length <= tokens:
            return None
        return kv_too_small(wording, length=length, needed=0, available=0, estimate=0, tokens=tokens)
    for stage, (room, per_block) in enumerate(zip(checked, layout.bytes_per_block, strict=True)):
        if not per_block:
            continue
        if room <= 0:
            return no_cache_blocks(wording)
        needed = layout.bytes_needed(demand)[stage]
        if needed > room:
            return kv_too_small(
                wording,
                length=length,
                needed=needed,
                available=room,
                estimate=min(_longest_on(layout, stage, room, demand), length),
                tokens=0,
            )
    return None


def _longest_on(layout: Layout, stage: int, room: int, demand: Demand) -> int:
    """vLLM estimates on the first stage that is too small, not on all."""
    rooms = tuple(room if i == stage else 1 << 62 for i in range(len(layout.stages)))
    return layout.longest(rooms, demand, demand.max_model_len)


def _summary(layout: Layout, demand: Demand) -> list[GroupSummary]:
    return [
        GroupSummary(
            kind=group.kind,
            layers=len(group.layers),
            block_size=group.block_size,
            page_bytes=group.page() if len(group.specs) > 1 else group.specs[0].page,
            blocks_per_request=group.blocks(demand),
        )
        for group in layout.groups
    ]


def _attention_free(cache: CacheModel, demand: Demand, stages: int) -> KVCachePlan:
    """Nothing is cached: one null block (get_kv_cache_config_from_groups)."""
    return KVCachePlan(
        block_size=cache.attention_block_size,
        attention_backend=cache.backend_name,
        kv_cache_dtype=cache.resolved_dtype,
        bytes_per_block=0,
        bytes_per_block_by_stage=(0,) * stages,
        num_blocks=1,
        tokens=0,
        max_concurrency=0.0,
        blocks_per_request=0,
        bytes_for_one_request=0,
        max_model_len=demand.max_model_len,
        max_model_len_that_fits=demand.max_model_len,
        groups=(),
    )
