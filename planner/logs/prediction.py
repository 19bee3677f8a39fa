"""What a log says about its launch as a request, and the prediction for the same launch beside the printed figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import hf_configs
from planner.engine.args import EngineArgs, engine_arg_names
from planner.engine.version import NEWEST, OLDEST, parse_version
from planner.errors import InputError
from planner.hardware.catalogue import all_gpus, find_gpu
from planner.logs.failures import Diagnosis
from planner.logs.reader import Facts
from planner.memory.budget import Estimate
from planner.request import REQUEST_KEYS, Inputs, prepare
from planner.text import printable
from planner.units import GIB, model_dtype


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The request that a log makes, and what is still to be said."""

    request: Mapping[str, Any]
    inferred: frozenset[str]
    """Engine arguments that nobody gave: vLLM resolved them, and the log shows to what."""
    missing: tuple[str, ...]
    """What to pass, for people: "--gpu with …"."""
    notes: tuple[str, ...]


@dataclass
class _Draft:
    """A request in the making."""

    request: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def ask(facts: Facts, overrides: Mapping[str, Any], diagnosis: Diagnosis | None) -> Asked:
    """The request of the launch in the log; overrides win."""
    draft = _Draft()
    for fill in (_model, _gpu, _version):
        fill(facts, overrides, draft)
    if facts.usage is not None:
        draft.request["usage"] = facts.usage
    given, left_out = _given_args(facts)
    if left_out:
        draft.notes.append(f"not taken over into the prediction: {', '.join(left_out[:8])}")
    inferred = _inferred_args(facts, given)
    if str(draft.request.get("gpu", overrides.get("gpu"))).lower() == "cpu":
        inferred |= _cpu_cache(facts, given)
    memory = _memory(facts, diagnosis)
    request = {**inferred, **given, **memory, **draft.request}
    request |= {name: value for name, value in overrides.items() if value is not None}
    request.pop("id", None)
    return Asked(
        request=request,
        inferred=frozenset(inferred) - frozenset(overrides),
        missing=tuple(draft.missing),
        notes=tuple(draft.notes),
    )


def predict(asked: Asked) -> tuple[Inputs, Estimate]:
    """The prediction. InputError says what to pass, or what cannot be predicted."""
    if asked.missing:
        raise InputError(f"the log does not say enough: {'; '.join(asked.missing)}")
    request = dict(asked.request)
    resolved = request.pop("quantization", None) if "quantization" in asked.inferred else None
    try:
        inputs = prepare(request)
        if resolved is not None and inputs.quantization is None:
            inputs = prepare({**request, "quantization": resolved})
        return inputs, inputs.estimate()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # A log is written by anybody: values of a kind that vLLM itself would never have printed.
        raise InputError(
            f"the arguments in the log make no sense ({printable(error, 120)}); pass the right ones"
        ) from error


# --- model, card, version ------------------------------------------------------------------------------------------

_SNAPSHOT = re.compile(r"models--([\w.-]{1,100}?)--([\w.-]{1,150}?)(?:/|$)")
"""A folder of the Hugging Face cache."""
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


def _model(facts: Facts, overrides: Mapping[str, Any], draft: _Draft) -> None:
    if overrides.get("model") is not None:
        return
    name = facts.model
    if name is None:
        draft.missing.append("which model it is: pass --model with a catalogue name, a folder or a Hub id")
        return
    cached = _SNAPSHOT.search(name)
    if cached:
        name = f"{cached[1]}/{cached[2]}"
    elif not _HUB_ID.fullmatch(name):
        found = hf_configs.find(name.rstrip("/").rsplit("/", 1)[-1])
        if found is not None:
            draft.notes.append(f"the folder {printable(name)} is taken to hold {found}, by its name")
            name = found
    draft.request["model"] = name


def _gpu(facts: Facts, overrides: Mapping[str, Any], draft: _Draft) -> None:
    total = facts.value("device_total_gib")
    if total is not None and 0.0625 <= total <= 65536:
        draft.request["gpu_memory_gib"] = total
    if overrides.get("gpu") is not None:
        return
    for name in facts.gpu_names:
        try:
            draft.request["gpu"] = find_gpu(name).name
        except InputError:
            continue
        return
    told = f"; the {total:g} GiB in the log fit {_candidates(total)}" if total is not None else ""
    draft.missing.append(f"which card it is: pass --gpu (`vllm-fit gpus` lists them){told}")


def _candidates(total: float) -> str:
    near = [
        gpu.name
        for gpu in all_gpus()
        if any(abs(seen - total) <= 0.06 for seen, _ in gpu.measured_gib)
        or (gpu.memory_bytes is not None and abs(gpu.memory_bytes / GIB - total) <= 0.06)
    ]
    return " or ".join(near[:4]) if near else "none of them"


