"""What one rank has to read, compute and send for a step: numbers taken from an Estimate, nothing about speed.

Every field is a float, or an array of one value a configuration: the step model broadcasts over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from planner.memory.budget import placement_of
from planner.memory.kv_cache.dtypes import KV_DTYPES
from planner.memory.offload import offloaded_bytes
from planner.memory.quantization.schemes import Fp8
from planner.model.attention import (
    CompressedAttention,
    CrossAttention,
    LayerState,
    MLAttention,
    RecurrentState,
)
from planner.model.modules import Experts, Group, HeadsWeight, Linear, LmHead, Placement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from planner.engine.defaults import Engine
    from planner.memory.budget import Estimate
    from planner.memory.quantization import Quantization, Scheme
    from planner.memory.weights import StageWeights
    from planner.model.architecture import Model

    Numbers = float | NDArray[np.float64]
else:
    Numbers = float

_SPARSE_TOPK = 2048
"""Tokens that DeepSeek-V3.2's indexer keeps (index_topk of its config; GLM-5's is the same)."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Per rank and, where pipeline stages share the layers, summed over the stages. FLOPs are for one token."""

    attention_bytes: Numbers
    attention_flops: Numbers
    mlp_bytes: Numbers
    mlp_flops: Numbers
    head_bytes: Numbers
    head_flops: Numbers
    expert_bytes: Numbers
    """Of all experts on the rank."""
    expert_flops: Numbers
    """Of the experts that one token goes through, divided over the ranks."""
    expert_share: Numbers
    """The part of the experts that one token goes through: top_k / count."""
    expert_replicas: Numbers
    """Data-parallel replicas whose tokens meet in the experts (expert parallelism)."""
    rank_experts: Numbers
    """Experts of a layer on one rank; 1 without experts."""
    expert_excess: Numbers
    """Standard deviations that the busiest of the ranks which share the experts is expected above their mean."""
    kv_full: Numbers
    """Bytes of KV cache read for each token of context by layers that look at all of it."""
    kv_window: Numbers
    """The same for layers with a window."""
    window: Numbers
    """Tokens of that window."""
    state_bytes: Numbers
    """Recurrent state of one request, read and written in each step."""
    pair_full: Numbers
    """FLOPs of decode attention for one token and one token of its context, in layers that look at all of it."""
    pair_window: Numbers
    prefill_full: Numbers
    """The same in prefill, where MLA computes with whole heads."""
    prefill_window: Numbers
    layers: Numbers
    """All layers: each costs small kernels and the gaps between kernels."""
    expert_layers: Numbers
    """Those with a mixture of experts: router, sorting of tokens, weighted sum."""
    state_layers: Numbers
    """Those with a recurrent state (Mamba, linear attention)."""
    latent_layers: Numbers
    """Those with MLA: down- and up-projections beside the attention itself."""
    reduces: Numbers
    """All-reduces of hidden states in a step; 0 without tensor parallelism."""
    norm_reduces: Numbers
    """Those of norms over all heads of a layer: two numbers a token."""
    exchanges: Numbers
    """All-to-alls of a step (dispatch and combine), where experts are spread over data-parallel ranks."""
    hidden_bytes: Numbers
    """Of one token's hidden state, what a collective moves."""
    tp: Numbers
    pp: Numbers


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """Which kernels compute each group: the names under which constants are kept.

    In 16 bits (bf16); natively in fp8, int8 or fp4; weight-only by Marlin (fp8_weight, int8_weight, int4_weight,
    fp4_weight), which unpacks to 16 bits in CUDA cores and multiplies with Ampere's instruction; weight-only by Triton,
    with Hopper's (fp4_triton: gpt-oss there).
    """

    attention: str
    mlp: str
    experts: str
    head: str
    kv: str
    """What the KV cache holds: "mla", "fp8", or "" for plain keys and values in 16 bits."""
    expert_backend: str
    """Whose kernels the experts run where they cost time of their own: "flashinfer_cutlass", else ""."""
    host_share: float
    """The part of the layers' weights that they read over PCIe, from host memory."""


def stacked(works: Sequence[Work]) -> Work:
    """Several configurations as one, along the first axis of arrays."""
    import numpy as np

    return Work(**{f.name: np.array([getattr(w, f.name) for w in works], dtype=float) for f in fields(Work)})


