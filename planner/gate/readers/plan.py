"""This tool's own plan files (`vllm-fit fit … -o PLAN.json`): the launch that they end in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from planner import strict_json
from planner.engine.args import EngineArgs
from planner.errors import InputError
from planner.gate.launch import Launch, Word
from planner.gate.source import Lookup, Source
from planner.request import REQUEST_KEYS


def read(source: Source, lookup: Lookup) -> Iterable[Launch]:  # noqa: ARG001 - all readers take it
    """Nothing for JSON that is no plan."""
    start = re.search(r'"request"\s*:\s*', source.text)
    if start is None or '"plan"' not in source.text:
        return []
    plan = strict_json.parse_object(source.text, source.file)
    request = plan.get("request")
    if "plan" not in plan or not isinstance(request, dict):
        return []
    _, end = json.JSONDecoder().raw_decode(source.text, start.end())
    lines = source.text.count("\n", 0, start.start()) + 1, source.text.count("\n", 0, end) + 1
    return [_launch(source, plan, request, lines)]


def _launch(source: Source, plan: Mapping[str, Any], request: Mapping[str, Any], lines: tuple[int, int]) -> Launch:
    values = {name: value for name, value in request.items() if name not in REQUEST_KEYS and name != "hf_token"}
    args: dict[str, Any] = {}
    problem = refusal = None
    try:
        args = dict(EngineArgs(values))
    except InputError as error:
        refusal = str(error)
    model = request.get("model")
    if not isinstance(model, str):
        problem = "its model is only numbers, which cannot be launched"
    return Launch(
        file=source.file,
        line=lines[0],
        end_line=lines[1],
        model=model if isinstance(model, str) else None,
        args=args,
        gpu=_text(request, "gpu"),
        gpus=_gpus(plan),
        version=_text(request, "vllm_version"),
        usage="offline" if request.get("usage") == "offline" else "server",
        problem=problem,
        refusal=refusal,
        words=tuple(_words(source, args, lines)),
        request={name: request[name] for name in _KEPT if name in request},
    )


_KEPT = ("gpu_memory_gib", "gpu_memory_used_gib", "compute_capability", "what_if_quantization")


def _text(request: Mapping[str, Any], key: str) -> str | None:
    value = request.get(key)
    return value if isinstance(value, str) else None


def _gpus(plan: Mapping[str, Any]) -> int | None:
    """Of one engine."""
    goal, engines = plan.get("goal"), plan.get("engines", 1)
    gpus = goal.get("gpus") if isinstance(goal, dict) else None
    if type(gpus) is not int or type(engines) is not int or engines < 1:
        return None
    return gpus // engines


def _words(source: Source, args: Mapping[str, Any], lines: tuple[int, int]) -> Iterable[Word]:
    for number in range(lines[0], lines[1] + 1):
        found = re.match(r'\s*"(\w+)"\s*:', source.lines[number - 1])
        if found and found[1] in args:
            yield Word(text=f"{found[1]}={args[found[1]]}", line=number)
