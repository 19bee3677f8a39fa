"""Adds it all up: model + GPU + engine args -> Estimate, a pure function over integers (bytes)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, Literal

from planner.engine import rules
from planner.engine.args import EngineArgs
from planner.engine.defaults import Engine, Usage, resolve
from planner.engine.version import NEWEST, VllmVersion
from planner.errors import InputError, Reason, Refusal
from planner.hardware.catalogue import Gpu
from planner.memory.allocator import loading_max_split
from planner.memory.draft import Draft, DraftBytes
from planner.memory.kv_cache import KVCachePlan, plan_kv_cache
from planner.memory.kv_cache.dtypes import checkpoint_kv_dtype
from planner.memory.lora import lora_stages
from planner.memory.offload import offloaded_bytes
from planner.memory.overhead import Overhead, available_error, overhead
from planner.memory.quantization import Quantization
from planner.memory.verdict import after_start, held_at_capture, verdict
from planner.memory.weights import StageWeights, stage_weights
from planner.model.architecture import Model
from planner.model.modules import EngineBuffer, Placement
from planner.units import gib

Status = Literal["fits", "does_not_fit", "refused"]


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One pipeline stage's rank 0; tensor-parallel ranks of a stage are alike."""

    pp_rank: int
    weights_bytes: int
    loading_bytes: int
    available_kv_bytes: int
    num_blocks: int

    def to_dict(self) -> dict[str, int]:
        """As an entry of an answer's `ranks`, sizes in bytes."""
        return {
            "pp_rank": self.pp_rank,
            "weights_bytes": self.weights_bytes,
            "available_kv_bytes": self.available_kv_bytes,
            "num_blocks": self.num_blocks,
        }


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What vLLM would do. Bytes are integers, per GPU, of the tightest rank. Unknown parts are None, never 0."""

    status: Status
    reasons: tuple[Reason, ...]
    model: Model
    gpu: Gpu
    engine: Engine | None
    requested_bytes: int | None = None
    stages: tuple[StageWeights, ...] = ()
    overheads: tuple[Overhead, ...] = ()
    ranks: tuple[Rank, ...] = ()
    kv_cache: KVCachePlan | None = None
    basis: Mapping[str, str] = field(default_factory=dict)
    available_range: tuple[int, int] | None = None
    offloaded_bytes: int = 0
    assumed: Mapping[str, str] = field(default_factory=dict)
    """Which terms rest on an assumption, and on which."""
    warnings: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether vLLM would start: neither refused nor out of memory."""
        return self.status == "fits"

    @property
    def verdict(self) -> str:
        """ "fits", "does not fit", or "too close to call, because …" where the answer flips within the range."""
        return verdict(self.status, self.reasons, self.kv_cache, self.engine, self.available_range)

    @property
    def tightest(self) -> int:
        """Index of the pipeline stage with the least room for KV cache."""
        return min(range(len(self.ranks)), key=lambda i: self.ranks[i].num_blocks, default=0)

    @property
    def weights(self) -> StageWeights | None:
        """The weights of the tightest pipeline stage, in bytes by group; None for a launch refused before."""
        return self.stages[self.tightest] if self.stages else None

    @property
    def overhead(self) -> Overhead | None:
        """What the tightest rank needs beside weights and KV cache, in bytes; None for a launch refused before."""
        return self.overheads[self.tightest] if self.overheads else None

    @property
    def outside_budget_bytes(self) -> int:
        """Used beyond the requested share, by versions that do not budget for it."""
        return self.overhead.outside_budget if self.overhead is not None else 0

    def to_dict(self, request_id: object = None) -> dict[str, Any]:
        """The answer as the JSON contract has it (docs/contract.md)."""
        return {
            "id": request_id,
            "status": self.status,
            "verdict": self.verdict,
            "reasons": [reason.to_dict() for reason in self.reasons],
            "model": {
                "name": self.model.name,
                "architecture": self.model.architecture,
                "parameters": self.model.parameters,
            },
            "gpu": {
                "name": self.gpu.name,
                "memory_bytes": self.gpu.memory_bytes,
                "compute_capability": self.gpu.compute_capability,
            },
            "engine": self._engine_dict(),
            "memory": self._memory_dict(self.tightest),
            "weights": dict(self.weights.groups) if self.weights else None,
            "kv_cache": self._kv_dict(),
            "ranks": [{**rank.to_dict(), "memory": self._memory_dict(i)} for i, rank in enumerate(self.ranks)],
            "basis": dict(self.basis),
            "assumed": dict(self.assumed),
            "range": {"available_kv_bytes": list(self.available_range)} if self.available_range else {},
            "warnings": list(self.warnings),
        }

    def _engine_dict(self) -> dict[str, Any] | None:
        if self.engine is None:
            return None
        engine, kv = self.engine, self.kv_cache
        resolved = {
            name: getattr(engine, name)
            for name in (
                "tensor_parallel_size",
                "pipeline_parallel_size",
                "data_parallel_size",
                "decode_context_parallel_size",
                "enable_expert_parallel",
                "dtype",
                "quantization",
                "max_model_len",
                "max_num_seqs",
                "max_num_batched_tokens",
                "gpu_memory_utilization",
                "enforce_eager",
                "enable_prefix_caching",
                "enable_chunked_prefill",
                "async_scheduling",
                "disable_hybrid_kv_cache_manager",
                "kv_cache_memory_bytes",
                "num_gpu_blocks_override",
                "cpu_offload_gb",
                "kv_offloading_size",
            )
        }
        return {
            **dict(engine.args),
            **resolved,
            "max_model_len": kv.max_model_len if kv else engine.max_model_len,
            "kv_cache_dtype": kv.kv_cache_dtype if kv else engine.kv_cache_dtype,
            "block_size": kv.block_size if kv else engine.block_size,
            "attention_backend": kv.attention_backend if kv else engine.attention_backend,
            "cudagraph_capture_sizes": list(engine.cudagraph_capture_sizes),
            "usage": engine.usage,
            "vllm_version": str(engine.vllm_version),
        }

    def _memory_dict(self, stage: int) -> dict[str, int | None] | None:
        if not self.overheads or not self.ranks:
            return None
        rank, beside = self.ranks[stage], self.overheads[stage]
        return {
            "total_bytes": self.gpu.memory_bytes,
            "requested_bytes": self.requested_bytes,
            "weights_bytes": rank.weights_bytes,
            "model_loading_bytes": rank.loading_bytes,
            "activation_peak_bytes": beside.activation_peak,
            "persistent_bytes": beside.persistent,
            "non_torch_bytes": beside.non_torch,
            "cuda_graph_bytes": beside.cuda_graph,
            "available_kv_bytes": rank.available_kv_bytes,
            "outside_budget_bytes": beside.outside_budget,
            "cuda_graph_outside_bytes": beside.cuda_graph_outside,
            "persistent_outside_bytes": beside.persistent_outside,
            "later_bytes": beside.later,
            "offloaded_bytes": self.offloaded_bytes,
        }

    def _kv_dict(self) -> dict[str, Any] | None:
        kv = self.kv_cache
        if kv is None:
            return None
        return {
            "block_size": kv.block_size,
            "bytes_per_block": kv.bytes_per_block,
            "num_blocks": kv.num_blocks,
            "tokens": kv.tokens,
            "max_concurrency": round(kv.max_concurrency, 2),
            "bytes_for_one_request": kv.bytes_for_one_request,
            "max_model_len_that_fits": kv.max_model_len_that_fits,
        }