def work_of(estimate: Estimate, quantization: Quantization | None) -> tuple[Work, Kernels]:
    """What a step of this engine costs on one rank. The estimate must have an engine and its weights."""
    assert estimate.engine is not None
    dtype = estimate.kv_cache.kv_cache_dtype if estimate.kv_cache is not None else "auto"
    return work_of_launch(estimate.model, estimate.engine, estimate.stages, dtype, quantization)


def work_of_launch(
    model: Model, engine: Engine, stages: tuple[StageWeights, ...], kv_dtype: str, quantization: Quantization | None
) -> tuple[Work, Kernels]:
    """The same of its parts. `kv_dtype` is the one that the KV cache has in the end."""
    tp, ep = engine.tensor_parallel_size, engine.expert_parallel_size
    at = placement_of(engine, quantization)
    groups = _group_bytes(stages)
    flops = _group_flops(model, tp, ep)
    states = _states(model, engine, kv_dtype)
    experts = [(module, n) for module, n in _modules(model) if isinstance(module, Experts)]
    share = experts[0][0].top_k / experts[0][0].count if experts else 1.0
    spread = engine.data_parallel_size > 1 and ep > 1 and bool(experts)
    kinds = [{type(state) for state in layer.states} for layer in model.layers]
    work = Work(
        attention_bytes=groups["attention"],
        attention_flops=flops["attention"],
        mlp_bytes=groups["mlp"],
        mlp_flops=flops["mlp"],
        head_bytes=_head_bytes(model, groups),
        head_flops=0.0 if model.is_pooling else 2.0 * model.hidden_size * model.vocab_size / tp,
        expert_bytes=groups["experts"],
        expert_flops=flops["experts"],
        expert_share=share,
        expert_replicas=float(engine.data_parallel_size) if spread else 1.0,
        rank_experts=experts[0][0].count / ep if experts else 1.0,
        expert_excess=_largest_of(ep),
        **states,
        layers=float(len(model.layers)),
        expert_layers=float(sum(n for _, n in experts)),
        state_layers=float(sum(RecurrentState in kind for kind in kinds)),
        latent_layers=float(sum(MLAttention in kind for kind in kinds)),
        reduces=float(_reduces(model)) if tp > 1 else 0.0,
        norm_reduces=float(_norm_reduces(model)) if tp > 1 else 0.0,
        exchanges=2.0 * sum(n for _, n in experts) if spread else 0.0,
        hidden_bytes=2.0 * model.hidden_size,
        tp=float(tp),
        pp=float(engine.pipeline_parallel_size),
    )
    host_share = _host_share(offloaded_bytes(model, at, engine, stages), groups, len(stages))
    return work, _kernels(model, engine, at, kv_dtype, host_share)


def _largest_of(n: int) -> float:
    """Expected largest of n standard normal values (Blom's approximation)."""
    if n == 1:
        return 0.0
    from statistics import NormalDist  # its import takes longer than a prediction

    return NormalDist().inv_cdf((n - 0.375) / (n + 0.25))


def _modules(model: Model) -> Iterable[tuple[Linear | Experts | LmHead, int]]:
    """Matrix products of the model with how many equal layers have each."""
    counts: dict[int, int] = {}
    for layer in model.layers:
        counts[id(layer)] = counts.get(id(layer), 0) + 1
    seen: set[int] = set()
    for layer in model.layers:
        if id(layer) not in seen:
            seen.add(id(layer))
            yield from ((m, counts[id(layer)]) for m in layer.modules if isinstance(m, Linear | Experts))
    yield from ((m, 1) for m in (*model.last, *model.everywhere) if isinstance(m, LmHead))


def _group_bytes(stages: Sequence[StageWeights]) -> dict[Group, float]:
    """Bytes of one rank by group, summed over pipeline stages."""
    sums: dict[Group, float] = {}
    for stage in stages:
        for group, nbytes in stage.groups.items():
            sums[group] = sums.get(group, 0.0) + nbytes
    return sums


def _host_share(offloaded: int, groups: Mapping[Group, float], stages: int) -> float:
    """offloaded: of each stage."""
    layers = groups["attention"] + groups["mlp"] + groups["experts"]
    return min(1.0, offloaded * stages / layers) if offloaded else 0.0


