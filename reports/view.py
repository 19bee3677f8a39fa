"""A plan file's dictionary as the few typed values that a report and the app show."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planner.engine.args import EngineArgs
from planner.errors import InputError
from planner.request import REQUEST_KEYS
from planner.text import flag, printable
from reports.memory import Memory, gib, memory_of, text
from reports.tables import Table, tables_of

_CARD_OPTIONS = ("gpu", "gpu_memory_gib", "gpu_memory_used_gib", "compute_capability", "vllm_version", "usage")


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One step of the ladder, in words."""

    name: str
    outcome: str
    summary: str
    why: str
    quality_cost: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class View:
    """Everything a report says, each text printable on one line."""

    model: str
    cards: str
    status: str
    verdict: str
    goal: str
    reasons: tuple[str, ...]
    inputs: tuple[tuple[str, str], ...]
    engine: tuple[tuple[str, str], ...]
    memory: Memory | None
    kv: tuple[tuple[str, str], ...]
    start: str
    rungs: tuple[Rung, ...]
    tables: tuple[Table, ...]
    """Speed, measured results, alternatives and suggestions: those that the plan holds."""
    assumed: tuple[tuple[str, str], ...]
    basis: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    serve: str | None
    binding: str | None
    made_first: str | None
    reproduce: str
    vllm_version: str


def view_of(plan: Mapping[str, Any]) -> View:
    """InputError for a dictionary that is not a plan of vllm-fit."""
    if "plan" not in plan or "estimate" not in plan:
        raise InputError("not a plan of vllm-fit (`vllm-fit fit … -o PLAN.json` writes one)")
    if plan["plan"] != 1:
        raise InputError(f"a plan of format {text(plan['plan'])[:40]}; this vllm-fit reads format 1")
    try:
        return _view(plan)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(f"a damaged plan: {type(error).__name__} {printable(error, 80)}") from error


def _view(plan: Mapping[str, Any]) -> View:
    answer, goal, request = plan["estimate"], plan["goal"], plan["request"]
    binding = plan["binding"]
    what_if = request.get("what_if_quantization")
    return View(
        model=text(answer["model"]["name"]),
        cards=f"{int(goal['gpus'])} x {text(answer['gpu']['name'])}",
        status="met" if plan["met"] is True else "not-met",
        verdict=plan_verdict(plan),
        goal=goal_words(goal),
        reasons=tuple(text(reason["message"]) for reason in answer["reasons"]),
        inputs=_pairs(request),
        engine=_pairs(answer["engine"] or {}),
        memory=memory_of(answer),
        kv=kv_facts(answer),
        start=snapshot_words(plan["start"]),
        rungs=tuple(_rung(step) for step in plan["steps"]),
        tables=tables_of(plan),
        assumed=_pairs(answer["assumed"]),
        basis=_pairs(answer["basis"]),
        warnings=tuple(text(warning) for warning in answer["warnings"]),
        serve=text(plan["serve"]) if plan["serve"] is not None else None,
        binding=text(binding["message"]) if binding else None,
        made_first=text(what_if) if what_if else None,
        reproduce=text(reproduce(request)),
        vllm_version=text((answer["engine"] or request).get("vllm_version", "unknown")),
    )


# -- words ------------------------------------------------------------------------------------------------------------


def plan_verdict(plan: Mapping[str, Any]) -> str:
    """One sentence: whether a plan was found, and what it then holds."""
    answer = plan["estimate"]
    if plan["met"] is True:
        return answer_verdict(answer)
    where = f"{text(answer['model']['name'])} on {int(plan['goal']['gpus'])} x {text(answer['gpu']['name'])}"
    return f"No plan was found for {where}."


