"""Memory that is neither weights nor KV cache: peak activation, persistent buffers, CUDA graphs, non-torch memory.

What vLLM takes off the requested share, and what it uses beyond it, by version. Formulas with their measured launches:
docs/memory.md. Constants: data/constants.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from planner.engine.defaults import Engine
from planner.engine.version import VllmVersion
from planner.memory.activation import activation_peak, mla_rows, mla_state, runner, runs_encoder, sampled_rows
from planner.memory.constants import CONSTANTS, constants, of_version
from planner.memory.quantization import Quantization
from planner.model.architecture import Model
from planner.units import DTYPE_BYTES, MIB, ceil_div

__all__ = ["CONSTANTS", "Overhead", "available_error", "constants", "of_version", "overhead"]


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """Bytes on one rank, beside weights and KV cache."""

    activation_peak: int
    """What the profile run adds for a moment, and MoE workspaces that stay."""
    persistent: int
    """Buffers of the engine that stay allocated: sampler state, input buffers."""
    non_torch: int
    cuda_graph: int
    """What vLLM estimates CUDA graphs to take; 0 in eager mode."""
    graphs_in_budget: bool
    """Whether this version takes the estimate off the KV cache; before, graphs come from outside the budget."""

    persistent_in_budget: bool = True
    """Before 0.28 what is neither weights, nor the profile run's peak, nor non-torch memory was not counted."""
    later: int = 0
    """Buffers that attention backends allocate after profiling, which no version budgets for."""
    warm_up: int = 0
    """What the second runner's sampler takes while the engine warms up, beyond its profile run (before 0.33)."""
    basis: Mapping[str, str] = field(default_factory=dict)

    @property
    def in_budget(self) -> int:
        """What vLLM takes off the requested share, beside the weights."""
        graphs = self.cuda_graph if self.graphs_in_budget else 0
        return self.activation_peak + self.non_torch + graphs + (self.persistent if self.persistent_in_budget else 0)

    @property
    def beside_kv(self) -> int:
        """What is allocated beside weights and KV cache once CUDA graphs are captured."""
        return self.non_torch + self.persistent + self.cuda_graph + self.later

    @property
    def cuda_graph_outside(self) -> int:
        """Bytes of CUDA graphs beyond the requested share: all of them or none."""
        return 0 if self.graphs_in_budget else self.cuda_graph

    @property
    def persistent_outside(self) -> int:
        """Bytes of the persistent buffers beyond the requested share: all of them or none."""
        return 0 if self.persistent_in_budget else self.persistent

    @property
    def outside_budget(self) -> int:
        """What will be used beyond the requested share."""
        return self.cuda_graph_outside + self.persistent_outside + self.later


def overhead(
    model: Model,
    engine: Engine,
    *,
    last_stage: bool = True,
    quantization: Quantization | None = None,
    unified: bool = False,
) -> Overhead:
    """The overhead of one rank of a pipeline stage; zero on a CPU, whose KV cache has a size of its own.

    unified: the card's memory is the host's too, so that what the host takes meanwhile counts as non-torch memory.
    """
    if engine.on_cpu:
        return Overhead(activation_peak=0, persistent=0, non_torch=0, cuda_graph=0, graphs_in_budget=True)
    return Overhead(
        activation_peak=activation_peak(model, engine, last_stage=last_stage, quantization=quantization),
        persistent=persistent_buffers(model, engine) if last_stage else 0,
        non_torch=non_torch(engine, unified=unified),
        cuda_graph=cuda_graphs(model, engine),
        graphs_in_budget=_graphs_in_budget(engine),
        persistent_in_budget=engine.vllm_version >= (0, 28),
        later=later_buffers(model, engine),
        warm_up=warm_up(model, engine) if last_stage else 0,
        basis=_basis(model, engine),
    )


def _graphs_in_budget(engine: Engine) -> bool:
    """Estimated and deducted since 0.20; the second model runner said 0 until 0.29 (profile_cudagraph_memory)."""
    return engine.vllm_version >= ((0, 29) if engine.use_v2_model_runner else (0, 20))


def _basis(model: Model, engine: Engine) -> Mapping[str, str]:
    """ "fitted" for a constant that launches made or show within a tenth, "assumed" for one off the source alone."""
    version = engine.vllm_version
    entries = {
        "activation_peak": _of_version("sampler_bytes_per_logit", version, runner=runner(engine)),
        "non_torch": _non_torch_entry(engine),
        "cuda_graph": _of_version("cuda_graph_bytes", version, runner=runner(engine)),
        "available_kv": _of_version("available_kv_error", version, runner=runner(engine)),
    }
    basis = {
        term: "fitted" if entry.get("launches") or entry.get("seen") else "assumed" for term, entry in entries.items()
    }
    if runs_encoder(model, engine):
        basis["activation_peak"] = "assumed"
    return basis


def persistent_buffers(model: Model, engine: Engine) -> int:
    """output_bin_counts (int32) and prompt_bin_mask (bits) of the second model runner (v1/worker/gpu/sample)."""
    if not engine.use_v2_model_runner or model.is_pooling:
        return 0
    return engine.max_num_seqs * (4 * model.vocab_size + ceil_div(model.vocab_size, 8))