def _group_flops(model: Model, tp: int, ep: int) -> dict[str, float]:
    """FLOPs of one token on one rank by group; layers that every rank repeats are not divided."""
    sums = {"attention": 0.0, "mlp": 0.0, "experts": 0.0, "other": 0.0}
    for module, count in _modules(model):
        if isinstance(module, Experts):
            active = module.parameters * module.top_k / module.count
            sums["experts"] += 2.0 * count * active / max(tp, ep)
        elif isinstance(module, Linear):
            group = module.group if module.group in sums else "other"
            sums[group] += 2.0 * count * module.parameters / (1 if module.split == "none" else tp)
    return sums


def _head_bytes(model: Model, groups: Mapping[Group, float]) -> float:
    """A tied head reads the embedding."""
    if model.is_pooling:
        return 0.0
    return groups["lm_head"] or groups["embedding"]


def _reduces(model: Model) -> int:
    """One after attention and one after the MLP of each layer, and one for the embedding."""
    return 1 + sum(
        min(2, sum(1 for m in layer.modules if isinstance(m, Experts) or (isinstance(m, Linear) and m.split == "row")))
        for layer in model.layers
    )


def _norm_reduces(model: Model) -> int:
    """One in each layer whose norms of queries and keys span the ranks (minimax_rms_norm/rms_norm_tp.py, 0.32.0)."""
    return sum(1 for layer in model.layers if any(isinstance(module, HeadsWeight) for module in layer.modules))


# --- states -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What one layer's attention reads and computes on one rank: bytes and FLOPs for each token of context."""

    nbytes: float = 0.0
    pair: float = 0.0
    prefill: float = 0.0
    window: float | None = None
    state: float = 0.0
    full_bytes: float = 0.0
    """Read of the whole context whatever the window: the keys of a sparse indexer."""


def _states(model: Model, engine: Engine, kv_dtype: str) -> dict[str, float]:
    reads: dict[int, _Read] = {}
    totals = dict.fromkeys(
        ("kv_full", "kv_window", "state_bytes", "pair_full", "pair_window", "prefill_full", "prefill_window"), 0.0
    )
    windows = 0.0
    for layer in model.layers:
        for state in layer.states:
            if id(state) not in reads:
                reads[id(state)] = _read(state, engine, kv_dtype)
            read = reads[id(state)]
            kind = "full" if read.window is None else "window"
            totals[f"kv_{kind}"] += read.nbytes
            totals[f"pair_{kind}"] += read.pair
            totals[f"prefill_{kind}"] += read.prefill
            totals["kv_full"] += read.full_bytes
            totals["state_bytes"] += read.state
            windows += read.nbytes * (read.window or 0.0)
    return {**totals, "window": windows / totals["kv_window"] if totals["kv_window"] else 1.0}


def _read(state: LayerState, engine: Engine, kv_dtype: str) -> _Read:
    tp = engine.tensor_parallel_size
    dtype = KV_DTYPES[kv_dtype if kv_dtype in KV_DTYPES else "auto"]
    if isinstance(state, RecurrentState):
        size = state.nbytes(
            tp,
            model_dtype=engine.dtype,
            cache_dtype=engine.args.get("mamba_cache_dtype") or "auto",
            ssm_cache_dtype=engine.args.get("mamba_ssm_cache_dtype") or "auto",
        )
        return _Read(state=float(size))
    if isinstance(state, MLAttention):
        return _latent(state, tp, dtype.latent_bytes(state.latent_size, engine.dtype))
    if isinstance(state, CompressedAttention):
        per_token = float(state.head_dim + state.rope_dim) * dtype.element_bytes(engine.dtype)
        pair = 4.0 * state.heads / tp * state.head_dim
        longer = per_token / state.compress_ratio if state.compress_ratio > 1 else 0.0
        return _Read(nbytes=per_token, pair=pair, prefill=pair, window=float(state.sliding_window), full_bytes=longer)
    if isinstance(state, CrossAttention):
        return _Read()  # reads the encoder's outputs, not the context
    local = state.local_kv_heads(tp)
    width = dtype.head_bytes(state.head_size, state.value_size, engine.dtype)
    pair = 2.0 * state.heads / tp * (state.head_size + state.value_size)
    window = state.sliding_window or state.chunk_size
    return _Read(
        nbytes=float(local * width), pair=pair, prefill=pair, window=float(window) if window is not None else None
    )


