"""A log -> what it says: version, model, engine arguments, figures, the stage it reached.

FIGURES is the table of everything that is read; a new wording is one entry. A named group of a pattern is the figure's
name, as in planner/measured/launches.jsonl.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from planner.engine.args import engine_arg_names
from planner.engine.defaults import Usage
from planner.logs.pyrepr import read_dict, read_keywords
from planner.logs.text import Log, normalised
from planner.text import printable

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

_TEXTS: tuple[tuple[str, Pattern], ...] = (
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

_BACKENDS = {
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

_CHOOSE: dict[str, Callable[[list[tuple[float, int]]], tuple[float, int]]] = {
    "available_kv_gib": min,
    "kv_cache_tokens": min,
    "num_gpu_blocks": min,
    "max_concurrency": min,
    "est_max_model_len": min,
    "error_available_kv_gib": min,
    "model_loading_gib": max,
    "consumed_gib": max,
    "activation_peak_gib": max,
    "activation_and_graphs_gib": max,
    "non_torch_gib": max,
    "cudagraph_gib": max,
    "cudagraph_estimate_gib": max,
    "free_gib_on_start": min,
}
"""Of several ranks, the one that decides: vLLM takes the smallest cache. Of other figures, the last printed."""

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

_MARKS = (
    (1, "vLLM API server version"),
    (1, "vLLM server version"),
    (2, "non-default args: {"),
    (2, "args: Namespace("),
    (3, "Initializing a V"),
    (3, "Initializing an LLM engine"),
)
"""What a launch begins with, in order: a container that is restarted prints them again."""

UsageOrNone = Usage | None


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One printed number."""

    name: str
    value: float
    line: int
    process: str | None = None
    ranks: int = 1
    """How many times it was printed (by several ranks)."""

    def to_dict(self) -> dict[str, Any]:
        """As an entry of the JSON answer's `figures`, in the unit that the log prints."""
        return {"value": self.value, "line": self.line, "process": self.process, "printed": self.ranks}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a log says about its last launch."""

    version: str | None = None
    engine: str | None = None
    """V0 or V1."""
    model: str | None = None
    architecture: str | None = None
    gpu_names: tuple[str, ...] = ()
    backend: str | None = None
    usage: UsageOrNone = None
    args: Mapping[str, Any] = field(default_factory=dict)
    """As given on the command line: `non-default args`, or the Namespace of 0.6 to 0.8."""
    args_are_complete: bool = False
    """Whether a line of arguments was printed at all."""
    resolved: Mapping[str, Any] = field(default_factory=dict)
    """As vLLM resolved them: `Initializing … with config`."""
    unread: tuple[str, ...] = ()
    """Arguments whose values are printed in a way that cannot be read back."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    stage: str | None = None
    launches: int = 1
    """How many launches the log holds; the facts are the last one's."""

    def value(self, name: str) -> float | None:
        """A figure's value, in the unit that the log prints; None where the log does not have it."""
        figure = self.figures.get(name)
        return None if figure is None else figure.value

    @property
    def stage_words(self) -> str | None:
        """How far the start came, in words; None where the log does not tell."""
        return next((words for code, _, words in STAGES if code == self.stage), None)

    @property
    def empty(self) -> bool:
        """Whether nothing in the text looks like a log of vLLM."""
        return not (self.version or self.model or self.figures or self.stage)

    def to_dict(self) -> dict[str, Any]:
        """As `log` of the JSON answer."""
        return {
            "vllm_version": self.version,
            "engine": self.engine,
            "model": self.model,
            "architecture": self.architecture,
            "gpu": self.gpu_names[0] if self.gpu_names else None,
            "attention_backend": self.backend,
            "usage": self.usage,
            "stage": self.stage,
            "launches": self.launches,
            "args": dict(self.args),
            "unread_args": list(self.unread),
            "figures": {name: figure.to_dict() for name, figure in self.figures.items()},
        }


def read(text: str) -> tuple[Facts, Log]:
    """The facts of the last launch in a log, and that launch's part of it."""
    whole = Log(normalised(text))
    start, launches = _last_launch(whole)
    log = Log(whole.text[start:], whole.line_number(start)) if start else whole
    args, unread, complete = _arguments(log)
    resolved = _resolved(log)
    found = _texts(log)
    facts = Facts(
        version=_first(found, "version"),
        engine=_first(found, "engine"),
        model=_model_name(args, resolved, found),
        architecture=_first(found, "architecture"),
        gpu_names=tuple(name.replace("_", " ") for name in found.get("gpu", ())),
        backend=_backend(_first(found, "backend")),
        usage=_usage(log, args, complete),
        args=args,
        args_are_complete=complete,
        resolved=resolved,
        unread=tuple(unread),
        figures=_figures(log),
        stage=stage_at(log),
        launches=launches,
    )
    return facts, log


def stage_at(log: Log, end: int | None = None) -> str | None:
    """The stage that the log has reached, at its end or at a position."""
    return next((code for code, literal, _ in STAGES if log.text.find(literal, 0, end) >= 0), None)


# --- the last launch -----------------------------------------------------------------------------------------------


def _last_launch(log: Log) -> tuple[int, int]:
    """(where the last launch begins, how many there are)."""
    marks = sorted((position, stage) for stage, literal in _MARKS for position in log.positions(literal))
    start, launches, previous = 0, 1, 0
    seen: set[tuple[int, str | None]] = set()
    for position, stage in marks:
        key = stage, log.process(position)
        again = key in seen and (stage < 3 or _ended(log, previous, position))
        if again:
            start, launches, seen = log.text.rfind("\n", 0, position) + 1, launches + 1, set()
        seen.add(key)
        previous = position
    return start, launches