def _version(facts: Facts, overrides: Mapping[str, Any], draft: _Draft) -> None:
    if overrides.get("vllm_version") is not None:
        return
    if facts.version is None:
        draft.missing.append("which vLLM it was: pass --vllm-version")
        return
    numbers = re.match(r"(\d{1,4})\.(\d{1,4})", facts.version)
    if numbers and (int(numbers[1]), int(numbers[2])) > NEWEST[:2]:
        draft.notes.append(f"vLLM {facts.version} is newer than {NEWEST}, the newest known here: predicted as {NEWEST}")
        draft.request["vllm_version"] = str(NEWEST)
        return
    try:
        draft.request["vllm_version"] = str(parse_version(facts.version))
    except InputError:
        draft.missing.append(
            f"which release vLLM {facts.version} comes near: pass --vllm-version ({OLDEST} to {NEWEST})"
        )


# --- engine arguments ----------------------------------------------------------------------------------------------

_NOT_FOR_SIZES = frozenset(
    "model model_tag tokenizer served_model_name seed download_dir load_format tokenizer_mode port host "
    "disable_log_stats disable_log_requests config subparser allowed_local_media_path max_logprobs hf_config_path "
    "hf_token logits_processors otlp_traces_endpoint code_revision tokenizer_revision".split()
)
"""What says nothing about memory, or names places of another machine."""


def _given_args(facts: Facts) -> tuple[dict[str, Any], list[str]]:
    """(the arguments of the log that the planner takes, the names of those that it does not)."""
    known = engine_arg_names()
    args: dict[str, Any] = {}
    left_out = list(facts.unread)
    for name, value in facts.args.items():
        if name not in known or name in _NOT_FOR_SIZES or name in REQUEST_KEYS or value is None:
            continue
        if _is_legal(name, value):
            args[name] = value
        else:
            left_out.append(name)
    return args, left_out


def _is_legal(name: str, value: Any) -> bool:
    try:
        EngineArgs({name: value})
    except InputError:
        return False
    return True


def _inferred_args(facts: Facts, given: Mapping[str, Any]) -> dict[str, Any]:
    """What vLLM resolved by itself, or what was given where the line of arguments is not in the log."""
    resolved = facts.resolved
    args: dict[str, Any] = {}
    dtype = resolved.get("dtype")
    if isinstance(dtype, str) and dtype != "auto":
        args["dtype"] = _dtype(dtype)
    if resolved.get("quantization") not in (None, "None"):
        args["quantization"] = resolved["quantization"]
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        if resolved.get(name, 1) != 1:
            args[name] = resolved[name]
    if resolved.get("enforce_eager") is True:
        args["enforce_eager"] = True
    if resolved.get("kv_cache_dtype") not in (None, "auto"):
        args["kv_cache_dtype"] = resolved["kv_cache_dtype"]
    if not facts.args_are_complete and resolved.get("max_seq_len") is not None:
        args["max_model_len"] = resolved["max_seq_len"]
    for name, kind in (("max_num_batched_tokens", int), ("gpu_memory_utilization", float)):
        value = facts.value(name)
        if value is not None:
            args[name] = kind(value)
    return {name: value for name, value in args.items() if name not in given and _is_legal(name, value)}


def _cpu_cache(facts: Facts, given: Mapping[str, Any]) -> dict[str, Any]:
    """A CPU engine's KV cache has the size it was given; the log prints it."""
    room = facts.value("available_kv_gib")
    if room is None or room <= 0 or "kv_cache_memory_bytes" in given:
        return {}
    return {"kv_cache_memory_bytes": round(room * GIB)}


def _dtype(name: str) -> str:
    try:
        return model_dtype(name, "dtype")
    except InputError:
        return name


def _memory(facts: Facts, diagnosis: Diagnosis | None) -> dict[str, Any]:
    """What others hold on the card, where the launch failed for it; vLLM's own CUDA context is never free either."""
    free, total = facts.value("free_gib_on_start"), facts.value("device_total_gib")
    if diagnosis is None or diagnosis.code != "free_memory_below_requested" or free is None or total is None:
        return {}
    return {"gpu_memory_used_gib": max(0.0, total - free)}