def _latent(state: MLAttention, tp: int, nbytes: int) -> _Read:
    """Decode multiplies with the latent itself, prefill with whole heads. A sparse indexer limits what is read."""
    heads = state.heads / tp
    sparse = state.index_head_dim is not None
    return _Read(
        nbytes=float(nbytes),
        pair=2.0 * heads * (state.latent_size + state.kv_lora_rank),
        prefill=2.0 * heads * (state.qk_nope_head_dim + state.qk_rope_head_dim + state.v_head_dim),
        window=float(_SPARSE_TOPK) if sparse else None if state.sliding_window is None else float(state.sliding_window),
        full_bytes=float(state.index_head_dim or 0),
    )


# --- kernels ----------------------------------------------------------------------------------------------------------


def _kernels(model: Model, engine: Engine, at: Placement, kv_dtype: str, host_share: float) -> Kernels:
    """By the largest module of each group, in the middle layer (first and last layers are often left in 16 bits)."""
    found = dict.fromkeys(("attention", "mlp", "experts", "head"), "bf16")
    quantization = at.quantization
    backend = ""
    if quantization is not None:
        middle = len(model.layers) // 2
        at = replace(at, prefix=f"{model.layer_prefix}{middle}.")
        largest: dict[str, Linear | Experts] = {}
        for module in _near(model, middle):
            known = largest.get(module.group)
            if known is None or module.parameters > known.parameters:
                largest[module.group] = module
        for group, module in largest.items():
            if group in found and module.quantizable:
                scheme = quantization.scheme_for(module, at)
                found[group] = kernel_of(scheme, quantization, engine.capability)
                if isinstance(module, Experts) and _on_flashinfer(scheme, engine):
                    backend = "flashinfer_cutlass"
    for group, flag in (("experts", "moe_backend"), ("attention", "linear_backend"), ("mlp", "linear_backend")):
        if engine.args.get(flag) == "marlin":
            found[group] = _ON_MARLIN.get(found[group], found[group])
    kv = "mla" if MLAttention in model.state_kinds else "fp8" if kv_dtype.startswith("fp8") else ""
    return Kernels(**found, kv=kv, expert_backend=backend, host_share=host_share)


def _on_flashinfer(scheme: Scheme | None, engine: Engine) -> bool:
    """Experts of block-scaled fp8, all on each rank, on Hopper: vLLM's choice in 0.15 and 0.16, about 30 % slower end
    to end than the Triton kernels of before and after (pull request 33490; oracle/fp8.py, 0.16.0 and 0.17.0)."""
    if not isinstance(scheme, Fp8) or scheme.scales != "block" or engine.capability != 90:
        return False
    asked = engine.args.get("moe_backend") or "auto"
    default = (0, 15) <= engine.vllm_version < (0, 17)
    return engine.expert_parallel_size == 1 and (default if asked == "auto" else asked == "flashinfer_cutlass")


_ON_MARLIN = {"fp8": "fp8_weight", "fp4": "fp4_weight", "fp4_triton": "fp4_weight"}


def _near(model: Model, middle: int) -> Iterable[Linear | Experts]:
    """The modules of the middle layer, and of its neighbours where layers differ (hybrid models)."""
    for layer in model.layers[middle : middle + 8]:
        yield from layer.quantizable


def kernel_of(scheme: Scheme | None, quantization: Quantization, capability: int | None) -> str:
    """The kernel that runs a layer stored so; CPUs and cards without the format's units unpack the weights."""
    if scheme is None:
        return "bf16"
    name = type(scheme).__name__
    if name.startswith("Fp8"):
        marlin = getattr(scheme, "on_marlin", None)
        return "fp8_weight" if marlin is not None and marlin(capability) else "fp8"
    if scheme.bits > 4:
        return "int8" if name == "Int8" else "int8_weight"
    if name == "PackedFp8Activations":
        return "fp8"
    if name == "Mxfp4Experts" and capability is not None and 90 <= capability < 100:
        return "fp4_triton"
    if name in ("BlockFloat", "Mxfp4Experts") or quantization.name in ("mxfp4", "modelopt"):
        return "fp4" if capability is not None and capability >= 100 else "fp4_weight"
    return "int4_weight"
