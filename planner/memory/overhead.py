"""Memory that is neither weights nor KV cache: peak activation, persistent buffers, CUDA graphs, non-torch memory.

The profile run (v1/worker/gpu_model_runner.py profile_run, v1/worker/gpu/model_runner.py) does one forward pass over
max_num_batched_tokens tokens, then samples for max_num_seqs requests. Peaks compete; what stays allocated adds up.
Formulas with their measured launches: docs/memory.md. Constants: data/constants.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from planner.engine.defaults import Engine
from planner.engine.version import VllmVersion
from planner.model.architecture import Model
from planner.model.attention import MLAttention
from planner.model.modules import Experts, Linear
from planner.units import DTYPE_BYTES, ceil_div


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
    basis: Mapping[str, str] = field(default_factory=dict)

    @property
    def in_budget(self) -> int:
        """What vLLM takes off the requested share, beside the weights."""
        return self.activation_peak + self.non_torch + self.persistent + self.cuda_graph - self.outside_budget

    @property
    def outside_budget(self) -> int:
        """What will be used beyond the requested share."""
        graphs = 0 if self.graphs_in_budget else self.cuda_graph
        return graphs + (0 if self.persistent_in_budget else self.persistent)


def overhead(model: Model, engine: Engine, *, last_stage: bool = True) -> Overhead:
    """The overhead of one rank of a pipeline stage; zero on a CPU, whose KV cache has a size of its own."""
    if engine.on_cpu:
        return Overhead(activation_peak=0, persistent=0, non_torch=0, cuda_graph=0, graphs_in_budget=True)
    return Overhead(
        activation_peak=activation_peak(model, engine, last_stage=last_stage),
        persistent=persistent_buffers(model, engine) if last_stage else 0,
        non_torch=non_torch(engine),
        cuda_graph=cuda_graphs(engine),
        graphs_in_budget=_graphs_in_budget(engine),
        persistent_in_budget=engine.vllm_version >= (0, 28),
        basis=_basis(engine),
    )


def _graphs_in_budget(engine: Engine) -> bool:
    """Estimated and deducted since 0.20; the second model runner said 0 until 0.29 (profile_cudagraph_memory)."""
    return engine.vllm_version >= ((0, 29) if engine.use_v2_model_runner else (0, 20))


def _basis(engine: Engine) -> Mapping[str, str]:
    """ "fitted" for a constant that measured launches speak for, "assumed" for one read off the source alone."""
    runner = "v2" if engine.use_v2_model_runner else "v1"
    version = engine.vllm_version
    entries = {
        "activation_peak": _of_version("sampler_bytes_per_logit", version, runner=runner),
        "non_torch": _of_version("non_torch_bytes", version, link=link_of(engine)),
        "cuda_graph": _of_version("cuda_graph_bytes", version),
        "available_kv": _of_version("available_kv_error", version, runner=runner),
    }
    return {term: "fitted" if entry.get("launches") else "assumed" for term, entry in entries.items()}


def activation_peak(model: Model, engine: Engine, *, last_stage: bool = True) -> int:
    """Peak activation of the profile run: the largest of the competing peaks, plus MoE workspaces.

    Only the last pipeline stage samples; the others hold the hidden states and residuals that they pass on.
    """
    peaks = [forward_peak(model, engine), mla_peak(model, engine)]
    if last_stage:
        peaks.append(sampler_peak(model, engine))
    else:
        passed_on = 2 * engine.max_num_batched_tokens * model.hidden_size * DTYPE_BYTES[engine.dtype]
        peaks = [peak + passed_on for peak in peaks]
    return max(peaks) + moe_workspace(model, engine)


def forward_peak(model: Model, engine: Engine) -> int:
    """gate_up's output, its activation, hidden states, residual, norm output and attention output in turn."""
    element = DTYPE_BYTES[engine.dtype]
    width = max(
        (
            module.inputs
            for layer in model.layers
            for module in layer.modules
            if isinstance(module, Linear) and module.group == "mlp" and module.split == "row"
        ),
        default=0,
    )
    local = ceil_div(width, engine.tensor_parallel_size)
    tokens = engine.max_num_batched_tokens
    eager = 2 * local if engine.enforce_eager else 0
    return element * tokens * (3 * local + 4 * model.hidden_size + eager)


