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
from planner.text import printable
from planner.units import GIB

_TEXT_LIMIT = 4000
_CARD_OPTIONS = ("gpu", "gpu_memory_gib", "gpu_memory_used_gib", "compute_capability", "vllm_version", "usage")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One part of a GPU's memory."""

    key: str
    name: str
    bytes: int
    basis: str = ""

    @property
    def gib(self) -> str:
        return gib(self.bytes)

    @property
    def gib_size(self) -> float:
        return self.bytes / GIB


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Where the memory of the tightest GPU goes, in the order in which it is drawn."""

    segments: tuple[Segment, ...]
    total_bytes: int | None
    requested_bytes: int | None
    missing_bytes: int
    """What would have to be there and is not, where the weights and the rest exceed the requested share."""
    kv_range: tuple[int, int] | None

    @property
    def used_bytes(self) -> int:
        return sum(segment.bytes for segment in self.segments)

    @property
    def scale_bytes(self) -> int:
        """The length of a bar that holds everything drawn."""
        return max(self.used_bytes, self.total_bytes or 0, self.requested_bytes or 0, 1)

    @property
    def free_bytes(self) -> int:
        return max(0, (self.total_bytes or 0) - self.used_bytes)

    @property
    def marks(self) -> tuple[tuple[str, float], ...]:
        """The requested share and the card's end, in GiB, where they are known."""
        marks = (("requested", self.requested_bytes), ("end of the card", self.total_bytes))
        return tuple((name, size / GIB) for name, size in marks if size is not None)

    @property
    def drawn(self) -> tuple[Segment, ...]:
        """The segments with something in them, and what is left of the card."""
        free = Segment(key="free", name="Free", bytes=self.free_bytes, basis="")
        return tuple(part for part in (*self.segments, free) if part.bytes > 0)


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


def text(value: object) -> str:
    """A value from outside on one printable line."""
    if isinstance(value, str):
        return printable(value, _TEXT_LIMIT)
    return printable(json.dumps(value), _TEXT_LIMIT)


def gib(size: float) -> str:
    return f"{size / GIB:.2f}"


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
            words += ["--" + key.replace("_", "-"), str(request[key])]
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


def memory_of(answer: Mapping[str, Any]) -> Memory | None:
    """The memory of an answer's tightest GPU; None where vLLM would not come to allocate any."""
    memory = answer["memory"]
    if memory is None:
        return None
    basis = {key: text(value) for key, value in answer["basis"].items()}
    sizes = {key: int(value) for key, value in memory.items() if value is not None}
    available = sizes["available_kv_bytes"]
    weights = sizes["model_loading_bytes"] - sizes["offloaded_bytes"]
    activation = basis.get("activation_peak", "")
    parts = (
        ("weights", "Weights", weights, basis.get("weights", "")),
        ("kv", "KV cache", max(0, available), basis.get("available_kv", "")),
        ("activation", "Peak activation", sizes["activation_peak_bytes"], activation),
        ("buffers", "Engine buffers", sizes["persistent_bytes"] + _later(answer, sizes, weights), activation),
        ("graphs", "CUDA graphs", sizes["cuda_graph_bytes"], basis.get("cuda_graph", "")),
        ("non_torch", "Non-torch", sizes["non_torch_bytes"], basis.get("non_torch", "")),
    )
    low_high = answer["range"].get("available_kv_bytes")
    return Memory(
        segments=tuple(Segment(key=k, name=n, bytes=size, basis=how) for k, n, size, how in parts),
        total_bytes=sizes.get("total_bytes"),
        requested_bytes=sizes.get("requested_bytes"),
        missing_bytes=max(0, -available),
        kv_range=(int(low_high[0]), int(low_high[1])) if low_high else None,
    )


def _later(answer: Mapping[str, Any], sizes: Mapping[str, int], weights: int) -> int:
    """Buffers allocated after profiling: what is used beyond the requested share and has no line of its own."""
    engine = answer["engine"] or {}
    if "requested_bytes" not in sizes or engine.get("kv_cache_memory_bytes") is not None:
        return 0
    named = ("activation_peak_bytes", "persistent_bytes", "non_torch_bytes", "cuda_graph_bytes", "available_kv_bytes")
    known = weights + sum(sizes[key] for key in named)
    return max(0, sizes["requested_bytes"] + sizes["outside_budget_bytes"] - known)


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
