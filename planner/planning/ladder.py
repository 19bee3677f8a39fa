"""The ladder: from "does not fit" to the smallest legal change that fits, one explained rung at a time.

Climb rung by rung, in order, keeping each legal change, until the goal is met; then take back every change that turns
out not to be needed. A rung is one entry in RUNGS: its name, its quality cost, and the changes it can try.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from planner.engine.args import EngineArgs
from planner.errors import InputError, Reason
from planner.memory.budget import Estimate
from planner.planning.variants import quantized_variants
from planner.request import Inputs, prepare
from planner.units import GIB, ceil_div


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What the plan must reach, on which cards."""

    gpus: int = 1
    concurrency: float = 1.0
    """Full-length requests at once."""

    def met(self, estimate: Estimate) -> bool:
        if not estimate.fits:
            return False
        return estimate.kv_cache is None or estimate.kv_cache.max_concurrency >= self.concurrency


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """An estimate in the few numbers a rung is judged by."""

    status: str
    available_kv_bytes: int | None
    tokens: int
    max_concurrency: float

    @classmethod
    def of(cls, estimate: Estimate) -> Snapshot:
        kv = estimate.kv_cache
        held = kv is not None and estimate.fits
        return cls(
            status=estimate.status,
            available_kv_bytes=min((rank.available_kv_bytes for rank in estimate.ranks), default=None),
            tokens=kv.tokens if kv is not None and held else 0,
            max_concurrency=kv.max_concurrency if kv is not None and held else 0.0,
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "available_kv_bytes": self.available_kv_bytes,
            "tokens": self.tokens,
            "max_concurrency": round(self.max_concurrency, 2),
        }


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing a rung can try."""

    summary: str
    args: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    """Another checkpoint of the same model."""
    what_if_quantization: str | None = None
    """A checkpoint that must be made first."""
    quality_cost: str = "none"

    def apply(self, inputs: Inputs) -> Inputs:
        if self.model is None and self.what_if_quantization is None:
            return with_args(inputs, inputs.args.with_(**self.args))
        request = request_of(inputs)
        request |= self.args
        if self.model is not None:
            request["model"] = self.model
        if self.what_if_quantization is not None:
            request["what_if_quantization"] = self.what_if_quantization
        return prepare(request)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What became of one rung."""

    rung: str
    outcome: str
    """taken, skipped, or taken back."""
    summary: str
    why: str
    quality_cost: str
    before: Snapshot
    after: Snapshot

    def to_dict(self) -> dict[str, Any]:
        return {
            "rung": self.rung,
            "outcome": self.outcome,
            "summary": self.summary,
            "why": self.why,
            "quality_cost": self.quality_cost,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where the ladder ended: a launch that fits, or the constraint that binds."""

    inputs: Inputs
    goal: Goal
    start: Estimate
    estimate: Estimate
    steps: tuple[Step, ...]
    met: bool
    base: Inputs
    """Where the climb began."""
    changes: tuple[Change, ...] = ()
    """What was taken and kept: applied to base, they give inputs."""
    binding: Reason | None = None
    """Why no plan was found."""

    @property
    def start_snapshot(self) -> Snapshot:
        return Snapshot.of(self.start)

    @property
    def model_source(self) -> str:
        """What to pass to `vllm serve`."""
        source = self.inputs.source
        return source if isinstance(source, str) else self.inputs.model.name

    @property
    def serve_command(self) -> str:
        return self.inputs.args.serve_command(self.model_source)

    def to_dict(self) -> dict[str, Any]:
        return {
            "plan": 1,
            "met": self.met,
            "goal": {"gpus": self.goal.gpus, "concurrency": self.goal.concurrency},
            "request": request_of(self.inputs),
            "serve": self.serve_command if self.met else None,
            "steps": [step.to_dict() for step in self.steps],
            "binding": self.binding.to_dict() if self.binding else None,
            "start": self.start_snapshot.to_dict(),
            "estimate": self.estimate.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One entry of the ladder: `changes` yields what it can try, best first, from where the climb is."""

    name: str
    flags: tuple[str, ...]
    """The arguments it turns: pinned with --keep, or by giving them."""
    changes: Callable[[Inputs, Goal, Estimate], Iterator[Change]]


def fit(inputs: Inputs, goal: Goal, keep: frozenset[str] = frozenset()) -> Plan:
    """Climb until the goal is met, then take back what is not needed. keep: flags that must stay as they are."""
    if goal.gpus < 1:
        raise InputError(f"gpus = {goal.gpus}: must be at least 1")
    if goal.concurrency <= 0:
        raise InputError(f"concurrency = {goal.concurrency}: must be above 0")
    inputs = _use_the_cards(inputs, goal)
    start = inputs.estimate()
    climb = _Climb(inputs, start, goal, keep)
    climb.run()
    return climb.plan()


def with_args(inputs: Inputs, args: EngineArgs) -> Inputs:
    if args.get("quantization") != inputs.args.get("quantization"):
        return prepare({**request_of(inputs), **dict(args)})
    return replace(inputs, args=args)


def request_of(inputs: Inputs) -> dict[str, Any]:
    """The request that these inputs came from, to be prepared again or written to a plan file."""
    request: dict[str, Any] = {"model": inputs.source, **inputs.gpu_request}
    request |= {"vllm_version": str(inputs.version), "usage": inputs.usage}
    if inputs.what_if_quantization:
        request["what_if_quantization"] = inputs.what_if_quantization
    if inputs.workload:
        request["workload"] = inputs.workload.to_dict()
    return request | dict(inputs.args)


def _use_the_cards(inputs: Inputs, goal: Goal) -> Inputs:
    """The cards given are there to be used: the largest legal tensor parallel size, where none is asked for."""
    if "tensor_parallel_size" in inputs.args or goal.gpus == 1:
        return inputs
    for size in _sizes(goal.gpus):
        candidate = with_args(inputs, inputs.args.with_(tensor_parallel_size=size))
        if size == 1 or candidate.estimate().status != "refused":
            return candidate if size > 1 else inputs
    return inputs


GPUS_PER_NODE = 8


def _sizes(gpus: int) -> list[int]:
    """Tensor parallel sizes worth trying on so many cards, largest first: powers of two within a node."""
    return [size for size in (8, 4, 2, 1) if size <= min(gpus, GPUS_PER_NODE)]


class _Climb:
    """The state of one climb."""

    def __init__(self, inputs: Inputs, start: Estimate, goal: Goal, keep: frozenset[str]) -> None:
        self.inputs, self.base, self.start, self.goal, self.keep = inputs, inputs, start, goal, keep
        self.estimate = start
        self.steps: list[Step] = []
        self.taken: list[tuple[str, Change]] = []

    def run(self) -> None:
        for rung in RUNGS:
            if self.goal.met(self.estimate):
                break
            pinned = next((flag for flag in rung.flags if flag in self.keep or flag in self.base.args), None)
            if pinned is not None:
                self._skip(rung, f"--{pinned.replace('_', '-')} is kept as given")
                continue
            self._try(rung)
        if self.goal.met(self.estimate):
            self._take_back()

    def _try(self, rung: Rung) -> None:
        best: tuple[Change, Inputs, Estimate] | None = None
        refusal: Reason | None = None
        for change in rung.changes(self.inputs, self.goal, self.estimate):
            inputs = change.apply(self.inputs)
            estimate = inputs.estimate()
            if estimate.status == "refused":
                refusal = refusal or estimate.reasons[0]
                continue
            if best is None or _room(estimate) > _room(best[2]):
                best = change, inputs, estimate
            if self.goal.met(estimate):
                best = change, inputs, estimate
                break
        if best is None:
            self._skip(rung, f"not legal here: {refusal.message}" if refusal else "nothing to change")
        elif _room(best[2]) <= _room(self.estimate) and not self.goal.met(best[2]):
            self._skip(rung, "it would not help")
        else:
            self._take(rung, *best)

    def _take(self, rung: Rung, change: Change, inputs: Inputs, estimate: Estimate) -> None:
        why = "meets the goal" if self.goal.met(estimate) else "helps, but is not enough"
        self._record(rung.name, "taken", change, why, self.estimate, estimate)
        self.taken.append((rung.name, change))
        self.inputs, self.estimate = inputs, estimate

    def _skip(self, rung: Rung, why: str) -> None:
        self._record(rung.name, "skipped", Change(summary=rung.name), why, self.estimate, self.estimate)

    def _record(self, rung: str, outcome: str, change: Change, why: str, before: Estimate, after: Estimate) -> None:
        self.steps.append(
            Step(
                rung=rung,
                outcome=outcome,
                summary=change.summary,
                why=why,
                quality_cost=change.quality_cost,
                before=Snapshot.of(before),
                after=Snapshot.of(after),
            )
        )

    def _take_back(self) -> None:
        """Drop, in the order taken, every change without which the goal is still met."""
        changed = True
        while changed:
            changed = False
            for index in range(len(self.taken)):
                kept = [change for i, (_, change) in enumerate(self.taken) if i != index]
                inputs = self.base
                for change in kept:
                    inputs = change.apply(inputs)
                estimate = inputs.estimate()
                if self.goal.met(estimate):
                    rung, change = self.taken.pop(index)
                    self._record(rung, "taken back", change, "the goal is met without it", self.estimate, estimate)
                    self.inputs, self.estimate = inputs, estimate
                    changed = True
                    break

    def plan(self) -> Plan:
        met = self.goal.met(self.estimate)
        return Plan(
            inputs=self.inputs,
            goal=self.goal,
            start=self.start,
            estimate=self.estimate,
            steps=tuple(self.steps),
            met=met,
            base=self.base,
            changes=tuple(change for _, change in self.taken),
            binding=None if met else _binding(self.estimate, self.goal),
        )


def _room(estimate: Estimate) -> float:
    """How far along an estimate is: room for KV cache in units of one full-length request, negative when short."""
    if not estimate.ranks:
        return float("-inf")
    room = min(rank.available_kv_bytes for rank in estimate.ranks)
    kv = estimate.kv_cache
    return room / kv.bytes_for_one_request if kv is not None and kv.bytes_for_one_request else float(room)


def _binding(estimate: Estimate, goal: Goal) -> Reason:
    if estimate.reasons:
        return estimate.reasons[0]
    kv = estimate.kv_cache
    held = f"{kv.max_concurrency:.2f}" if kv else "0"
    return Reason(
        code="concurrency",
        message=f"the KV cache holds {held} full-length requests, {goal.concurrency:g} are wanted",
        flag="--max-model-len",
    )


# --- the rungs -----------------------------------------------------------------------------------------------------


def _kv_fp8(inputs: Inputs, goal: Goal, now: Estimate) -> Iterator[Change]:
    yield Change(
        summary="KV cache in fp8: half the bytes for each token",
        args={"kv_cache_dtype": "fp8"},
        quality_cost="very small: keys and values in 8 bits, usually without calibrated scales",
    )


def _quantize(inputs: Inputs, goal: Goal, now: Estimate) -> Iterator[Change]:
    if inputs.quantization is not None:
        return
    for variant in quantized_variants(inputs.source):
        yield Change(
            summary=variant.summary,
            args=variant.args,
            model=variant.model,
            what_if_quantization=variant.what_if_quantization,
            quality_cost=variant.quality_cost,
        )


def _larger_tp(inputs: Inputs, goal: Goal, now: Estimate) -> Iterator[Change]:
    current = inputs.args.get("tensor_parallel_size", 1)
    for size in reversed(_sizes(goal.gpus)):
        if size > current:
            yield Change(
                summary=f"tensor parallel size {size}: weights and KV heads over {size} cards",
                args={"tensor_parallel_size": size},
            )
    for stages in range(2, goal.gpus // current + 1):
        yield Change(
            summary=f"pipeline parallel size {stages}: the layers over {stages} groups of cards",
            args={"pipeline_parallel_size": stages},
        )


def _smaller_batch(inputs: Inputs, goal: Goal, now: Estimate) -> Iterator[Change]:
    if now.engine is None:
        return
    seqs = min(now.engine.max_num_seqs, max(64, ceil_div(int(goal.concurrency), 64) * 64))
    for tokens in (2048, 1024, 512):
        if tokens <= now.engine.max_num_batched_tokens and seqs <= tokens:
            yield Change(
                summary=f"smaller steps: {tokens} batched tokens, {seqs} sequences",
                args={"max_num_batched_tokens": tokens, "max_num_seqs": seqs},
                quality_cost="none; prefill is slower",
            )


def _smaller_context(inputs: Inputs, goal: Goal, now: Estimate) -> Iterator[Change]:
    kv = now.kv_cache
    if kv is None or now.engine is None:
        return
    length = now.engine.max_model_len
    while length > 512:
        length = length // 2
        yield Change(
            summary=f"context of {length:,} tokens",
            args={"max_model_len": length},
            quality_cost=f"longer requests are rejected (wanted {now.engine.max_model_len:,})",
        )


def _offload(inputs: Inputs, goal: Goal, now: Estimate) -> Iterator[Change]:
    kv = now.kv_cache
    if kv is None or not now.ranks:
        return
    missing = goal.concurrency * kv.bytes_for_one_request + 2 * kv.bytes_per_block
    missing -= min(rank.available_kv_bytes for rank in now.ranks)
    offload = ceil_div(int(missing), GIB)
    if offload <= 0 or offload * GIB > inputs.gpu.known_memory():
        return  # every step reads it over PCIe: beyond a card's worth nobody would wait for the answer
    yield Change(
        summary=f"{offload} GiB of weights per GPU stay in host memory and are read over PCIe in every step",
        args={"cpu_offload_gb": offload},
        quality_cost="none; every step waits for PCIe",
    )


RUNGS: tuple[Rung, ...] = (
    Rung(name="kv-cache-dtype fp8", flags=("kv_cache_dtype",), changes=_kv_fp8),
    Rung(name="quantization", flags=("quantization",), changes=_quantize),
    Rung(name="larger tensor parallel size", flags=("tensor_parallel_size",), changes=_larger_tp),
    Rung(name="smaller batches", flags=("max_num_batched_tokens", "max_num_seqs"), changes=_smaller_batch),
    Rung(name="smaller context", flags=("max_model_len",), changes=_smaller_context),
    Rung(name="CPU offload", flags=("cpu_offload_gb",), changes=_offload),
)
