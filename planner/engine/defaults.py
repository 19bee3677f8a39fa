"""What vLLM fills in by itself: EngineArgs + model + GPU -> Engine, with every value as vLLM would resolve it.

Sources: engine/arg_utils.py get_batch_defaults and _set_default_*, config/vllm.py _set_cudagraph_sizes (0.33), and
the same places in the versions named beside each rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from planner.engine.args import EngineArgs
from planner.engine.runner import uses_v2_runner
from planner.engine.version import VllmVersion
from planner.errors import InputError, Refusal
from planner.hardware.catalogue import Gpu
from planner.model.architecture import Model
from planner.model.attention import CrossAttention, RecurrentState
from planner.units import GIB, model_dtype

Usage = Literal["server", "offline"]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine as vLLM would configure it. Names are vLLM's own."""

    vllm_version: VllmVersion
    usage: Usage
    on_cpu: bool
    capability: int | None
    """Compute capability x 10; None on a CPU or another vendor's card."""
    tensor_parallel_size: int
    pipeline_parallel_size: int
    data_parallel_size: int
    decode_context_parallel_size: int
    enable_expert_parallel: bool
    dtype: str
    quantization: str | None
    kv_cache_dtype: str
    max_model_len: int
    auto_max_model_len: bool
    """max_model_len was "auto": it shrinks to what fits."""
    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_utilization: float
    block_size: int | None
    """As given; None lets the attention backend choose (planner/memory/kv_cache)."""
    enforce_eager: bool
    cudagraph_capture_sizes: tuple[int, ...]
    enable_prefix_caching: bool
    enable_chunked_prefill: bool
    async_scheduling: bool
    use_v2_model_runner: bool
    disable_hybrid_kv_cache_manager: bool
    kv_cache_memory_bytes: int | None
    num_gpu_blocks_override: int | None
    cpu_offload_gb: float
    kv_offloading_size: float
    attention_backend: str | None
    """As given, in vLLM's capitals; None lets vLLM choose."""
    args: EngineArgs
    """What the person gave."""

    @property
    def gpus_per_replica(self) -> int:
        """GPUs of one data-parallel replica."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def expert_parallel_size(self) -> int:
        """Ranks over which whole experts are spread (fused_moe/config.py, 0.33): TP x DP with expert parallel."""
        return self.tensor_parallel_size * self.data_parallel_size if self.enable_expert_parallel else 1

    @property
    def max_concurrent_batches(self) -> int:
        """Batches in flight at once (config/vllm.py max_concurrent_batches)."""
        pp = self.pipeline_parallel_size
        if self.vllm_version >= (0, 26) and self.use_v2_model_runner:
            return pp + 1 if self.async_scheduling else pp
        return 2 if pp == 1 and self.async_scheduling else pp


def resolve(
    model: Model, gpu: Gpu, args: EngineArgs, version: VllmVersion, usage: Usage, *, quantized: bool = False
) -> Engine:
    """Every flag as vLLM would resolve it. Refusal where vLLM's own config validation would raise.

    quantized: the checkpoint or `--quantization` is.
    """
    on_cpu = gpu.kind == "cpu"
    given = args.to_dict()
    max_model_len, auto_len = _max_model_len(model, given.get("max_model_len"))
    seqs, tokens = _batch_sizes(model, gpu, given, version, usage, max_model_len)
    eager = bool(given.get("enforce_eager", False)) or on_cpu
    return Engine(
        vllm_version=version,
        usage=usage,
        on_cpu=on_cpu,
        capability=gpu.capability,
        tensor_parallel_size=given.get("tensor_parallel_size", 1),
        pipeline_parallel_size=given.get("pipeline_parallel_size", 1),
        data_parallel_size=given.get("data_parallel_size", 1),
        decode_context_parallel_size=given.get("decode_context_parallel_size", 1),
        enable_expert_parallel=given.get("enable_expert_parallel", False),
        dtype=_dtype(model, gpu, given.get("dtype", "auto")),
        quantization=given.get("quantization"),
        kv_cache_dtype=given.get("kv_cache_dtype", "auto"),
        max_model_len=max_model_len,
        auto_max_model_len=auto_len,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        gpu_memory_utilization=given.get("gpu_memory_utilization", 0.92 if version >= (0, 20) else 0.9),
        block_size=given.get("block_size"),
        enforce_eager=eager,
        cudagraph_capture_sizes=()
        if eager
        else capture_sizes(given, version, gpu, seqs, tokens, architecture=model.architecture),
        enable_prefix_caching=given.get("enable_prefix_caching", _prefix_caching(model, version)),
        enable_chunked_prefill=given.get("enable_chunked_prefill", not on_v0_engine(gpu, version)),
        async_scheduling=_async_scheduling(model, on_cpu, given, version),
        use_v2_model_runner=uses_v2_runner(model, version, given, quantized=quantized),
        disable_hybrid_kv_cache_manager=given.get("disable_hybrid_kv_cache_manager") or False,
        kv_cache_memory_bytes=given.get("kv_cache_memory_bytes"),
        num_gpu_blocks_override=given.get("num_gpu_blocks_override"),
        cpu_offload_gb=given.get("cpu_offload_gb", 0),
        kv_offloading_size=given.get("kv_offloading_size") or 0,
        attention_backend=_attention_backend(given),
        args=args,
    )


def _attention_backend(given: Mapping[str, Any]) -> str | None:
    """--attention-backend, which stands for attention_config.backend (config/attention.py validate_backend_before)."""
    config = given.get("attention_config")
    named = given.get("attention_backend") or (config.get("backend") if isinstance(config, Mapping) else None)
    return named.upper() if isinstance(named, str) and named.lower() != "auto" else None


def _prefix_caching(model: Model, version: VllmVersion) -> bool:
    """ModelConfig.is_prefix_caching_supported: with Mamba layers only beside attention, and only since 0.26."""
    if version < (0, 8) or model.is_pooling or CrossAttention in model.state_kinds:
        return False
    return RecurrentState not in model.state_kinds or (version >= (0, 26) and len(model.state_kinds) > 1)


def _async_scheduling(model: Model, on_cpu: bool, given: dict[str, Any], version: VllmVersion) -> bool:
    """VllmConfig.__post_init__ (config/vllm.py) and, for the CPU, platforms/cpu.py check_and_update_config."""
    if on_cpu:
        return False
    if given.get("async_scheduling") is not None:
        return bool(given["async_scheduling"])
    if version < (0, 14) or model.is_pooling or given.get("distributed_executor_backend") == "ray":
        return False
    if version < (0, 15) and given.get("pipeline_parallel_size", 1) > 1:
        return False
    speculative = given.get("speculative_config")
    method = speculative.get("method") if isinstance(speculative, dict) else None
    return version >= (0, 29) or method not in ("ngram", "suffix", "medusa", "mlp_speculator")


def _max_model_len(model: Model, given: int | None) -> tuple[int, bool]:
    if given is None:
        return model.default_max_model_len, False
    if given == -1:
        return model.default_max_model_len, True
    if given > model.max_position and not model.unlimited_len:
        raise Refusal(
            "max_model_len_too_large",
            f"User-specified max_model_len ({given}) is greater than the derived max_model_len "
            f"(max_position_embeddings={model.max_position} or model_max_length=None in model's config.json).",
            "--max-model-len",
        )
    return given, False


_NOT_IN_FLOAT16 = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4"})
"""model_types that overflow in it (config/model.py _FLOAT16_NOT_SUPPORTED_MODELS, 0.33)."""


def _dtype(model: Model, gpu: Gpu, given: str) -> str:
    """`auto` keeps half precision and halves fp32 (config/model.py _resolve_auto_dtype, 0.33)."""
    no_bfloat16 = gpu.capability is not None and gpu.capability < 80
    if given == "auto":
        half = "float16" if model.is_pooling or no_bfloat16 else "bfloat16"
        dtype = half if model.dtype == "float32" or (model.dtype == "bfloat16" and no_bfloat16) else model.dtype
        return "float32" if dtype == "float16" and model.model_type in _NOT_IN_FLOAT16 else dtype
    dtype = model_dtype(given, "dtype")
    if dtype == "float16" and model.model_type in _NOT_IN_FLOAT16:
        raise Refusal(
            "float16_unstable",
            f"The model type {model.model_type!r} does not support float16. Reason: Numerical instability. Please use "
            "bfloat16 or float32 instead.",
            "--dtype",
        )
    if dtype == "bfloat16" and no_bfloat16:
        raise Refusal(
            "dtype_needs_capability",
            "Bfloat16 is only supported on GPUs with compute capability of at least 8.0. "
            f"Your {gpu.name} GPU has compute capability {(gpu.capability or 0) / 10}. You can use float16 instead "
            "by explicitly setting the `dtype` flag in CLI, for example: --dtype=half.",
            "--dtype",
        )
    return dtype


_LARGEST_ITEM = {"gemma4": 2496}
"""Tokens of one video (32 frames of 70 and their marks), by model_type: what attends both ways within an image or a
video must see it in one step, so a smaller batch is raised to it (engine/arg_utils.py _get_min_mm_batched_tokens)."""


def _batch_sizes(
    model: Model, gpu: Gpu, given: Mapping[str, Any], version: VllmVersion, usage: Usage, max_model_len: int
) -> tuple[int, int]:
    """(max_num_seqs, max_num_batched_tokens), given or filled in."""
    tokens, seqs = default_batch_sizes(gpu, version, usage, given)
    if given.get("performance_mode") == "throughput":
        tokens, seqs = 2 * tokens, 2 * seqs
    user_seqs, user_tokens = given.get("max_num_seqs"), given.get("max_num_batched_tokens")
    chunked = given.get("enable_chunked_prefill", True)
    seqs = seqs if user_seqs is None else user_seqs
    if user_tokens is None:
        if on_v0_engine(gpu, version):
            chunked = given.get("enable_chunked_prefill", max_model_len > 32768)
            tokens = 2048 if chunked else max(max_model_len, 2048)
        elif not chunked or model.is_pooling:
            tokens = max(tokens, max_model_len)
        tokens = max(tokens, _LARGEST_ITEM.get(model.model_type, 0) if model.is_multimodal else 0)
        tokens = min(tokens, seqs * max_model_len) if version >= (0, 9) else tokens
    else:
        tokens = user_tokens
        if tokens < max_model_len and chunked is False:
            raise Refusal(
                "batched_tokens_too_small",
                f"max_num_batched_tokens ({tokens}) is smaller than max_model_len ({max_model_len}). This effectively "
                "limits the maximum sequence length to max_num_batched_tokens and makes vLLM reject longer sequences. "
                "Please increase max_num_batched_tokens or decrease max_model_len.",
                "--max-num-batched-tokens",
            )
    if user_seqs is None:
        seqs = min(seqs, tokens)
    elif tokens < seqs:
        raise Refusal(
            "batched_tokens_below_seqs",
            f"max_num_batched_tokens ({tokens}) must be greater than or equal to max_num_seqs ({seqs}).",
            "--max-num-batched-tokens",
        )
    return seqs, tokens


def on_v0_engine(gpu: Gpu, version: VllmVersion) -> bool:
    """V0 until 0.8, until 0.10 on cards below 8.0 (engine/arg_utils.py _is_v1_supported_oracle, 0.8.5, 0.9.2)."""
    old_card = gpu.capability is not None and gpu.capability < 80
    return version < (0, 8) or (version < (0, 10) and old_card)


def default_batch_sizes(gpu: Gpu, version: VllmVersion, usage: Usage, given: Mapping[str, Any]) -> tuple[int, int]:
    """(max_num_batched_tokens, max_num_seqs) before caps (engine/arg_utils.py get_batch_defaults, 0.33)."""
    world = given.get("tensor_parallel_size", 1) * given.get("pipeline_parallel_size", 1)
    offline = usage == "offline"
    if gpu.kind == "cpu":
        return (4096 * world, 256 * world) if offline else (2048 * world, 128 * world)
    if on_v0_engine(gpu, version):
        return 2048, 256
    memory = gpu.memory_bytes or 0
    if version >= (0, 28) and memory >= 160 * GIB:
        return 16384, 1024
    name = gpu.name.lower()
    small = (version >= (0, 9) and "a100" in name) or (version >= (0, 33) and gpu.capability == 121)
    if memory >= 70 * GIB and not small:
        return (16384 if offline else 8192), (1024 if version >= (0, 8, 3) else 256)
    return (8192 if offline else 2048), 256


def capture_sizes(
    given: Mapping[str, Any], version: VllmVersion, gpu: Gpu, seqs: int, tokens: int, *, architecture: str = ""
) -> tuple[int, ...]:
    """Batch sizes that CUDA graphs are captured for (VllmConfig._set_cudagraph_sizes, 0.9 to 0.33)."""
    compilation = given.get("compilation_config")
    compilation = compilation if isinstance(compilation, dict) else {}
    explicit = given.get("cudagraph_capture_sizes") or compilation.get("cudagraph_capture_sizes")
    if isinstance(explicit, list):
        return tuple(sorted({size for size in explicit if isinstance(size, int) and size <= tokens}))
    if compilation.get("cudagraph_mode") == "NONE":
        return ()
    if version < (0, 8):
        return tuple(size for size in (1, 2, 4, *range(8, 257, 8)) if size <= max(seqs, 1) or size <= 8)
    if version < (0, 11, 1) and architecture not in _CAPTURES_1024:
        top = 512 if version < (0, 10) else min(2 * seqs, 512)
        return tuple(size for size in (1, 2, 4, *range(8, top + 1, 8)) if size <= tokens)
    asked = given.get("max_cudagraph_capture_size") or compilation.get("max_cudagraph_capture_size")
    own: frozenset[int] = frozenset()
    if isinstance(asked, int):
        if asked > _MOST_CAPTURED:
            raise InputError(f"max_cudagraph_capture_size = {asked}: must be at most {_MOST_CAPTURED}")
        top = asked
    elif architecture in _CAPTURES_1024:
        top = 1024
    else:
        queries = _decode_tokens(given, version)
        ceiling = 1024 if version >= (0, 28) and gpu.capability is not None and gpu.capability // 10 == 10 else 512
        top = min(2 * seqs * queries, ceiling)
        own = _decode_batches(seqs, queries, top, ceiling) if version >= (0, 31 if queries == 1 else 29) else own
    return _captured(min(top, tokens), own, tokens if version >= (0, 21) and tokens <= top else None)


_MOST_CAPTURED = 1 << 20


@lru_cache(maxsize=4096)
def _captured(top: int, own: frozenset[int], last: int | None) -> tuple[int, ...]:
    """The grid up to the top, and the sizes that need not lie on it. A sweep asks for the same again and again."""
    sizes = {size for size in (*_grid(top), *own, last) if size is not None and size <= top}
    return tuple(sorted(sizes))


def _grid(top: int) -> tuple[int, ...]:
    return (1, 2, 4, *range(8, 256, 8), *range(256, top + 1, 16))


_CAPTURES_1024 = frozenset(("GptOssForCausalLM",))
"""models/config.py GptOssForCausalLMConfig, 0.10 to 0.33: whatever max_num_seqs is."""


def _decode_tokens(given: Mapping[str, Any], version: VllmVersion) -> int:
    """Tokens of a request in a decode step: one, and since 0.13 its drafts."""
    speculative = given.get("speculative_config")
    drafts = speculative.get("num_speculative_tokens") if isinstance(speculative, dict) else None
    return 1 + drafts if isinstance(drafts, int) and version >= (0, 13) else 1


def _decode_batches(seqs: int, queries: int, top: int, ceiling: int) -> frozenset[int]:
    """Sizes of whole decode batches, which need not lie on the grid."""
    if queries == 1:
        return frozenset({seqs} if seqs <= top else ())
    requests = min(seqs, ceiling)
    counts = {n for n in _grid(requests) if n <= requests} | {requests}
    return frozenset(n * queries for n in counts if n * queries <= top)
