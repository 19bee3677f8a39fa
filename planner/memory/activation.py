"""Peak activation of vLLM's profile run, from first principles.

The profile run (v1/worker/gpu_model_runner.py profile_run, v1/worker/gpu/model_runner.py) feeds the vision tower the
largest items, then does one forward pass over max_num_batched_tokens tokens, then samples for max_num_seqs requests.
The peaks of the three compete; what stays allocated meanwhile adds up. Formulas with their measured launches:
docs/memory.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from planner.engine.defaults import Engine
from planner.memory.constants import constants, of_version
from planner.memory.quantization import Quantization
from planner.model.architecture import Model
from planner.model.attention import MLAttention
from planner.model.encoder import EncoderFacts, Item
from planner.model.modules import Experts, Linear
from planner.units import DTYPE_BYTES, MIB, ceil_div

_MULTIPROCESSORS = {70: 80, 75: 40, 80: 108, 86: 82, 89: 128, 90: 132, 100: 148, 103: 148, 120: 170, 121: 48}
"""Of the largest common card of a compute capability; it sizes one scratch buffer of the sampler (some 60 MB)."""


@dataclass(frozen=True, kw_only=True)
class EncoderRun:
    """The vision tower's part of the profile run, in bytes."""

    peak: int
    """While the tower computes; nothing of the decoder is there yet."""
    kept: int
    """Outputs that stay cached, and with the first model runner the pixels, while the decoder runs."""


def activation_peak(
    model: Model, engine: Engine, *, last_stage: bool = True, quantization: Quantization | None = None
) -> int:
    """The largest of the competing peaks.

    Only the last pipeline stage samples; the others hold the hidden states and residuals that they pass on.
    """
    shared = shares_moe_workspace(engine, quantization)
    encoder, workspace = encoder_run(model, engine), moe_workspace(model, engine, lean=not shared)
    kept = encoder.kept + (workspace if shared else 0)
    forward = max(forward_peak(model, engine) + (0 if shared else workspace), mla_peak(model, engine))
    if last_stage:
        return max(encoder.peak, forward + kept, sampler_peak(model, engine) + kept)
    passed_on = 3 * engine.max_num_batched_tokens * model.hidden_size * DTYPE_BYTES[engine.dtype]
    return max(encoder.peak, forward + passed_on + kept)


def cublas_workspace(engine: Engine) -> int:
    """What torch allocates for cuBLAS at the first matrix product (aten/src/ATen/cuda/CublasHandlePool.cpp)."""
    return 32 * MIB if engine.capability in (90, 100, 103) else 8 * MIB + 128 * 1024


def forward_peak(model: Model, engine: Engine) -> int:
    """gate_up's output and its activation, with hidden states, residual, norm and attention output in turn."""
    element = DTYPE_BYTES[engine.dtype]
    local = ceil_div(_mlp_width(model), engine.tensor_parallel_size)
    widths = 3 * local + float(constants()["forward_hidden_widths"]) * model.hidden_size
    return int(element * engine.max_num_batched_tokens * widths) + cublas_workspace(engine)


def _mlp_width(model: Model) -> int:
    return max(
        (
            module.inputs
            for layer in set(model.layers)
            for module in layer.modules
            if isinstance(module, Linear) and module.group == "mlp" and module.split == "row"
        ),
        default=0,
    )


def sampler_peak(model: Model, engine: Engine) -> int:
    """Logits of every request and the sampler's copies of them; the same on every tensor-parallel rank.

    Since 0.17 to the byte (v1/sample/sampler.py, ops/topk_topp_sampler.py): the logits in the model's dtype, in fp32,
    their softmax and as many random numbers, and a row of scratch for each of Triton's programs. Beside them the hidden
    states of the pass, and those of the requests once gathered and once at random.
    """
    if model.is_pooling:
        return 0
    rows, element = sampled_rows(engine), DTYPE_BYTES[engine.dtype]
    hidden = element * model.hidden_size * (engine.max_num_batched_tokens + 2 * rows)
    logits = rows * model.vocab_size * (logit_bytes(engine) + element * _logit_copies(engine))
    return int(logits) + hidden + _scratch(model, engine, rows) + cublas_workspace(engine)