def estimate(
    model: Model,
    gpu: Gpu,
    args: EngineArgs | None = None,
    *,
    quantization: Quantization | None = None,
    version: VllmVersion = NEWEST,
    usage: Usage = "server",
    memory_used: int = 0,
    assumed: Mapping[str, str] | None = None,
    draft: Draft | None = None,
) -> Estimate:
    """What vLLM would make of this launch.

    quantization: of the checkpoint or of `--quantization`, made by planner.memory.quantization. memory_used: bytes of
    each card that others hold when the launch begins. assumed: terms ("weights" …) that rest on an assumption, and
    which. Raises InputError for input that makes no sense; a launch that vLLM rejects is an Estimate with status
    "refused".
    """
    args = EngineArgs() if args is None else args
    engine = None
    try:
        engine = resolve(model, gpu, args, version, usage, quantized=quantization is not None)
        rules.check(model, gpu, engine, quantization)
        return _estimate(model, gpu, engine, quantization, memory_used, dict(assumed or {}), draft)
    except Refusal as refusal:
        return Estimate(status="refused", reasons=(refusal.reason,), model=model, gpu=gpu, engine=engine)


def _estimate(
    model: Model,
    gpu: Gpu,
    engine: Engine,
    quantization: Quantization | None,
    memory_used: int,
    assumed: dict[str, str],
    draft: Draft | None,
) -> Estimate:
    placement = placement_of(engine, quantization)
    if draft is not None:
        draft.check(engine)
        placement = draft.placement(placement)
    stages = with_extras(weights_of(model, engine, placement), model, engine, placement, draft)
    last = len(stages) - 1
    beside = tuple(overhead_of(model, gpu, engine, quantization, last_stage=stage.pp_rank == last) for stage in stages)
    offloaded = offloaded_bytes(model, placement, engine, stages)
    requested, available = available_memory(gpu, engine, stages, beside, offloaded)
    plan = None
    if has_kv_cache(model):
        own = checkpoint_kv_dtype(quantization.parameters, engine.vllm_version) if quantization is not None else None
        plan = plan_kv_cache(
            model, engine, gpu, available, checkpoint_kv_dtype=own, draft=draft.model if draft is not None else None
        )
    ranks = ranks_of(stages, available, plan)
    capture, under_load = once_sized(gpu, engine, stages, available, beside, offloaded, memory_used)
    failures = (
        not_free(gpu, engine, requested, memory_used)
        or ([plan.failure] if plan and plan.failure else [])
        or _does_not_load(requested, ranks, plan)
        or (capture if plan else [])
    )
    given = engine.kv_cache_memory_bytes is not None or engine.on_cpu
    error = 0 if given else available_error(model, engine, unified=gpu.unified)
    expected = (min(available) - error, min(available) + error)
    return Estimate(
        status="does_not_fit" if failures else "fits",
        reasons=tuple(failures),
        model=model,
        gpu=gpu,
        engine=engine,
        requested_bytes=requested,
        stages=stages,
        overheads=beside,
        ranks=ranks,
        kv_cache=plan,
        basis=basis_of(model, engine, quantization, beside[-1], assumed),
        available_range=expected,
        offloaded_bytes=offloaded,
        assumed=assumed,
        warnings=(
            *(plan.notes if plan else ()),
            *(quantization.notes if quantization else ()),
            *(draft.notes if draft else ()),
            *([] if failures else under_load),
        ),
    )