def later_buffers(model: Model, engine: Engine) -> int:
    """Workspaces that metadata builders allocate after profiling (v1/attention/backends/flashinfer.py, mla/common.py).

    FlashInfer's is 394 MiB since 0.11 (VLLM_FLASHINFER_WORKSPACE_BUFFER_SIZE), 256 MiB before, the backend of
    Blackwell's data-centre cards and of fp8 KV caches below Hopper; MLA's holds the latent vectors of a chunk.
    """
    state = mla_state(model)
    if state is not None:
        return mla_rows(engine) * state.latent_size * DTYPE_BYTES[engine.dtype]
    blackwell = engine.capability in (100, 103)
    below_hopper = engine.kv_cache_dtype.startswith("fp8") and engine.capability in (80, 86, 89, 120, 121)
    named = engine.attention_backend
    chosen = named == "FLASHINFER" or (named is None and (blackwell or below_hopper))
    if engine.vllm_version >= (0, 8) and chosen:
        return 394 * MIB if engine.vllm_version >= (0, 11) else 256 * MIB
    return 0


def warm_up(model: Model, engine: Engine) -> int:
    """v1/worker/gpu/warmup.py samples with every parameter: logits in fp32 and their softmax; profiled since 0.33."""
    if model.is_pooling or not engine.use_v2_model_runner or engine.vllm_version >= (0, 33):
        return 0
    return sampled_rows(engine) * model.vocab_size * 8


# --- non-torch memory ----------------------------------------------------------------------------------------------


def non_torch(engine: Engine, *, unified: bool) -> int:
    """CUDA context growth, kernels loaded and NCCL channels opened since the first memory snapshot."""
    extra = int(constants()["unified_drift_bytes"]) if unified else 0
    return int(_non_torch_entry(engine)["value"]) + extra


def _non_torch_entry(engine: Engine) -> Mapping[str, Any]:
    return _of_version("non_torch_bytes", engine.vllm_version, link=link_of(engine))


_WITH_NVLINK = (70, 80, 90, 100, 103)
"""Data-centre cards; NCCL opens far smaller buffers between the others, which share host memory."""


def link_of(engine: Engine) -> str:
    """Which buffers between ranks the profile run opens.

    Until 0.8 the first snapshot came before NCCL was initialized, so that all of it counts, which is much between
    Hoppers ("all8": eight of them). Since 0.17 FlashInfer fuses the all-reduce on Hopper and Blackwell (config/vllm.py
    enable_allreduce_rms_fusion), whose workspace counts.
    """
    tp = engine.tensor_parallel_size
    if tp == 1:
        return "none" if engine.pipeline_parallel_size == 1 else "stages"
    if engine.vllm_version < (0, 9) and engine.capability in (90, 100, 103):
        return "all8" if tp >= 8 else "all"
    fused = engine.capability in (90, 100) and engine.data_parallel_size == engine.pipeline_parallel_size == 1
    if fused and engine.vllm_version >= (0, 17):
        return "fused"
    return "nccl" if engine.capability in _WITH_NVLINK else "pcie"


# --- CUDA graphs ---------------------------------------------------------------------------------------------------


def cuda_graphs(model: Model, engine: Engine) -> int:
    """What graphs take: something for the pool, and some for each layer of each captured size.

    Piecewise graphs are one for each layer and size (compilation/cuda_graph.py); experts launch more kernels.
    """
    if not engine.cudagraph_capture_sizes:
        return 0
    entry = graph_entry(engine)
    layers = ceil_div(len(model.layers), engine.pipeline_parallel_size)
    each = int(entry["per_layer_and_size"]) * (2 if model.is_moe else 1)
    return int(entry["base"]) + each * layers * len(engine.cudagraph_capture_sizes)


def graph_entry(engine: Engine) -> Mapping[str, Any]:
    return _of_version("cuda_graph_bytes", engine.vllm_version, runner=runner(engine))


# --- the range -----------------------------------------------------------------------------------------------------


def available_error(model: Model, engine: Engine, *, unified: bool = False) -> int:
    """Half the width of the range where a launch is expected to land, in bytes (90 % of the measured launches did).

    Twice as wide where a vision tower runs, for which few launches speak; on a card whose memory is the host's too,
    wider by what the host is seen to take and give back meanwhile. Where graphs come off the KV cache, wider by their
    estimate, which is known to a factor of two.
    """
    error = int(_of_version("available_kv_error", engine.vllm_version, runner=runner(engine))["value"])
    if _graphs_in_budget(engine) and not engine.use_v2_model_runner:
        error += cuda_graphs(model, engine)
    drift = int(constants()["unified_drift_bytes"]) if unified else 0
    return (2 * error if runs_encoder(model, engine) else error) + drift


def _of_version(name: str, version: VllmVersion, **match: object) -> Mapping[str, Any]:
    return of_version(constants()[name], version, **match)
