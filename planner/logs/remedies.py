"""Which flag makes a launch fit that ran out of memory, with numbers.

A remedy is one flag, tried on the planner. The planner's available memory is first moved to what this log printed, so
that what is tried starts from what the card really had; where no single flag is enough, the ladder is climbed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from planner.engine.args import EngineArgs
from planner.errors import InputError
from planner.logs.failures import Diagnosis
from planner.logs.reader import Facts
from planner.memory.budget import Estimate
from planner.planning.change import with_args
from planner.planning.goal import Goal
from planner.planning.ladder import fit as climb
from planner.request import Inputs
from planner.units import GIB, ceil_div

_ROUNDING = GIB // 200
"""Two printed decimals: what may be missing of a printed size."""


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """Flags that make the launch fit, and what it then holds."""

    flags: Mapping[str, Any]
    command: str
    """The flags as they are typed."""
    effect: str
    tokens: int | None = None
    max_concurrency: float | None = None
    gpus: int = 1

    def to_dict(self) -> dict[str, Any]:
        """As an entry of the JSON answer's `remedies`."""
        return {
            "flags": dict(self.flags),
            "command": self.command,
            "effect": self.effect,
            "tokens": self.tokens,
            "max_concurrency": self.max_concurrency,
            "gpus": self.gpus,
        }


@dataclass(frozen=True)
class Case:
    """The launch that failed."""

    inputs: Inputs
    base: Estimate
    facts: Facts

    @cached_property
    def args(self) -> EngineArgs:
        """The flags of the launch that failed."""
        return self.inputs.args

    @cached_property
    def shift(self) -> int:
        """What the printed available memory has more than the predicted."""
        printed = self.facts.value("available_kv_gib")
        if printed is None:
            printed = self.facts.value("error_available_kv_gib")
        if printed is None or not self.base.ranks:
            return 0
        return round(printed * GIB) - _ROUNDING - _available(self.base)

    def after(self, **changes: Any) -> Estimate | None:
        """The launch with these flags, from the memory that the log printed; None when it does not fit."""
        try:
            inputs = with_args(self.inputs, self.args.with_(**changes))
            estimate = inputs.estimate()
            if estimate.ranks and self.shift and self.args.get("kv_cache_memory_bytes") is None:
                room = _available(estimate) + self.shift
                if room <= 0:
                    return None
                estimate = inputs.estimate(inputs.args.with_(kv_cache_memory_bytes=room))
        except InputError:
            return None
        return estimate if estimate.fits else None

    @property
    def utilization(self) -> float:
        """The share of the card that the launch was given, 0 to 1."""
        if self.base.engine is not None:
            return self.base.engine.gpu_memory_utilization
        return float(self.args.get("gpu_memory_utilization", 0.9))

    @property
    def largest_share(self) -> float:
        """What is free at start, as a share: vLLM refuses to ask for more."""
        free, total = self.facts.value("free_gib_on_start"), self.facts.value("device_total_gib")
        if free is None or not total:
            return 0.97
        return min(0.99, math.floor(100 * free / total) / 100)


def _available(estimate: Estimate) -> int:
    return min(rank.available_kv_bytes for rank in estimate.ranks)


Lever = Callable[[Case], Iterator[tuple[dict[str, Any], str]]]


def _shorter(case: Case) -> Iterator[tuple[dict[str, Any], str]]:
    """The longest request that fits: vLLM's own figure where it printed one."""
    printed = case.facts.value("est_max_model_len")
    for length in (int(printed or 0), _length_that_fits(case)):
        if length > 0:
            yield {"max_model_len": length}, "the longest request that fits"


def _length_that_fits(case: Case) -> int:
    """From the printed memory, rounded down: a block or two less than vLLM itself says."""
    if not case.base.ranks:
        return 0
    room = _available(case.base) + case.shift
    if room <= 0:
        return 0
    estimate = case.inputs.estimate(case.args.with_(kv_cache_memory_bytes=room))
    return estimate.kv_cache.max_model_len_that_fits or 0 if estimate.kv_cache is not None else 0


def _larger_share(case: Case) -> Iterator[tuple[dict[str, Any], str]]:
    if case.args.get("kv_cache_memory_bytes") is not None:
        return
    share = math.floor(100 * case.utilization + 1e-6) + 1
    while share <= round(100 * case.largest_share):
        yield {"gpu_memory_utilization": share / 100}, "the smallest share that is enough"
        share += 1


def _free_share(case: Case) -> Iterator[tuple[dict[str, Any], str]]:
    """At most what is free; with a context that fits into it, where the whole does not."""
    share = {"gpu_memory_utilization": case.largest_share}
    if 0 < case.largest_share < case.utilization:
        yield share, "what is free now"
        if case.base.engine is not None:
            length = case.base.engine.max_model_len
            while length > 1024:
                length //= 2
                yield {**share, "max_model_len": length}, "what is free now, with shorter requests"


def _smaller_share(case: Case) -> Iterator[tuple[dict[str, Any], str]]:
    """So much less that CUDA graphs, or what a request took, finds its place beside it."""
    total = case.base.gpu.memory_bytes
    if not total:
        return
    outside = case.base.outside_budget_bytes + GIB
    share = math.floor(min(100 * case.utilization - 2, 100 * (1 - outside / total))) / 100
    for less in (0, 0.03, 0.06):
        if share - less > 0.05:
            yield {"gpu_memory_utilization": round(share - less, 2)}, "leaves room beside vLLM's share"