def ranks_of(stages: Sequence[StageWeights], available: Sequence[int], plan: KVCachePlan | None) -> tuple[Rank, ...]:
    """What each stage holds, and how many blocks its own room would make."""
    per_block = plan.bytes_per_block_by_stage if plan else [0] * len(stages)
    return tuple(
        Rank(
            pp_rank=stage.pp_rank,
            weights_bytes=stage.tensor_bytes,
            loading_bytes=stage.block_bytes,
            available_kv_bytes=room,
            num_blocks=max(0, room // size) if size else 0,
        )
        for stage, room, size in zip(stages, available, per_block, strict=True)
    )


def with_extras(
    stages: tuple[StageWeights, ...], model: Model, engine: Engine, placement: Placement, draft: Draft | None
) -> tuple[StageWeights, ...]:
    """The stages with LoRA's slots, and the draft's weights on the last one: all part of "Model loading took"."""
    max_split = loading_max_split(engine.vllm_version)
    slots = lora_stages(model, engine, placement, [stage.layers for stage in stages], max_split=max_split)
    drafted = DraftBytes() if draft is None else draft.weights(engine, placement, max_split=max_split)
    found = []
    for stage, lora in zip(stages, slots, strict=True):
        of_draft = drafted if stage.pp_rank == len(stages) - 1 else DraftBytes()
        extra = lora.tensor_bytes + of_draft.tensor_bytes
        groups = {**stage.groups, "other": stage.groups["other"] + extra}
        found.append(
            replace(
                stage,
                groups=groups,
                tensor_bytes=stage.tensor_bytes + extra,
                block_bytes=stage.block_bytes + lora.block_bytes + of_draft.block_bytes,
            )
        )
    return tuple(found)


def placement_of(engine: Engine, quantization: Quantization | None) -> Placement:
    """Where an engine builds its modules."""
    return Placement(
        tp_size=engine.tensor_parallel_size,
        expert_parallel_size=engine.expert_parallel_size,
        dtype=engine.dtype,
        capability=engine.capability,
        quantization=quantization,
        enable_lora=bool(engine.args.get("enable_lora")),
        vllm_version=engine.vllm_version,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_num_seqs=engine.max_num_seqs,
        towers_on_every_stage=engine.vllm_version < (0, 33) or not engine.use_v2_model_runner,
    )


def weights_of(model: Model, engine: Engine, placement: Placement) -> tuple[StageWeights, ...]:
    """The weights of each pipeline stage, worked out once for all that they depend on."""
    if not sizes_buffers(model):
        placement = replace(placement, max_num_batched_tokens=0, max_num_seqs=0)
    max_split = loading_max_split(engine.vllm_version)
    key = ("weights", placement, engine.pipeline_parallel_size, max_split)
    if key not in model.memo:
        model.memo[key] = stage_weights(model, placement, engine.pipeline_parallel_size, max_split=max_split)
    stages: tuple[StageWeights, ...] = model.memo[key]
    return stages


def sizes_buffers(model: Model) -> bool:
    """Whether the batch decides how large some of the model's tensors are."""
    if "sizes_buffers" not in model.memo:
        layers = [module for layer in set(model.layers) for module in layer.modules]
        modules = (*model.first, *model.last, *model.tied, *model.everywhere, *model.towers, *layers)
        model.memo["sizes_buffers"] = any(isinstance(module, EngineBuffer) for module in modules)
    return bool(model.memo["sizes_buffers"])


def overhead_of(
    model: Model, gpu: Gpu, engine: Engine, quantization: Quantization | None, *, last_stage: bool
) -> Overhead:
    """What a rank of a stage needs beside weights and KV cache."""
    return overhead(model, engine, last_stage=last_stage, quantization=quantization, unified=gpu.unified)


def available_memory(
    gpu: Gpu, engine: Engine, stages: tuple[StageWeights, ...], overheads: tuple[Overhead, ...], offloaded: int
) -> tuple[int | None, list[int]]:
    """(requested bytes, bytes for KV cache per pipeline stage)."""
    if engine.kv_cache_memory_bytes is not None:
        requested = None if gpu.memory_bytes is None else ceil(gpu.memory_bytes * engine.gpu_memory_utilization)
        return requested, [engine.kv_cache_memory_bytes] * len(stages)
    if engine.on_cpu:
        raise InputError("a CPU engine's KV cache has no size of its own: pass --kv-cache-memory-bytes")
    total = gpu.known_memory()
    requested = ceil(total * engine.gpu_memory_utilization)
    return requested, [
        requested - (stage.block_bytes - offloaded) - beside.in_budget
        for stage, beside in zip(stages, overheads, strict=True)
    ]


def once_sized(
    gpu: Gpu,
    engine: Engine,
    stages: Sequence[StageWeights],
    available: Sequence[int],
    overheads: Sequence[Overhead],
    offloaded: int,
    memory_used: int,
) -> tuple[list[Reason], list[str]]:
    """(failures while CUDA graphs are captured, warnings of what may happen under load), of the fullest stage."""
    full = max(zip(stages, available, overheads, strict=True), key=lambda at: held_at_capture(offloaded, *at))
    return after_start(gpu, engine, full[2], held_at_capture(offloaded, *full), memory_used)


def has_kv_cache(model: Model) -> bool:
    """Encoders keep nothing of a request."""
    return bool(model.states)


def not_free(gpu: Gpu, engine: Engine, requested: int | None, used: int) -> list[Reason]:
    """The check at start-up that so much is free as is requested (v1/worker/utils.py request_memory, 0.9 to 0.33)."""
    if requested is None or gpu.memory_bytes is None or engine.on_cpu or engine.vllm_version < (0, 9):
        return []
    free = gpu.memory_bytes - used
    if free >= requested:
        return []
    return [
        Reason(
            code="free_memory_below_requested",
            message=f"Free memory on device cuda:0 ({gib(free)}/{gib(gpu.memory_bytes)} GiB) on startup is less than "
            f"desired GPU memory utilization ({engine.gpu_memory_utilization}, {gib(requested)} GiB). Decrease GPU "
            "memory utilization or reduce GPU memory used by other processes.",
            flag="--gpu-memory-utilization",
        )
    ]


def _does_not_load(requested: int | None, ranks: tuple[Rank, ...], plan: KVCachePlan | None) -> list[Reason]:
    """For a model without KV cache: the weights and the profile run must fit in the requested share."""
    if plan is not None or requested is None:
        return []
    room = min(rank.available_kv_bytes for rank in ranks)
    if room > 0:
        return []
    return [
        Reason(
            code="out_of_memory",
            message=f"CUDA out of memory: {gib(requested - room)} GiB are needed, {gib(requested)} GiB are requested.",
            flag="--gpu-memory-utilization",
        )
    ]


def basis_of(
    model: Model, engine: Engine, quantization: Quantization | None, beside: Overhead, assumed: dict[str, str]
) -> dict[str, str]:
    """How each term is known. assumed: terms that rest on an assumption, and which."""
    given = engine.kv_cache_memory_bytes is not None or engine.on_cpu
    inexact = bool(model.notes) or (quantization is not None and (quantization.assumed or not quantization.exact))
    basis = {"weights": "assumed" if inexact else "exact"}
    for term in ("activation_peak", "non_torch", "cuda_graph"):
        nothing = engine.on_cpu or (term == "cuda_graph" and engine.enforce_eager)
        basis[term] = "exact" if nothing else beside.basis[term]
    basis["available_kv"] = basis["kv_cache"] = "exact" if given else beside.basis["available_kv"]
    return {**basis, **dict.fromkeys(assumed, "assumed")}