def answer_verdict(answer: Mapping[str, Any]) -> str:
    """One sentence with vLLM's own numbers for a launch as it is."""
    name, engine = text(answer["model"]["name"]), answer["engine"]
    where = text(answer["gpu"]["name"])
    if engine is not None:
        cards = int(engine["tensor_parallel_size"]) * int(engine["pipeline_parallel_size"])
        cards *= int(engine["data_parallel_size"])
        where = f"{cards} x {where}"
    if answer["status"] == "refused":
        return f"{name} is refused by vLLM on {where}."
    if answer["status"] != "fits":
        return f"{name} does not fit on {where}."
    kv = answer["kv_cache"]
    if kv is None:
        return f"{name} fits on {where}; it keeps no KV cache."
    length = int(engine["max_model_len"])
    return (
        f"{name} fits on {where}: GPU KV cache size: {int(kv['tokens']):,} tokens, Maximum concurrency for "
        f"{length:,} tokens per request: {float(kv['max_concurrency']):.2f}x."
    )


def goal_words(goal: Mapping[str, Any]) -> str:
    """What a plan's `goal` asks for."""
    count = float(goal["concurrency"])
    one = "full-length request"
    if goal.get("input_len") is not None or goal.get("output_len") is not None:
        one = f"request of {int(goal.get('input_len') or 0):,} + {int(goal.get('output_len') or 0):,} tokens"
    words = f"{count:g} {one if count == 1 else one.replace('request', 'requests', 1)} at once"
    if int(goal.get("engines", 1)) > 1:
        words += f", over {int(goal['engines'])} engines"
    if goal.get("margin_bytes"):
        words += f", with {gib(int(goal['margin_bytes']))} GiB of each GPU left over"
    return words


def snapshot_words(snapshot: Mapping[str, Any]) -> str:
    """What a step's `before` or `after` says."""
    room = snapshot["available_kv_bytes"]
    if snapshot["status"] == "refused" or room is None:
        return "refused by vLLM"
    words = f"{gib(int(room))} GiB for KV cache"
    if snapshot["status"] != "fits":
        return f"{words}: does not fit"
    return f"{words}, {int(snapshot['tokens']):,} tokens, {float(snapshot['max_concurrency']):.2f}x"


def reproduce(request: Mapping[str, Any]) -> str:
    """The command that gives the same estimate again."""
    if not isinstance(request["model"], str):
        return f"echo {shlex.quote(json.dumps(dict(request)))} | vllm-fit estimate --batch -"
    words = ["vllm-fit", "estimate", request["model"]]
    for key in (*_CARD_OPTIONS, "what_if_quantization"):
        if request.get(key) is not None:
            words += [flag(key), str(request[key])]
    words += ["--ask-vllm"] if request.get("ask_vllm") else []
    args = EngineArgs({key: value for key, value in request.items() if key not in REQUEST_KEYS})
    return shlex.join([*words, *args.to_flags()])


def _pairs(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((text(key), text(value)) for key, value in values.items() if value is not None)


def _rung(step: Mapping[str, Any]) -> Rung:
    return Rung(
        name=text(step["rung"]),
        outcome=text(step["outcome"]),
        summary=text(step["summary"]),
        why=text(step["why"]),
        quality_cost=text(step["quality_cost"]),
        before=snapshot_words(step["before"]),
        after=snapshot_words(step["after"]),
    )


# -- numbers ----------------------------------------------------------------------------------------------------------


def kv_facts(answer: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """KV cache and concurrency, name and value; nothing for a launch that does not come to it."""
    kv, engine = answer["kv_cache"], answer["engine"]
    if kv is None or engine is None:
        return ()
    facts = [
        ("Context (max_model_len)", f"{int(engine['max_model_len']):,} tokens"),
        ("KV cache dtype", text(engine["kv_cache_dtype"])),
        ("Attention backend", text(engine["attention_backend"])),
        ("One full-length request", f"{gib(int(kv['bytes_for_one_request']))} GiB"),
        ("Blocks", f"{int(kv['num_blocks']):,} of {int(kv['block_size'])} tokens"),
        ("Bytes per block", f"{int(kv['bytes_per_block']):,}"),
    ]
    if answer["status"] == "fits":
        facts.insert(0, ("Maximum concurrency", f"{float(kv['max_concurrency']):.2f}x"))
        facts.insert(0, ("GPU KV cache size", f"{int(kv['tokens']):,} tokens"))
    elif kv["max_model_len_that_fits"]:
        facts.append(("Longest context that fits", f"{int(kv['max_model_len_that_fits']):,} tokens"))
    return tuple(facts)
