"""Which launches are to be proven: read from plan files, or from a list of plans, recommendations or requests."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner import strict_json
from planner.engine.args import parse_flags
from planner.errors import InputError
from planner.text import printable, shown


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One launch, under a name that a person can tell it by."""

    label: str
    request: Mapping[str, Any]
    goal: Mapping[str, Any] | None = None


def read_candidates(path: Path) -> list[Candidate]:
    """What a file holds: a plan of `vllm-fit fit -o`, its alternatives with it, or a JSON list of plans, of
    recommendations (`vllm-fit recommend --format json`) or of requests. InputError where it holds none.
    """
    where = printable(path)
    content = strict_json.parse(strict_json.read_bytes(path, where), where)
    found = list(_of_content(content, where))
    if not found:
        raise InputError(f"{where}: no launch in it that could be made")
    return _labelled(found)


def _of_content(content: Any, where: str) -> Iterator[Candidate]:
    entries = content if isinstance(content, list) else [content]
    for number, entry in enumerate(entries, 1):
        place = f"{where}, entry {number}" if isinstance(content, list) else where
        if not isinstance(entry, Mapping):
            raise InputError(f"{place}: must be a plan, a recommendation or a request, as a JSON object")
        if isinstance(entry.get("plans"), list):
            yield from _of_content(entry["plans"], place)
        elif "plan" in entry:
            yield from _of_plan(entry, place)
        elif isinstance(entry.get("serve"), str):
            yield _of_option(entry, {}, None, place)
        elif "model" in entry:
            yield Candidate(label=_words(entry), request=dict(entry), goal=_goal(entry.get("workload"), place))
        else:
            raise InputError(f"{place}: not a plan of vllm-fit: it has neither a request nor a model")


def _of_plan(plan: Mapping[str, Any], where: str) -> Iterator[Candidate]:
    """The plan itself, and its alternatives where it was made with --alternatives."""
    request, goal, options = plan.get("request"), _goal(plan.get("goal"), where), plan.get("alternatives") or []
    if not isinstance(request, Mapping):
        raise InputError(f"{where}: not a plan of vllm-fit: it has no request")
    if not plan.get("met", True):
        raise InputError(f"{where}: this plan does not reach its goal, so there is nothing to launch")
    if not isinstance(options, list):
        raise InputError(f"{where}: alternatives = {shown(options)}: must be a list")
    yield Candidate(label=_words(request), request=dict(request), goal=goal)
    for option in options:
        if isinstance(option, Mapping) and isinstance(option.get("serve"), str):
            shared = {
                name: request[name] for name in ("gpu", "gpu_memory_gib", "compute_capability") if name in request
            }
            engines = {"engines": option.get("engines") or 1}
            yield _of_option(option, shared, {**goal, **engines} if goal else None, where)


_GOAL = ("concurrency", "engines", "input_len", "output_len", "ttft_ms", "tpot_ms")


def _goal(told: object, where: str) -> Mapping[str, Any] | None:
    """What a plan must reach, or a request's workload: the load that is put on a GPU, and its limits."""
    if not isinstance(told, Mapping):
        return None
    for name in _GOAL:
        value, kinds = told.get(name), int if name in ("input_len", "output_len") else (int, float)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < 1e9):
            raise InputError(f"{where}: {name} = {shown(value)}: must be a number above 0")
    return told


def _of_option(
    option: Mapping[str, Any], shared: Mapping[str, Any], goal: Mapping[str, Any] | None, where: str
) -> Candidate:
    """An option tells its launch as a `vllm serve` line."""
    try:
        words = shlex.split(str(option["serve"]))
    except ValueError as error:
        raise InputError(f"{where}: serve: {error}") from None
    if words[:2] != ["vllm", "serve"]:
        raise InputError(f"{where}: serve: not a `vllm serve` line")
    args, rest = parse_flags(words[2:])
    request: dict[str, Any] = {**shared, **dict(args), **({"model": rest[0]} if rest else {})}
    for name in ("gpu", "what_if_quantization"):
        if isinstance(option.get(name), str):
            request[name] = option[name]
    return Candidate(label=_words(request), request=request, goal=goal)


_TOLD = {
    "tensor_parallel_size": "TP",
    "pipeline_parallel_size": "PP",
    "data_parallel_size": "DP",
    "quantization": "",
    "what_if_quantization": "",
    "kv_cache_dtype": "KV",
    "max_model_len": "len",
    "max_num_seqs": "seqs",
    "max_num_batched_tokens": "batch",
}


_USUAL = ("TP 1", "PP 1", "DP 1")


def _words(request: Mapping[str, Any]) -> str:
    """ "Qwen3-32B TP 2 KV fp8 len 8192": what tells candidates apart."""
    name = str(request.get("model", "")).rstrip("/").rsplit("/", 1)[-1]
    told = [f"{word} {request[key]}".strip() for key, word in _TOLD.items() if request.get(key) is not None]
    return printable(" ".join([name, *(words for words in told if words not in _USUAL)]), 120)


def _labelled(candidates: list[Candidate]) -> list[Candidate]:
    """Without repetitions; those that look alike get numbers."""
    unlike: list[Candidate] = []
    for candidate in candidates:
        if not any(candidate.request == other.request for other in unlike):
            unlike.append(candidate)
    names = [candidate.label for candidate in unlike]
    return [
        candidate
        if names.count(candidate.label) == 1
        else Candidate(label=f"{candidate.label} #{number}", request=candidate.request, goal=candidate.goal)
        for number, candidate in enumerate(unlike, 1)
    ]