def _ended(log: Log, start: int, end: int) -> bool:
    """Whether a launch came to an end between two lines: several engines of one launch print the same first line."""
    return any(log.text.find(literal, start, end) >= 0 for literal in ("KV cache size: ", "# GPU blocks: ", "Error: "))


# --- arguments -----------------------------------------------------------------------------------------------------

_ARGS_WINDOW = 256 << 10

_NAMESPACE_DEFAULTS: dict[str, Any] = {
    "max_num_seqs": 256,
    "gpu_memory_utilization": 0.9,
    "swap_space": 4,
    "cpu_offload_gb": 0,
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "data_parallel_size": 1,
    "block_size": 16,
    "max_loras": 1,
    "max_lora_rank": 16,
    "max_logprobs": 20,
    "num_scheduler_steps": 1,
    "max_seq_len_to_capture": 8192,
    "load_format": "auto",
    "seed": 0,
}
"""What a Namespace of 0.6 to 0.8 holds though nobody gave it; None, False, "auto" and empty values besides."""


def _arguments(log: Log) -> tuple[dict[str, Any], list[str], bool]:
    """(the arguments as given, those that could not be read, whether they were printed)."""
    for literal, read_at, is_namespace in (
        ("non-default args: {", read_dict, False),
        ("args: Namespace(", read_keywords, True),
    ):
        positions = list(log.positions(literal))
        if not positions:
            continue
        opening = positions[0] + len(literal) - 1
        window = log.text[opening : opening + _ARGS_WINDOW]
        values, unread = read_at(window, 0) if not is_namespace else read_keywords(window, 1, ")")
        if is_namespace:
            values = {name: value for name, value in values.items() if _given(name, value)}
        return _safe(values), [printable(name, 60) for name in unread], True
    return {}, [], False


def _given(name: str, value: Any) -> bool:
    if value is None or value is False or value in ("auto", "", [], {}) or name not in engine_arg_names():
        return False
    return name not in _NAMESPACE_DEFAULTS or value != _NAMESPACE_DEFAULTS[name]


def _resolved(log: Log) -> dict[str, Any]:
    position = next(log.positions("LLM engine (v"), None)
    if position is None:
        return {}
    at = log.text.find("with config: ", position, position + 200)
    if at < 0:
        return {}
    window = log.text[at + len("with config: ") :][:_ARGS_WINDOW]
    return _safe(read_keywords(window, 0)[0])


def _safe(values: dict[str, Any]) -> dict[str, Any]:
    """Strings of a log are not to reach a terminal as they are."""
    return {printable(name, 100): _safe_value(value) for name, value in values.items()}


def _safe_value(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value, 2000)
    if isinstance(value, list):
        return [_safe_value(item) for item in value]
    if isinstance(value, dict):
        return {printable(key, 200): _safe_value(item) for key, item in value.items()}
    return value


# --- figures and texts ---------------------------------------------------------------------------------------------


def _figures(log: Log) -> dict[str, Figure]:
    seen: dict[str, list[tuple[float, int]]] = {}
    for pattern in FIGURES:
        for hit in log.hits(pattern.literal, pattern.regex):
            for name, text in hit.groups().items():
                value = _number(text)
                if value is not None:
                    seen.setdefault(name, []).append((value, hit.position))
    if "available_kv_bytes" in seen:
        in_gib = [(value / 2**30, position) for value, position in seen.pop("available_kv_bytes")]
        seen.setdefault("available_kv_gib", in_gib)
    return {name: _chosen(log, name, values) for name, values in sorted(seen.items())}


def _chosen(log: Log, name: str, values: list[tuple[float, int]]) -> Figure:
    choose = _CHOOSE.get(name)
    value, position = choose(values) if choose else max(values, key=lambda pair: pair[1])
    return Figure(
        name=name,
        value=value,
        line=log.line_number(position),
        process=log.process(position),
        ranks=len(values),
    )


def _number(text: str) -> float | None:
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value if abs(value) < 1e15 else None


def _texts(log: Log) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, pattern in _TEXTS:
        hit = log.first(pattern.literal, pattern.regex)
        if hit is not None:
            found.setdefault(name, []).append(printable(hit.match["x"].strip(), 300))
    return found


def _first(found: Mapping[str, list[str]], name: str) -> str | None:
    return next(iter(found.get(name, ())), None)


def _model_name(args: Mapping[str, Any], resolved: Mapping[str, Any], found: Mapping[str, list[str]]) -> str | None:
    for name in (args.get("model"), args.get("model_tag"), resolved.get("model"), _first(found, "model")):
        if isinstance(name, str) and name.strip():
            return name.strip()
    return None


def _backend(name: str | None) -> str | None:
    return None if name is None else _BACKENDS.get(name.lower(), name)


_SERVER: tuple[str, ...] = (
    "vLLM API server version",
    "vLLM server version",
    "(APIServer",
    "Application startup complete",
    "args: Namespace(",
    "█  model ",
    "api_server.py:",
)


def _usage(log: Log, args: Mapping[str, Any], complete: bool) -> UsageOrNone:
    """Whether `vllm serve` was launched or the LLM class, whose defaults differ."""
    usage: Literal["server", "offline"] | None = None
    if any(literal in log.text for literal in _SERVER) or "model_tag" in args:
        usage = "server"
    elif complete or "llm.py:" in log.text or "Processed prompts" in log.text:
        usage = "offline"
    return usage