def sampled_rows(engine: Engine) -> int:
    """Rows of logits in one step at the most: each request samples once, from at least one token."""
    return min(engine.max_num_seqs, engine.max_num_batched_tokens)


def logit_bytes(engine: Engine) -> float:
    """Bytes for each logit beside the logits themselves."""
    return float(
        of_version(constants()["sampler_bytes_per_logit"], engine.vllm_version, runner=runner(engine))["value"]
    )


def runner(engine: Engine) -> str:
    """vLLM's model runner: "v1" (v1/worker/gpu_model_runner.py) or "v2" (v1/worker/gpu/model_runner.py)."""
    return "v2" if engine.use_v2_model_runner else "v1"


def _logit_copies(engine: Engine) -> int:
    """With speculative decoding the first runner also verifies one draft for each request: two rows of logits more."""
    return 3 if engine.args.get("speculative_config") and not engine.use_v2_model_runner else 1


def _scratch(model: Model, engine: Engine, rows: int) -> int:
    """ops/topk_topp_triton.py: one row of fp32 for each program, at most one for each multiprocessor."""
    if engine.use_v2_model_runner or engine.vllm_version < (0, 17) or rows < 8:
        return 0
    programs = min(_MULTIPROCESSORS.get(engine.capability or 0, 108), 1 << (rows - 1).bit_length())
    return 4 * programs * model.vocab_size


def mla_rows(engine: Engine) -> int:
    """Tokens of the chunked-prefill workspace (MLACommonMetadataBuilder.determine_chunked_prefill_workspace_size)."""
    block = engine.block_size or 16
    cap = 65_536 if engine.vllm_version >= (0, 11) else 131_072
    rows = min(max(8 * engine.max_model_len, 4 * engine.max_num_seqs * block), cap)
    return max(rows, engine.max_num_seqs * block)


def mla_state(model: Model) -> MLAttention | None:
    """The first layer's latent cache, or None for a model without MLA; its ranks size the prefill's workspace."""
    return next((state for state in model.states if isinstance(state, MLAttention)), None)


def mla_peak(model: Model, engine: Engine) -> int:
    """Up-projected keys and values of the chunked-prefill workspace (layers/attention/mla_attention.py)."""
    state = mla_state(model)
    if state is None:
        return 0
    heads = ceil_div(state.heads, engine.tensor_parallel_size)
    return mla_rows(engine) * heads * (state.qk_nope_head_dim + state.v_head_dim) * DTYPE_BYTES[engine.dtype]


def shares_moe_workspace(engine: Engine, quantization: Quantization | None = None) -> bool:
    """Whether the experts' workspace stays allocated (v1/worker/workspace.py): since 0.14, for 4-bit Marlin 0.24.

    Until then awq_marlin.py, gptq_marlin.py and compressed_tensors_moe*.py call fused_marlin_moe, which allocates its
    own for a moment.
    """
    return engine.vllm_version >= ((0, 24) if _marlin_experts(quantization) else (0, 14))


def _marlin_experts(quantization: Quantization | None) -> bool:
    """Integer weights with activations of 16 bits."""
    if quantization is None:
        return False
    if quantization.name != "compressed-tensors":
        return quantization.name in ("awq", "awq_marlin", "auto_awq", "gptq", "gptq_marlin", "auto_gptq")
    groups = quantization.parameters.get("config_groups")
    schemes = list(groups.values()) if isinstance(groups, Mapping) else []
    weights = [scheme.get("weights") for scheme in schemes if isinstance(scheme, Mapping)]
    return any(
        isinstance(each, Mapping) and each.get("type") == "int" and not scheme.get("input_activations")
        for each, scheme in zip(weights, schemes, strict=False)
    )


