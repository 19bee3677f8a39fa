"""How vLLM words what a log says, by version: the tables that planner/logs/reader.py reads by.

A new wording is one entry. A named group of a pattern of FIGURES is the figure's name, as in
planner/measured/launches.jsonl.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_N = r"-?\d[\d,]{0,20}(?:\.\d{1,20})?"
"""A number as vLLM prints it: 14.9889, 16,384, -1.44."""


@dataclass(frozen=True)
class Pattern:
    """One wording: the literal it is found by, and the groups that are its figures."""

    literal: str
    regex: re.Pattern[str]
    mirrors: str
    """The file that prints it, and in which versions."""


def _p(literal: str, regex: str, mirrors: str) -> Pattern:
    return Pattern(literal, re.compile(regex.replace("NUM", _N)), mirrors)


FIGURES: tuple[Pattern, ...] = (
    _p(
        "oading ",
        r"(?:Loading model weights|Model loading) took (?P<model_loading_gib>NUM) Gi?B",
        "worker/model_runner.py 0.6-0.9 (GB, meaning GiB); v1/worker/gpu_model_runner.py 0.8-0.33",
    ),
    _p(
        "total_gpu_memory (",
        r"total_gpu_memory \((?P<device_total_gib>NUM)GiB\) x gpu_memory_utilization "
        r"\((?P<gpu_memory_utilization>NUM)\) = (?P<requested_gib>NUM)GiB",
        "worker/worker.py 0.6.5-0.10",
    ),
    _p(
        "model weights take ",
        r"model weights take (?P<model_loading_gib>NUM)GiB; non_torch_memory takes "
        r"(?P<non_torch_gib>NUM)GiB; PyTorch activation peak memory takes (?P<activation_peak_gib>NUM)GiB; the "
        r"rest of "
        r"the memory reserved for KV Cache is (?P<available_kv_gib>NUM)GiB",
        "worker/worker.py 0.6.5-0.10",
    ),
    _p(
        "Memory profiling results: ",
        r"total_gpu_memory=(?P<device_total_gib>NUM)GiB initial_memory_usage=NUMGiB "
        r"peak_torch_memory=(?P<torch_peak_gib>NUM)GiB memory_usage_post_profile=NUMGi[Bb] "
        r"non_torch_memory=(?P<non_torch_gib>NUM)GiB kv_cache_size=(?P<available_kv_gib>NUM)GiB "
        r"gpu_memory_utilization=(?P<gpu_memory_utilization>NUM)",
        "worker/worker.py 0.6.2-0.6.4",
    ),
    _p(
        "Available KV cache memory: ",
        r"Available KV cache memory: (?P<available_kv_gib>NUM) GiB",
        "v1/worker/gpu_worker.py 0.9-0.33",
    ),
    _p("KV cache size: ", r"KV cache size: (?P<kv_cache_tokens>NUM) tokens", "v1/core/kv_cache_utils.py 0.8-0.33"),
    _p(
        " blocks: ",
        r"# (?:GPU|gpu|CUDA|cuda|rocm|ROCM|hpu|xpu) blocks: (?P<num_gpu_blocks>NUM)",
        "executor/*_executor.py 0.6-0.9; v1/core/kv_cache_utils.py 0.7",
    ),
    _p(
        "Maximum concurrency for ",
        r"Maximum concurrency for (?P<max_concurrency_len>NUM) tokens per request: "
        r"(?P<max_concurrency>NUM)x",
        "executor_base.py 0.6-0.9; v1/core/kv_cache_utils.py 0.8-0.33",
    ),
    _p(
        "Graph capturing finished in ",
        r"Graph capturing finished in NUM secs?, took (?P<cudagraph_gib>NUM) GiB",
        "worker/model_runner.py 0.6-0.10; v1/worker/gpu_model_runner.py 0.8-0.33",
    ),
    _p(
        "Estimated CUDA graph memory: ",
        r"Estimated CUDA graph memory: (?P<cudagraph_estimate_gib>NUM) GiB",
        "v1/worker/gpu_model_runner.py 0.17-0.33",
    ),
    _p(
        "CUDA graph pool memory: ",
        r"CUDA graph pool memory: (?P<cudagraph_gib>NUM) GiB \(actual\), "
        r"(?P<cudagraph_estimate_gib>NUM) GiB \(estimated\)",
        "v1/worker/gpu_worker.py 0.17-0.33",
    ),
    _p(
        "Free memory on device",
        r"Free memory on device(?: [\w:]{1,20})? \((?P<free_gib_on_start>NUM)/"
        r"(?P<device_total_gib>NUM) GiB\)",
        "v1/worker/gpu_worker.py 0.9-0.33, of a success and of a refusal",
    ),
    _p(
        "GPU memory utilization ",
        r"[Dd]esired GPU memory utilization (?:is )?\((?P<gpu_memory_utilization>NUM), "
        r"(?P<requested_gib>NUM) GiB\)",
        "v1/worker/gpu_worker.py 0.9-0.33",
    ),
    _p(
        "Actual usage is ",
        r"Actual usage is (?P<model_loading_gib>NUM) GiB for weight, (?P<activation_peak_gib>NUM) "
        r"GiB for peak activation, (?P<non_torch_gib>NUM) GiB for non-torch memory, and (?P<cudagraph_gib>NUM) GiB "
        r"for "
        r"CUDAGraph memory",
        "v1/worker/gpu_worker.py 0.10.2-0.27",
    ),
    _p(
        "Actual usage is ",
        r"Actual usage is (?P<consumed_gib>NUM) GiB for consumed memory \(weights \+ non-torch\), "
        r"(?P<activation_and_graphs_gib>NUM) GiB for peak activation, and (?P<cudagraph_gib>NUM) GiB for CUDAGraph",
        "v1/worker/gpu_worker.py 0.27-0.33: the activation includes the estimate of the CUDA graphs",
    ),
    _p(
        "Current kv cache memory in use is ",
        r"memory in use is (?P<available_kv_gib>NUM) GiB",
        "v1/worker/gpu_worker.py 0.12-0.33",
    ),
    _p(
        "Current kv cache memory in use is ",
        r"memory in use is (?P<available_kv_bytes>\d{1,15}) bytes",
        "v1/worker/gpu_worker.py 0.10.2-0.11",
    ),
    _p(
        "Memory profiling takes ",
        r"non-torch forward increase memory: (?P<non_torch_gib>NUM)GiB; "
        r"weights memory: (?P<model_loading_gib>NUM)GiB",
        "utils/mem_utils.py __repr__ 0.9-0.27, DEBUG",
    ),
    _p(
        "Memory profiling takes ",
        r"torch peak memory increase: (?P<activation_peak_gib>NUM)GiB; total consumed "
        r"\(from mem_get_info\): (?P<consumed_gib>NUM)GiB; weights memory: (?P<model_loading_gib>NUM)GiB",
        "utils/mem_utils.py __repr__ 0.28-0.33, DEBUG",
    ),
    _p(
        "Initial free memory",
        r"Initial free memory:? (?P<free_gib_on_start>NUM) GiB(?=[;,] (?:[Rr]equested|reserved|free))",
        "v1/worker/gpu_worker.py 0.9-0.33, DEBUG; INFO with kv_cache_memory_bytes",
    ),
    _p(
        "GiB memory for KV Cache as specified",
        r"reserved (?P<kv_reserved_gib>NUM) GiB memory for KV Cache",
        "v1/worker/gpu_worker.py 0.10.2-0.33",
    ),
    _p(
        " GiB KV cache is needed",
        r"max seq len \((?P<error_max_model_len>NUM)\), \(?(?P<kv_needed_gib>NUM) GiB KV "
        r"cache is needed, which is larger than the available KV cache memory \((?P<error_available_kv_gib>NUM) GiB",
        "v1/core/kv_cache_utils.py 0.8-0.32; kv_cache_planning.py 0.33",
    ),
    _p(
        "estimated maximum model length is ",
        r"estimated maximum model length is (?P<est_max_model_len>NUM)",
        "v1/core/kv_cache_utils.py 0.8-0.33",
    ),
    _p(
        " can be stored in KV cache (",
        r"max seq len \((?P<error_max_model_len>NUM)\) is larger than the maximum number "
        r"of tokens that can be stored in KV cache \((?P<est_max_model_len>NUM)\)",
        "worker/worker.py 0.6-0.10 (V0)",
    ),
    _p(
        "max_num_batched_tokens=",
        r"Chunked prefill is enabled with max_num_batched_tokens=(?P<max_num_batched_tokens>\d"
        r"{1,9})",
        "config.py, config/scheduler.py 0.6-0.33",
    ),
    _p("sing max model len ", r"Using max model len (?P<max_model_len>\d{1,9})", "config/model.py 0.8-0.28"),
    _p(
        "Auto-fit max_model_len: ",
        r"reduced from \d{1,9} to (?P<max_model_len>\d{1,9})",
        "v1/core/kv_cache_utils.py 0.14-0.33",
    ),
    _p(
        "Setting attention block size to ",
        r"block size to (?P<block_size>\d{1,6}) tokens",
        "model_executor/models/config.py 0.10-0.24; platforms/interface.py 0.26-0.33",
    ),
    _p(
        "--gpu-memory-utilization=",
        r"current --gpu-memory-utilization=(?P<gpu_memory_utilization>NUM) is",
        "v1/worker/gpu_worker.py 0.20-0.33",
    ),
)

TEXTS: tuple[tuple[str, Pattern], ...] = (
    (
        "version",
        _p(
            "version ",
            r"(?:vLLM (?:API )?server|batch processing API|█) +version (?P<x>[\w.+!-]{1,60})",
            "entrypoints/openai/api_server.py; the logo of 0.14-0.33",
        ),
    ),
    (
        "version",
        _p(
            "Initializing a",
            r"Initializing an? (?:V[01] )?LLM engine \(v(?P<x>[\w.+!-]{1,60})\)",
            "engine/llm_engine.py 0.6; v1/engine/core.py 0.8-0.33",
        ),
    ),
    ("engine", _p("Initializing a", r"Initializing a (?P<x>V[01]) LLM engine", "0.8-0.33")),
    (
        "model",
        _p(
            "serving model ",
            r"vLLM server version \S{1,60}, serving model (?P<x>[^\s,]{1,300})",
            "entrypoints/common/startup.py 0.33",
        ),
    ),
    ("model", _p("█  model ", r"█  model +(?P<x>[^\s]{1,300})", "the logo of 0.14-0.33")),
    (
        "model",
        _p(
            "Starting to load model ",
            r"Starting to load model (?P<x>[^\s]{1,300}?)\.\.\.",
            "worker/model_runner.py 0.6; v1/worker/gpu_model_runner.py 0.8-0.33",
        ),
    ),
    (
        "architecture",
        _p("Resolved architecture: ", r"Resolved architecture: (?P<x>\w{1,100})", "config/model.py 0.10-0.33"),
    ),
    (
        "backend",
        _p(
            " backend",
            r"Using (?:AttentionBackendEnum\.)?(?P<x>[A-Z][A-Z_0-9]{2,40}) (?:attention )?backend\b(?! for)",
            "platforms/cuda.py 0.11-0.33",
        ),
    ),
    (
        "backend",
        _p(
            " backend",
            r"Using (?P<x>Flash Attention|FlashInfer|XFormers|Triton(?: Attention| MLA)?|FlashMLA|"
            r"Flash-?Attention|FlexAttention|Torch SDPA|Cutlass MLA) backend\b(?! for)",
            "attention/selector.py 0.6-0.8; platforms/cuda.py 0.7-0.10",
        ),
    ),
    ("gpu", _p("device_name=", r"device_name=(?P<x>[A-Za-z][\w-]{2,80})", "fused_moe.py: the missing tuning file")),
    (
        "gpu",
        _p(
            " GPU ",
            r"Your (?:b')?(?P<x>[A-Z][\w .-]{2,60}?)'? GPU has compute capability",
            "worker/worker.py, platforms/cuda.py",
        ),
    ),
    ("gpu", _p("Your device '", r"Your device '(?P<x>[^'\n]{3,60})'", "config.py 0.9")),
    ("gpu", _p("GPU 0: ", r"GPU 0: (?P<x>[A-Z][\w .-]{2,60}?)(?: \(UUID|\s*$)", "collect_env.py, nvidia-smi -L")),
    ("gpu", _p("|   0  ", r"\|   0  (?P<x>[A-Z][\w .-]{2,40}?) +(?:On|Off) +\|", "nvidia-smi")),
    (
        "gpu",
        _p(
            " with CUDA capability",
            r"(?P<x>NVIDIA [\w .-]{2,60}?) with CUDA capability sm_",
            "torch/cuda/__init__.py: the warning of a build without kernels for the card",
        ),
    ),
    ("gpu", _p("detected platform cpu", r"detected platform (?P<x>cpu)\b", "platforms/__init__.py")),
)
"""What is text: the first that is found wins."""

BACKENDS = {
    "flash attention": "FLASH_ATTN",
    "flashattention": "FLASH_ATTN",
    "flash-attention": "FLASH_ATTN",
    "flashinfer": "FLASHINFER",
    "xformers": "XFORMERS",
    "triton": "TRITON_ATTN",
    "triton attention": "TRITON_ATTN",
    "triton mla": "TRITON_MLA",
    "flashmla": "FLASHMLA",
    "flexattention": "FLEX_ATTENTION",
    "torch sdpa": "TORCH_SDPA",
    "cutlass mla": "CUTLASS_MLA",
}

STAGES: tuple[tuple[str, str, str], ...] = (
    ("online", "Application startup complete", "serving"),
    ("online", "Uvicorn running on", "serving"),
    ("ready", "init engine (profile, create kv cache, warmup model) took", "ready"),
    ("graphs_done", "Graph capturing finished", "warming up after the CUDA graphs"),
    ("graphs", "Capturing CUDA graph", "capturing CUDA graphs"),
    ("graphs", "Capturing cudagraphs", "capturing CUDA graphs"),
    ("graphs", "Capturing the model for CUDA graphs", "capturing CUDA graphs"),
    ("cache", "KV cache size: ", "allocating the KV cache"),
    ("cache", "# GPU blocks: ", "allocating the KV cache"),
    ("cache", "Available KV cache memory: ", "allocating the KV cache"),
    ("profiling", "Model loading took", "profiling memory"),
    ("profiling", "Loading model weights took", "profiling memory"),
    ("loading", "Starting to load model", "loading weights"),
    ("starting", "Initializing a", "starting the engine's processes"),
    ("config", "non-default args: ", "reading the model's configuration"),
    ("config", "args: Namespace(", "reading the model's configuration"),
    ("config", "vLLM API server version", "reading the model's configuration"),
    ("config", "vLLM server version", "reading the model's configuration"),
)
"""(code, what is printed once it is reached, what the engine then does), the last stage first."""