def _fp8_cache(case: Case) -> Iterator[tuple[dict[str, Any], str]]:
    if case.args.get("kv_cache_dtype", "auto") == "auto":
        yield {"kv_cache_dtype": "fp8"}, "half the bytes for each token of the KV cache"


def _smaller_steps(case: Case) -> Iterator[tuple[dict[str, Any], str]]:
    engine = case.base.engine
    if engine is None:
        return
    for tokens in (4096, 2048, 1024, 512):
        if tokens < engine.max_num_batched_tokens:
            seqs = min(engine.max_num_seqs, 256 if tokens > 1024 else 64)
            yield {"max_num_batched_tokens": tokens, "max_num_seqs": seqs}, "a smaller profile run"


def _fewer_requests(case: Case) -> Iterator[tuple[dict[str, Any], str]]:
    engine = case.base.engine
    if engine is None:
        return
    for seqs in (256, 128, 64, 32, 16):
        if seqs <= engine.max_num_seqs // 2:
            yield {"max_num_seqs": seqs}, "fewer requests at once: a smaller peak of the sampler"


def _eager(case: Case) -> Iterator[tuple[dict[str, Any], str]]:
    if not case.args.get("enforce_eager"):
        yield {"enforce_eager": True}, "no CUDA graphs, at the cost of speed"


def _more_gpus(case: Case) -> Iterator[tuple[dict[str, Any], str]]:
    current = case.args.get("tensor_parallel_size", 1)
    for size in (2, 4, 8):
        if size > current:
            yield {"tensor_parallel_size": size}, f"the weights over {size} GPUs"


def _offload(case: Case) -> Iterator[tuple[dict[str, Any], str]]:
    kv = case.base.kv_cache
    if kv is None or not case.base.ranks or case.args.get("cpu_offload_gb"):
        return
    missing = kv.bytes_for_one_request + 2 * kv.bytes_per_block - _available(case.base) - case.shift
    offload = ceil_div(int(missing), GIB)
    if 0 < offload <= 64:
        yield {"cpu_offload_gb": offload}, f"{offload} GiB of the weights stay in main memory, at the cost of speed"


_FOR_ROOM: tuple[Lever, ...] = (_larger_share, _smaller_steps, _fp8_cache, _more_gpus, _offload)
LEVERS: Mapping[str, tuple[Lever, ...]] = {
    "no_cache_blocks": (_larger_share, _smaller_steps, _shorter, _more_gpus, _offload),
    "kv_too_small_for_one_request": (_shorter, *_FOR_ROOM),
    "cannot_auto_fit": _FOR_ROOM,
    "free_memory_below_requested": (_free_share,),
    "oom_sampler_warmup": (_fewer_requests, _smaller_share),
    "oom_profile_run": (_smaller_steps, _fewer_requests, _more_gpus),
    "oom_loading": (_more_gpus, _offload),
    "oom_graph_capture": (_smaller_share, _eager),
    "oom_kv_cache": (_smaller_share,),
    "oom_warmup": (_smaller_share, _fewer_requests),
    "oom_runtime": (_smaller_share, _smaller_steps),
}
"""What is tried for each failure, in order. A new remedy is one function and its place here."""


def remedies(diagnosis: Diagnosis, inputs: Inputs, base: Estimate, facts: Facts) -> tuple[Remedy, ...]:
    """The flags that fix this failure; the ladder's plan where no single flag does."""
    levers = LEVERS.get(diagnosis.code, ())
    case = Case(inputs, base, facts)
    found = [remedy for lever in levers if (remedy := _first_that_fits(case, lever)) is not None]
    if levers and not found:
        plan = _ladder(case)
        return (plan,) if plan is not None else ()
    return tuple(found)


def _first_that_fits(case: Case, lever: Lever) -> Remedy | None:
    for flags, why in lever(case):
        estimate = case.after(**flags)
        if estimate is not None:
            return _remedy(flags, why, estimate)
    return None


def _remedy(flags: dict[str, Any], why: str, estimate: Estimate) -> Remedy:
    kv = estimate.kv_cache
    return Remedy(
        flags=flags,
        command=" ".join(EngineArgs(flags).to_flags()),
        effect=why,
        tokens=kv.tokens if kv is not None else None,
        max_concurrency=round(kv.max_concurrency, 2) if kv is not None else None,
        gpus=estimate.engine.gpus_per_replica if estimate.engine is not None else 1,
    )


_FREED = ("max_model_len", "max_num_batched_tokens", "max_num_seqs", "kv_cache_dtype")
"""What the ladder may turn although the launch had set it."""


def _ladder(case: Case) -> Remedy | None:
    args = EngineArgs({name: value for name, value in case.args.items() if name not in _FREED})
    gpus = case.base.engine.gpus_per_replica if case.base.engine is not None else 1
    try:
        plan = climb(with_args(case.inputs, args), Goal(gpus=gpus))
    except InputError:
        return None
    if not plan.met:
        return None
    changed = {name: value for name, value in plan.inputs.args.items() if case.args.get(name) != value}
    what = "; ".join(change.summary for change in plan.changes)
    remedy = _remedy(changed, f"several changes together: {what}", plan.estimate)
    model = plan.inputs.model_source if plan.inputs.source != case.inputs.source else ""
    return Remedy(
        flags=remedy.flags,
        command=f"{model} {remedy.command}".strip(),
        effect=remedy.effect,
        tokens=remedy.tokens,
        max_concurrency=remedy.max_concurrency,
        gpus=remedy.gpus,
    )