def moe_workspace(model: Model, engine: Engine, *, lean: bool = False) -> int:
    """The two workspaces of the fused experts kernels (workspace_shapes in layers/fused_moe, Triton and Marlin alike).

    lean: fused_marlin_moe's own, whose second holds no hidden states. gpt-oss's Triton kernels take none from the
    shared workspace; what they allocate for a moment is below the sampler's peak.
    """
    element, version = DTYPE_BYTES[engine.dtype], engine.vllm_version
    tokens = engine.max_num_batched_tokens
    if version < (0, 18):  # VLLM_FUSED_MOE_CHUNK_SIZE
        tokens = min(tokens, 16384 if version >= (0, 12) else 32768)
    largest = 0
    for layer in set(model.layers):
        for module in layer.modules:
            if isinstance(module, Experts) and not (module.layout == "gpt_oss" and _has_triton_kernels(engine)):
                whole = engine.enable_expert_parallel
                width = module.intermediate if whole else ceil_div(module.intermediate, engine.tensor_parallel_size)
                rows = tokens * (engine.data_parallel_size if whole else 1) * module.top_k
                up = (2 if module.gated else 1) * width
                second = width if lean else max(width, module.hidden)
                largest = max(largest, element * rows * (second + max(up, module.hidden)))
    return largest


def _has_triton_kernels(engine: Engine) -> bool:
    """OpenAI's, on Hopper and data-centre Blackwell, in the wheel since 0.12 (fused_moe/oracle/mxfp4.py)."""
    return engine.capability is not None and 90 <= engine.capability < 120 and engine.vllm_version >= (0, 12)


# --- the vision tower ----------------------------------------------------------------------------------------------


def runs_encoder(model: Model, engine: Engine) -> bool:
    """Whether the profile run feeds the tower: always in the first runner (V1), since 0.27 in the second."""
    args = engine.args
    if not model.is_multimodal or args.get("skip_mm_profiling") or args.get("language_model_only"):
        return False
    if engine.vllm_version < (0, 8) or (engine.use_v2_model_runner and engine.vllm_version < (0, 27)):
        return False
    return _limit(engine, "image") > 0 or _limit(engine, "video") > 0


def encoder_run(model: Model, engine: Engine) -> EncoderRun:
    """MultiModalBudget (multimodal/encoder_budget.py): as many of the largest items as the budget holds, at least one.

    The budget is max_num_batched_tokens, or one item where that is more.
    """
    facts = model.encoder
    if facts is None or not runs_encoder(model, engine):
        return EncoderRun(peak=0, kept=0)
    item = facts.item(
        version=engine.vllm_version,
        max_model_len=engine.max_model_len,
        options=engine.args.get("mm_processor_kwargs") or {},
        videos=_limit(engine, "video") > 0,
    )
    items, element = _items(item, engine), DTYPE_BYTES[engine.dtype]
    pixels = element * items * item.patches * facts.patch_pixels
    outputs = element * items * item.tokens * facts.output_size
    at_once = element * items * item.patches * _tower_width(facts, engine)
    kept = outputs + (0 if engine.use_v2_model_runner else pixels)
    return EncoderRun(peak=at_once + pixels + cublas_workspace(engine), kept=kept)


def _tower_width(facts: EncoderFacts, engine: Engine) -> int:
    """Values for each patch while an MLP computes: its input, output and residuals, the positions, and its width."""
    shards = 1 if engine.args.get("mm_encoder_tp_mode") == "data" else engine.tensor_parallel_size
    width = ceil_div(facts.intermediate_size, shards)
    return 4 * facts.hidden_size + (3 if facts.gated else 2) * width


def _items(item: Item, engine: Engine) -> int:
    by_budget = max(engine.max_num_batched_tokens, item.tokens) // item.tokens
    limit = max(_limit(engine, "image"), _limit(engine, "video"))
    per_prompt = max(1, min(limit, engine.max_model_len // item.tokens))
    shards = engine.tensor_parallel_size if engine.args.get("mm_encoder_tp_mode") == "data" else 1
    return ceil_div(max(1, min(by_budget, engine.max_num_seqs * per_prompt)), shards)


def _limit(engine: Engine, modality: str) -> int:
    """limit_mm_per_prompt; not given: 999 since 0.10, 1 before."""
    limits = engine.args.get("limit_mm_per_prompt")
    given = limits.get(modality) if isinstance(limits, dict) else None
    if isinstance(given, dict):
        given = given.get("count")
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    return 999 if engine.vllm_version >= (0, 10) else 1
