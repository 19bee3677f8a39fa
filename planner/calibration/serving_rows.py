"""Measured serving as cases that the speed model can predict: which rows, read how, and what was left out and why.

What the rows do not say, and how it is read here:

- serving.jsonl: the benchmark is InferenceX (formerly InferenceMAX), whose scripts are public
  (github.com/SemiAnalysisAI/InferenceX, benchmarks/): lengths are drawn from 80 to 100 % of those named, so the mean is
  0.9 of them; ten requests a client; engine flags as in SERVED. Rows that name several data-parallel replicas carry the
  very figures of rows with one: they are one replica with expert parallelism over its tensor-parallel ranks. Rows that
  repeat another's figures are left out.
- serving-more.jsonl: requests sent all at once run as many together as fit, in waves; while those of differing lengths
  (ShareGPT) end, the batch empties, which costs about one wave more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, inf
from pathlib import Path
from typing import Any

import hf_configs
from planner.calibration.own import own_rows
from planner.engine.version import parse_version
from planner.errors import InputError
from planner.memory.budget import Estimate
from planner.memory.quantization.recipes import RECIPES
from planner.planning.throughput.predict import limits_of
from planner.planning.throughput.rates import Rate, rate_table
from planner.planning.throughput.steady import Limits, Load
from planner.planning.throughput.work import Work, work_of
from planner.request import Inputs, prepare

MEASURED = Path(__file__).parent.parent / "measured"
FILES = ("serving.jsonl", "serving-more.jsonl")

RANGE_RATIO_MEAN = 0.9
"""Mean length over the length named, in serving.jsonl."""

DISTURBED = 1.1
"""More requests at once never take less time a token; measurements of the same launch differ by up to 5 %."""

BURST = 3.0
"""A TTFT of more than so many times the time of the whole output is that of a burst: in a closed loop it would say that
four of five requests wait. The scripts send 10 x CONC requests to a server with --max-num-seqs=CONC; sent all at once
they run in ten waves, and the mean wait is 4.5 of them (4.2 for 640 requests of 512 clients)."""

STAND_INS: Mapping[tuple[str, str], tuple[str, str | None]] = {
    ("meta-llama/Llama-3.1-70B", "fp8"): ("RedHatAI/Meta-Llama-3.1-70B-Instruct-FP8-dynamic", None),
    ("meta-llama/Llama-3.1-70B", "fp4"): ("RedHatAI/Llama-3.1-70B-Instruct-NVFP4", None),
    ("MiniMaxAI/MiniMax-M2.5", "fp4"): ("nvidia/MiniMax-M2.5-NVFP4", None),
    ("moonshotai/Kimi-K2.5", "fp4"): ("nvidia/Kimi-K2.5-NVFP4", None),
    ("neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8", "fp8"): ("RedHatAI/Meta-Llama-3.1-70B-Instruct-FP8-dynamic", None),
    ("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8", "fp8"): ("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", None),
    ("nvidia/Llama-3.1-8B-Instruct-FP8", "fp8"): ("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", None),
    ("Llama-3-70B AWQ", "awq"): ("hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4", None),
    ("zai-org/GLM-4.6-FP8", "fp8"): ("zai-org/GLM-4.5", "fp8"),
    ("cpatonn/Qwen3-VL-30B-A3B-Instruct-AWQ-4bit", "awq"): ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "awq"),
    ("Qwen3-Coder-30B-A3B-Instruct-AWQ", "awq"): ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "awq"),
    ("Qwen3-Coder-Next-FP8", "fp8"): ("Qwen/Qwen3-Coder-Next", "fp8"),
    ("Qwen3.6-35B-A3B AutoRound INT4", "int4 (AutoRound)"): ("Qwen/Qwen3.6-35B-A3B", "w4a16"),
    ("Qwen/Qwen3.6-27B-FP8", "fp8"): ("Qwen/Qwen3.6-27B", "fp8"),
    ("Qwen/Qwen3-VL-32B-Instruct-FP8", "fp8"): ("Qwen/Qwen3-32B-FP8", None),
    ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8", "fp8"): ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "fp8"),
    ("nvidia/Nemotron-3-Nano-Omni-30B-A3B-Reasoning-BF16", "bf16"): (
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        None,
    ),
    ("nvidia/Nemotron-3-Nano-Omni-30B-A3B-Reasoning-NVFP4", "nvfp4"): (
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4",
        None,
    ),
    ("nvidia/Nemotron-Cascade-2-30B-A3B", "bf16"): ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", None),
    ("nvidia/Gemma-4-26B-A4B-NVFP4", "nvfp4"): ("google/gemma-4-26B-A4B-it", "nvfp4"),
    ("Qwen/Qwen2.5-1.5B-Instruct", "bf16"): ("Qwen/Qwen2-1.5B-Instruct", None),
    ("Qwen/Qwen2.5-1.5B-Instruct", "gptq-int8"): ("Qwen/Qwen2-1.5B-Instruct", "gptq-int8"),
    ("ibm-granite/granite-4.1-8b", "bf16"): ("ibm-granite/granite-4-8b-dense", None),
    ("Qwen/Qwen2.5-1.5B-Instruct", "awq"): ("Qwen/Qwen2.5-1.5B-Instruct-AWQ", None),
    ("Qwen/Qwen2.5-1.5B-Instruct", "gptq-int4"): ("Qwen/Qwen2.5-1.5B-Instruct-GPTQ-Int4", None),
}
"""(a row's model, its precision): the catalogue's model of the same shape, and the format it is taken to be in."""

_SCHEDULED = {"max_num_batched_tokens": 8192, "async_scheduling": True}
_CAPTURED = {"max_num_batched_tokens": 8192, "max_cudagraph_capture_size": 2048}
_SIZES_OLD = [1, 2, 4, *range(8, 2049, 8)]
"""What --cuda-graph-sizes 2048 meant."""
SERVED: Mapping[tuple[str, str, str, str], Mapping[str, Any]] = {
    ("meta-llama/Llama-3.1-70B", "h100_sxm", "", ""): _SCHEDULED,
    ("meta-llama/Llama-3.1-70B", "b200_sxm", "", ""): {
        **_SCHEDULED,
        "max_num_seqs": 512,
        "kv_cache_dtype": "fp8",
        "compilation_config": {"cudagraph_mode": "FULL_DECODE_ONLY"},
    },
    ("meta-llama/Llama-3.1-70B", "", "", ""): {**_SCHEDULED, "kv_cache_dtype": "fp8"},
    ("openai/gpt-oss-120b", "b200_sxm", "", "0.15.1"): {**_CAPTURED, "kv_cache_dtype": "fp8"},
    ("openai/gpt-oss-120b", "", "", "0.18.0"): {**_CAPTURED, "moe_backend": "marlin"},
    ("openai/gpt-oss-120b", "", "", "0.11.2"): {**_CAPTURED, "async_scheduling": True},
    ("openai/gpt-oss-120b", "b200_sxm", "", ""): {
        **_SCHEDULED,
        "kv_cache_dtype": "fp8",
        "compilation_config": {"cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": _SIZES_OLD},
    },
    ("openai/gpt-oss-120b", "", "", ""): {
        **_SCHEDULED,
        "compilation_config": {"cudagraph_mode": "PIECEWISE", "cudagraph_capture_sizes": _SIZES_OLD},
    },
    ("MiniMaxAI/MiniMax-M2.5", "b200_sxm", "fp8", "0.17.0"): {
        "gpu_memory_utilization": 0.95,
        "enable_expert_parallel": True,
    },
    ("MiniMaxAI/MiniMax-M2.5", "b200_sxm", "fp8", ""): {"gpu_memory_utilization": 0.95, "kv_cache_dtype": "fp8"},
    ("MiniMaxAI/MiniMax-M2.5", "h200_sxm", "", "0.18.0"): {
        "gpu_memory_utilization": 0.95,
        "enable_expert_parallel": True,
    },
    ("MiniMaxAI/MiniMax-M2.5", "h200_sxm", "", ""): {"gpu_memory_utilization": 0.95},
    ("MiniMaxAI/MiniMax-M2.5", "h100_sxm", "", ""): {
        "gpu_memory_utilization": 0.9,
        "max_num_seqs": 256,
        "compilation_config": {"cudagraph_mode": "PIECEWISE"},
    },
    ("MiniMaxAI/MiniMax-M2.5", "", "", ""): {"gpu_memory_utilization": 0.9},
    ("moonshotai/Kimi-K2.5", "", "int4", ""): {"gpu_memory_utilization": 0.97},
    ("moonshotai/Kimi-K2.5", "", "", ""): {"gpu_memory_utilization": 0.9},
}
"""Engine flags of serving.jsonl by model, card, precision and version ("" for any; the first that matches), from those
scripts and their perf-changelog.yaml. VLLM_MXFP4_USE_MARLIN=1, which they set for gpt-oss on H100 and H200 since vLLM
0.13, is moe_backend here. For MiniMax on B200 until 0.17 and on H200 from TP 8 on, they passed --enable-expert-parallel
for an EP_SIZE of 1 too (InferenceX pull requests 869 and 947), without which an FP8 checkpoint of it has no TP 8.

Their history is longer than what was read. Where it had both, the KV cache's dtype is the one that explains when
requests begin to queue: 101 of 128 run at 8k/1k on two B200 (MiniMax, fp8), 29 of 32 on two H100 (Llama, 16 bits); all
of 32 on one H200, and all of 64 at 1k/8k on one B200 (Llama, fp8: in 16 bits 21 and 55 would).
"""

_SUFFIXES = {"awq": "-AWQ", "gptq-int4": "-GPTQ-Int4", "gptq-int8": "-GPTQ-Int8"}
"""How Qwen names its own quantized checkpoints."""
_OWN = ("bf16", "fp16", "", "none")
"""Precisions that are the checkpoint's own; others too, where its config names a quantization."""

CARDS = {
    "b200_sxm": "B200",
    "h100_sxm": "H100-SXM-80GB",
    "h200_sxm": "H200-SXM",
    "A100-80GB": "A100 80GB SXM4",
    "A100-40GB": "A100 40GB SXM4",
    "A100-40GB PCIe": "A100 40GB PCIe",
    "H100": "H100-SXM-80GB",
    "H100-80GB (variant not stated)": "H100 PCIe",
    "H100 NVL 94GB": "H100 NVL",
    "GB10 (DGX Spark)": "GB10",
    "RTX PRO 6000 Blackwell": "RTX PRO 6000 Blackwell Workstation Edition",
    "RTX PRO 6000 Blackwell Max-Q": "RTX PRO 6000 Blackwell Max-Q",
}
"""A row's card under the catalogue's name, where the row's own does not do."""

RELEASES = (
    ("2024-09-04", "0.6.0"),
    ("2025-01-27", "0.7.0"),
    ("2025-03-18", "0.8.0"),
    ("2025-05-15", "0.9.0"),
    ("2025-07-24", "0.10.0"),
    ("2025-10-02", "0.11.0"),
    ("2025-12-18", "0.13.0"),
    ("2026-03-01", "0.18.0"),
)
"""(date, vLLM's release that was current from then on), for rows without a version."""

_FLAGS: tuple[tuple[str, str, type], ...] = (
    (r"--max-num-batched-tokens[ =](\d+)", "max_num_batched_tokens", int),
    (r"--?max-model-len[ =](\d+)(?!k)\b", "max_model_len", int),
    (r"max_model_len=(\d+)", "max_model_len", int),
    (r"--gpu-memory-utilization[ =]([\d.]+)", "gpu_memory_utilization", float),
    (r"gpu_memory_utilization=(0?\.\d+)", "gpu_memory_utilization", float),
    (r"--max-num-seqs?[ =](\d+)", "max_num_seqs", int),
    (r"(?:-pp|--pipeline-parallel-size)[ =](\d+)", "pipeline_parallel_size", int),
    (r"--moe-backend[ =](\w+)", "moe_backend", str),
    (r"--linear-backend[ =](\w+)", "linear_backend", str),
)
"""What a row's `flags` say, as engine arguments."""
_SWITCHES = (
    (r"--enforce-eager|enforce_eager=True", "enforce_eager", True),
    (r"--enable-expert-parallel", "enable_expert_parallel", True),
    (r"--async-scheduling|async_scheduling=True", "async_scheduling", True),
    (r"async_scheduling=False", "async_scheduling", False),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One measurement that can be predicted."""

    row: Mapping[str, Any]
    file: str
    source: str
    """What was measured together: the model and card in serving.jsonl, the publisher in serving-more.jsonl."""
    inputs: Inputs
    work: Work
    table: Mapping[str, Rate]
    limits: Limits
    load: Load
    request_rate: float | None
    """Requests/s, where the row gives that; the concurrency then follows from it."""
    requests: float
    """Of the whole run, where that was short; else infinite."""
    clients: float
    """The most requests at once that a row with a rate allowed."""
    measured: Mapping[str, float]
    """By figure: "tpot", "ttft" (seconds), "output" (tokens/s)."""
    disturbed: bool = False
    """Its TPOT is above that of twice as many requests at once on the same launch: judged, not fitted."""

    @property
    def model(self) -> str:
        """The model's name in the row."""
        return str(self.row["model"])

    @property
    def card(self) -> str:
        """The catalogue's name of the card."""
        return self.inputs.gpu.name


@cache
def cases(*own: Path) -> tuple[tuple[Case, ...], Mapping[str, int]]:
    """(the measurements that can be predicted, how many rows were left out for which reason).

    own: files of the person's own measurements (`history --export serving`), beside those of the repository.
    """
    found: list[Case] = []
    left_out: dict[str, int] = {}
    seen: set[object] = set()
    rows = list(_rows(own))
    fastest = _fastest(row for _, row in rows)
    for file, row in rows:
        same = _figures(row)
        case = _case(file, row) if same not in seen else "it repeats the figures of another row"
        seen.add(same)
        if isinstance(case, Case):
            disturbed = row.get("tpot_ms", 0.0) > DISTURBED * fastest.get(_launched(row, 2), inf)
            found.append(replace(case, disturbed=disturbed))
        else:
            left_out[case] = left_out.get(case, 0) + 1
    return tuple(found), left_out


def _rows(own: Iterable[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in FILES:
        lines = [json.loads(line) for line in (MEASURED / file).read_text(encoding="utf-8").splitlines()]
        # Of rows with the same figures the one that names fewest replicas is kept.
        yield from ((file, row) for row in sorted(lines, key=lambda row: row.get("data_parallel_size") or 1))
    for path in own:
        yield from ((FILES[1], row) for row in own_rows(path, "serving"))


def _fastest(rows: Iterable[Mapping[str, Any]]) -> dict[object, float]:
    """The least TPOT (ms) that serving.jsonl has for each launch and concurrency."""
    found: dict[object, float] = {}
    for row in rows:
        if "tpot_ms" in row:
            key = _launched(row, 1)
            found[key] = min(row["tpot_ms"], found.get(key, inf))
    return found


def _launched(row: Mapping[str, Any], times: int) -> object:
    """A launch and its load, with so many times the requests at once."""
    names = ("model", "gpu", "weights_precision", "vllm_version", "input_len", "output_len", "tensor_parallel_size")
    return (*(row.get(name) for name in names), row.get("moe_ep_size"), times * (row.get("concurrency") or 0))


def _figures(row: Mapping[str, Any]) -> object:
    """What tells a measurement from others: two runs never have the same four digits of a mean TTFT."""
    if "ttft_ms" in row:
        figures: tuple[object, ...] = (f"{row['ttft_ms']:.4g}",)
    else:
        figures = tuple(row.get(key) for key in ("output_tokens_per_s", "ttft_ms_mean", "tpot_ms_mean", "id"))
    return (row["model"], row["gpu"], row.get("concurrency"), row.get("input_len"), row.get("output_len"), figures)


def _case(file: str, row: Mapping[str, Any]) -> Case | str:
    if row.get("output_len") is None:
        return "its output length is not stated"
    if row.get("ttft_ms", 0.0) > BURST * row["output_len"] * row.get("tpot_ms", 0.0):
        return "its requests came all at once, to a server that ran a few of them at a time"
    request = _request(file, row)
    if isinstance(request, str):
        return request
    launch = _launch(json.dumps(request, sort_keys=True))
    if isinstance(launch, str):
        return launch
    inputs, estimate = launch
    assert estimate.engine is not None
    ratio = RANGE_RATIO_MEAN if file == FILES[0] else 1.0
    input_len = ratio * float(row.get("input_len") or 64)
    output_len = max(ratio * _output_len(row), 2.0)
    work, kernels = work_of(estimate, inputs.quantization)
    limits = limits_of(estimate, input_len + output_len / 2)
    measured = _measured(row)
    if not measured:
        return "it has neither tokens/s nor TPOT"
    concurrency, judged = _concurrency(row, limits, measured)
    return Case(
        row=row,
        file=file,
        source=_source(file, row),
        inputs=inputs,
        work=work,
        table=rate_table(inputs.gpu, estimate.engine, kernels),
        limits=limits,
        load=Load(concurrency=concurrency, input_len=input_len, output_len=output_len),
        request_rate=row.get("request_rate"),
        requests=float(row.get("num_prompts") or inf),
        clients=float(row.get("concurrency") or inf),
        measured=judged,
    )


@cache
def _launch(request: str) -> tuple[Inputs, Estimate] | str:
    """Rows share launches: each is estimated once."""
    try:
        inputs = prepare(json.loads(request))
        estimate = inputs.estimate()
    except InputError as error:
        return f"it cannot be asked for: {str(error).split(';')[0][:80]}"
    if not estimate.fits or estimate.engine is None:
        return f"it is predicted not to start ({estimate.reasons[0].code})"
    return inputs, estimate


def _source(file: str, row: Mapping[str, Any]) -> str:
    if file == FILES[0]:
        return f"{row['model']} on {row['gpu']}"
    found = re.match(r"https?://(?:www\.)?(github\.com/[^/]+/[^/]+|[^/]+)", str(row["source"]))
    return found.group(1).removeprefix("github.com/") if found else f"a public log, {row['gpu']}"


def _request(file: str, row: Mapping[str, Any]) -> dict[str, Any] | str:
    precision = str(row.get("weights_precision") or "")
    chosen = _model(str(row["model"]), precision)
    if isinstance(chosen, str):
        return chosen
    name, what_if = chosen
    request: dict[str, Any] = {
        "model": name,
        "gpu": CARDS.get(row["gpu"], row["gpu"]),
        "what_if_quantization": what_if,
        "tensor_parallel_size": int(row.get("tensor_parallel_size") or 1),
        "vllm_version": _version(row),
        "kv_cache_dtype": row.get("kv_cache_dtype"),
        **_flags(str(row.get("flags") or "")),
    }
    if file == FILES[0]:
        request["enable_expert_parallel"] = True if row["moe_ep_size"] > 1 else None
        request |= _served(row)
    longest = int(row.get("input_len") or 64) + int(row["output_len"])
    # Long-context rows exceed what the config allows; models far longer than the load would not start on small cards.
    request["max_model_len"] = max(longest + 8, min(request.get("max_model_len", 16384), 16384))
    if longest + 8 > 32768:
        request["hf_overrides"] = {"max_position_embeddings": longest + 8}
        # Before there was the flag, people changed the config itself.
        request["vllm_version"] = max(request["vllm_version"], "0.6.4", key=parse_version)
    return {key: value for key, value in request.items() if value is not None}


def _served(row: Mapping[str, Any]) -> Mapping[str, Any]:
    mine = (row["model"], row["gpu"], row.get("weights_precision") or "", row.get("vllm_version") or "")
    return next(
        (
            flags
            for key, flags in SERVED.items()
            if all(want in ("", have) for want, have in zip(key, mine, strict=True))
        ),
        {},
    )


def _model(name: str, precision: str) -> tuple[str, str | None] | str:
    if (name, precision) in STAND_INS:
        return STAND_INS[name, precision]
    found = hf_configs.find(name)
    own = hf_configs.find(name + _SUFFIXES.get(precision, ""))
    if own is not None:
        found, precision = own, precision if precision not in _SUFFIXES else ""
    if found is None:
        return "its config is not in the catalogue"
    if precision in _OWN or precision not in RECIPES or _is_quantized(found):
        return found, None
    return found, precision


def _is_quantized(name: str) -> bool:
    from planner.model.source import load_config

    loaded = load_config(name)
    return "quantization_config" in loaded.values or loaded.quant_config is not None


def _version(row: Mapping[str, Any]) -> str:
    """Where it is not stated, the release of the row's date; without one, what InferenceX had before it said so
    (perf-changelog.yaml), and for serving-more.jsonl one of the middle of the period."""
    found = re.match(r"\d+\.\d+\.\d+", str(row.get("vllm_version") or ""))
    if found:
        return found.group(0)
    if str(row.get("vllm_version")).startswith("nightly"):
        return "0.18.0"
    if row.get("date"):
        return max((release for release in RELEASES if release[0] <= row["date"]), default=RELEASES[0])[1]
    return "0.10.2" if row.get("measured_from") else "0.11.0"


def _output_len(row: Mapping[str, Any]) -> float:
    """Tokens generated on average: fewer than asked for where requests might end early."""
    found = re.search(r"real outputs average (\d+) tokens", row.get("notes") or "")
    return float(found.group(1) if found else row["output_len"])


def _flags(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pattern, name, kind in _FLAGS:
        match = re.search(pattern, text)
        if match:
            found.setdefault(name, kind(match.group(1)))
    return found | {name: value for pattern, name, value in _SWITCHES if re.search(pattern, text)}


def _measured(row: Mapping[str, Any]) -> dict[str, float]:
    """Means where there are means, medians otherwise; seconds and tokens/s."""
    found = {}
    if "ttft_ms" in row:
        return {"tpot": row["tpot_ms"] / 1e3, "ttft": row["ttft_ms"] / 1e3}
    tpot = row.get("tpot_ms_mean") or row.get("tpot_ms_median") or row.get("itl_ms_mean")
    if tpot is not None:
        found["tpot"] = float(tpot) / 1e3
    if row.get("output_tokens_per_s") is not None:
        found["output"] = float(row["output_tokens_per_s"])
    return found


def _concurrency(
    row: Mapping[str, Any], limits: Limits, measured: Mapping[str, float]
) -> tuple[float, Mapping[str, float]]:
    """(requests at once, the one figure to judge by): TPOT where the load is steady, tokens/s for a burst."""
    if "ttft" in measured:
        return float(row["concurrency"]), measured
    steady = row.get("concurrency") is not None
    prompts = row.get("num_prompts")
    if not steady and row.get("request_rate") is None and prompts is None:
        steady, prompts = True, None
    concurrency = float(row.get("concurrency") or 1.0)
    if prompts is not None and row.get("request_rate") is None:
        # Of requests that may end early, the longest outputs keep running while the batch empties.
        prompts *= _output_len(row) / float(row["output_len"])
        # n requests at once run in waves: on average n / waves of them.
        together = min(concurrency if steady else prompts, limits.max_num_seqs, limits.fits)
        waves = prompts / max(together, 1.0)
        # Where lengths differ, the longest outputs keep running while the batch empties: about one wave more.
        concurrency = prompts / (waves + 1.0 if row.get("dataset") == "sharegpt" and not steady else ceil(waves))
    if "decode phase" in row["notes"] or "decode speed" in row["notes"]:
        found = measured.get("tpot") or concurrency / measured["output"]
        return concurrency, {"tpot": found}
    if "output" in measured and row.get("request_rate") is None:
        return concurrency, {"output": measured["output"]}
    return (concurrency, {"tpot": measured["tpot"]}) if "tpot" in measured else (concurrency, measured)