def sampler_peak(model: Model, engine: Engine) -> int:
    """Logits of every request and the sampler's copies of them; the same on every tensor-parallel rank.

    The logits come in the model's dtype; what the sampler makes of them (fp32, sorted, masked …) does not depend on it.
    """
    if model.is_pooling:
        return 0
    runner = "v2" if engine.use_v2_model_runner else "v1"
    per_logit = float(_of_version("sampler_bytes_per_logit", engine.vllm_version, runner=runner)["value"])
    rows = min(engine.max_num_seqs, engine.max_num_batched_tokens)
    element = DTYPE_BYTES[engine.dtype]
    hidden = element * engine.max_num_batched_tokens * model.hidden_size
    return int((element + per_logit) * rows * model.vocab_size) + hidden + int(constants()["sampler_base_bytes"])


def mla_peak(model: Model, engine: Engine) -> int:
    """Up-projected keys and values of the chunked-prefill workspace (layers/attention/mla_attention.py)."""
    state = next((layer.state for layer in model.layers if isinstance(layer.state, MLAttention)), None)
    if state is None:
        return 0
    heads = ceil_div(state.heads, engine.tensor_parallel_size)
    rows = min(max(8 * engine.max_model_len, 4 * engine.max_num_seqs * (engine.block_size or 16)), 65536)
    return rows * heads * (state.qk_nope_head_dim + state.v_head_dim) * DTYPE_BYTES[engine.dtype]


def moe_workspace(model: Model, engine: Engine) -> int:
    """The two workspaces of the fused experts kernels (layers/fused_moe, Triton), which stay allocated.

    gpt-oss's own kernels take none from the shared workspace; what they allocate for a moment is below the
    sampler's peak.
    """
    element, version = DTYPE_BYTES[engine.dtype], engine.vllm_version
    tokens = engine.max_num_batched_tokens
    if version < (0, 18):  # VLLM_FUSED_MOE_CHUNK_SIZE
        tokens = min(tokens, 16384 if version >= (0, 12) else 32768)
    largest = 0
    for layer in set(model.layers):
        for module in layer.modules:
            if isinstance(module, Experts) and module.layout != "gpt_oss":
                whole = engine.enable_expert_parallel
                width = module.intermediate if whole else ceil_div(module.intermediate, engine.tensor_parallel_size)
                rows = tokens * (engine.data_parallel_size if whole else 1) * module.top_k
                up = (2 if module.gated else 1) * width
                largest = max(largest, element * rows * (max(width, module.hidden) + max(up, module.hidden)))
    return largest


def persistent_buffers(model: Model, engine: Engine) -> int:
    """output_bin_counts (int32) and prompt_bin_mask (bits) of the second model runner (v1/worker/gpu/sample)."""
    if not engine.use_v2_model_runner or model.is_pooling:
        return 0
    return engine.max_num_seqs * (4 * model.vocab_size + ceil_div(model.vocab_size, 8))


def non_torch(engine: Engine) -> int:
    """CUDA context growth, kernels loaded and NCCL channels opened since the first memory snapshot."""
    return int(_of_version("non_torch_bytes", engine.vllm_version, link=link_of(engine))["value"])


def link_of(engine: Engine) -> str:
    """Which buffers between ranks the profile run opens.

    From compute capability 9.0 on there are symmetric memory and FlashInfer's all-reduce beside NCCL.
    """
    if engine.tensor_parallel_size == 1:
        return "none"
    return "symmetric" if engine.capability is not None and engine.capability >= 90 else "nccl"


def cuda_graphs(engine: Engine) -> int:
    if not engine.cudagraph_capture_sizes:
        return 0
    entry = _of_version("cuda_graph_bytes", engine.vllm_version)
    return int(entry["base"]) + int(entry["per_size"]) * len(engine.cudagraph_capture_sizes)


def available_error(model: Model, engine: Engine) -> int:
    """Half the width of the range where a launch is expected to land, in bytes (90 % of the measured launches did).

    A vision tower's own profile run is not computed: it makes the range wider.
    """
    runner = "v2" if engine.use_v2_model_runner else "v1"
    error = int(_of_version("available_kv_error", engine.vllm_version, runner=runner)["value"])
    return 2 * error if model.is_multimodal else error


CONSTANTS = Path(__file__).parent / "data" / "constants.json"


@cache
def constants() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(CONSTANTS.read_text(encoding="utf-8"))
    return loaded


def _of_version(name: str, version: VllmVersion, **match: object) -> Mapping[str, Any]:
    return of_version(constants()[name], version, **match)


def of_version(entries: Sequence[Mapping[str, Any]], version: VllmVersion, **match: object) -> Mapping[str, Any]:
    """The newest of the matching entries that this version has reached."""
    found: Mapping[str, Any] = {}
    for entry in entries:
        start = tuple(int(part) for part in entry["from"].split("."))
        if version >= start and all(entry.get(key) == value for key, value in match.items()):
            found = entry
    return found