# --- beside each other ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One printed figure beside the predicted one."""

    name: str
    unit: str
    printed: float | str
    predicted: float | str | None
    basis: str | None = None
    """exact, fitted or assumed: how well the prediction is founded."""

    @property
    def difference(self) -> float | None:
        """Printed less predicted."""
        if isinstance(self.printed, str) or isinstance(self.predicted, str) or self.predicted is None:
            return None
        return self.printed - self.predicted

    def to_dict(self) -> dict[str, Any]:
        """As an entry of the JSON answer's `comparisons`."""
        return {
            "name": self.name,
            "unit": self.unit,
            "printed": self.printed,
            "predicted": self.predicted,
            "difference": self.difference,
            "basis": self.basis,
        }


@dataclass(frozen=True)
class _Answer:
    """The parts of an estimate that figures are compared with."""

    memory: Mapping[str, Any]
    kv: Mapping[str, Any]
    engine: Mapping[str, Any]
    graphs_in_budget: bool

    def gib(self, *names: str) -> float | None:
        sizes = [self.memory.get(name) for name in names]
        if not self.memory or any(size is None for size in sizes):
            return None
        return sum(int(size) for size in sizes if size is not None) / GIB


_Predicted = Callable[[_Answer], float | None]


def _size(*names: str) -> _Predicted:
    return lambda answer: answer.gib(*names)


def _of_cache(name: str, scale: float = 1) -> _Predicted:
    return lambda answer: answer.kv[name] / scale if answer.kv.get(name) is not None else None


def _activation_and_graphs(answer: _Answer) -> float | None:
    if answer.graphs_in_budget:
        return answer.gib("activation_peak_bytes", "cuda_graph_bytes")
    return answer.gib("activation_peak_bytes")


ROWS: tuple[tuple[str, str, str, str, _Predicted], ...] = (
    ("device_total_gib", "GPU memory", "GiB", "", _size("total_bytes")),
    ("requested_gib", "requested (utilization x total)", "GiB", "exact", _size("requested_bytes")),
    ("model_loading_gib", "model loading", "GiB", "weights", _size("model_loading_bytes")),
    ("activation_peak_gib", "peak activation", "GiB", "activation_peak", _size("activation_peak_bytes")),
    (
        "activation_and_graphs_gib",
        "peak activation, with graph estimate",
        "GiB",
        "activation_peak",
        _activation_and_graphs,
    ),
    ("non_torch_gib", "non-torch memory", "GiB", "non_torch", _size("non_torch_bytes")),
    (
        "consumed_gib",
        "consumed (weights + non-torch)",
        "GiB",
        "non_torch",
        _size("model_loading_bytes", "persistent_bytes", "non_torch_bytes"),
    ),
    ("cudagraph_estimate_gib", "CUDA graphs, vLLM's estimate", "GiB", "cuda_graph", _size("cuda_graph_bytes")),
    ("cudagraph_gib", "CUDA graphs", "GiB", "cuda_graph", _size("cuda_graph_bytes")),
    ("available_kv_gib", "available KV cache memory", "GiB", "available_kv", _size("available_kv_bytes")),
    ("num_gpu_blocks", "KV cache blocks", "blocks", "kv_cache", _of_cache("num_blocks")),
    ("kv_cache_tokens", "KV cache size", "tokens", "kv_cache", _of_cache("tokens")),
    ("max_concurrency", "maximum concurrency", "x", "kv_cache", _of_cache("max_concurrency")),
    ("kv_needed_gib", "KV cache for one request", "GiB", "weights", _of_cache("bytes_for_one_request", GIB)),
    ("est_max_model_len", "longest request that fits", "tokens", "kv_cache", _of_cache("max_model_len_that_fits")),
    ("block_size", "block size", "tokens", "exact", _of_cache("block_size")),
)
"""(figure, name, unit, which basis of the estimate, the predicted value)."""


def compare(facts: Facts, estimate: Estimate | None) -> tuple[Comparison, ...]:
    """Every printed figure, beside the predicted one where there is one."""
    answer = _answer(estimate) if estimate is not None else None
    basis = dict(estimate.basis) if estimate is not None else {}
    rows = [
        Comparison(
            name=name,
            unit=unit,
            printed=value,
            predicted=predicted(answer) if answer is not None else None,
            basis=basis.get(term, term or None),
        )
        for figure, name, unit, term, predicted in ROWS
        if (value := facts.value(figure)) is not None
    ]
    if facts.backend is not None:
        ours = answer.engine.get("attention_backend") if answer is not None else None
        rows.append(Comparison(name="attention backend", unit="", printed=facts.backend, predicted=ours, basis="exact"))
    return tuple(rows)


def _answer(estimate: Estimate) -> _Answer:
    told = estimate.to_dict()
    inside = estimate.overhead is not None and estimate.overhead.graphs_in_budget
    return _Answer(told["memory"] or {}, told["kv_cache"] or {}, told["engine"] or {}, inside)
