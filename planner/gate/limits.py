"""What a policy makes of an estimate: one function for each rule, none of them about whether vLLM starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from planner.errors import InputError, Reason
from planner.gate.gpus import is_allowed
from planner.gate.policy import Rules, as_range
from planner.memory.budget import Estimate
from planner.planning.cards import PARALLEL_SIZES
from planner.planning.goal import Goal
from planner.request import Inputs
from planner.units import GIB, gib


@dataclass(frozen=True, kw_only=True)
class Breach:
    """One rule that a launch breaks."""

    severity: Literal["fail", "warn"]
    reason: Reason


def breaches(rules: Rules, inputs: Inputs, estimate: Estimate) -> list[Breach]:
    """Every rule of the policy that a launch breaks; those about room only where it starts."""
    return [breach for check in CHECKS for breach in check(rules, inputs, estimate)]


def goal_of(rules: Rules, gpus: int) -> Goal:
    """What the ladder must reach for a launch to satisfy the policy, on that many cards."""
    return Goal(
        gpus=gpus,
        concurrency=rules.min_concurrency or 1,
        input_len=rules.min_context,
        margin_bytes=round((rules.min_headroom_gib or 0) * GIB),
        ttft_ms=rules.ttft_ms,
        tpot_ms=rules.tpot_ms,
    )


def too_few_gpus(args: Mapping[str, Any], gpus: int | None, *, whole_cluster: bool = False) -> Breach | None:
    """A launch that has fewer cards than ranks: vLLM waits for the others, or fails to start.

    Of a Ray cluster a file may describe one machine only, so there it is a warning, unless these are all cards of it.
    """
    if gpus is None:
        return None
    sizes = {name: args.get(name) or 1 for name in PARALLEL_SIZES}
    if args.get("data_parallel_size_local"):  # the other engines run elsewhere
        sizes["data_parallel_size"] = args["data_parallel_size_local"]
    needed = math.prod(sizes.values())
    if not isinstance(needed, int) or needed <= gpus * (args.get("nnodes") or 1):
        return None
    ray = args.get("distributed_executor_backend") == "ray" or bool(args.get("worker_use_ray"))
    elsewhere = ray and not whole_cluster
    product = " x ".join(f"{name} {size}" for name, size in sizes.items() if size != 1)
    cards = f"{gpus} GPU{'s are' if gpus != 1 else ' is'} given" if gpus else "no GPU is given"
    rest = "; the others must come from other machines of the Ray cluster" if elsewhere else ""
    return Breach(
        severity="warn" if elsewhere else "fail",
        reason=Reason(
            code="too_few_gpus",
            message=f"{cards}, {product or 'the launch'} needs {needed}{rest}",
            flag="--tensor-parallel-size",
        ),
    )


_Check = Callable[[Rules, Inputs, Estimate], Iterator[Breach]]


def _fail(code: str, message: str, flag: str | None = None) -> Breach:
    return Breach(severity="fail", reason=Reason(code=code, message=message, flag=flag))


def _gpu(rules: Rules, inputs: Inputs, estimate: Estimate) -> Iterator[Breach]:
    if rules.allowed_gpus is not None and not is_allowed(inputs.gpu, rules.allowed_gpus):
        yield _fail("policy_gpu", f"{inputs.gpu.name} is not among the cards allowed: {', '.join(rules.allowed_gpus)}")


def _quantization(rules: Rules, inputs: Inputs, estimate: Estimate) -> Iterator[Breach]:
    allowed, quant = rules.allowed_quantizations, inputs.quantization
    if allowed is None:
        return
    names = {"none"}
    if quant is not None:
        names = {quant.name, quant.name.removeprefix("auto_")}
        names |= {str(name) for name in (quant.parameters.get("quant_method"), inputs.args.get("quantization")) if name}
    if not names & set(allowed):
        found = "an unquantized checkpoint" if quant is None else f"quantization {quant.name}"
        yield _fail(
            "policy_quantization", f"{found} is not among those allowed: {', '.join(allowed)}", "--quantization"
        )


def _version(rules: Rules, inputs: Inputs, estimate: Estimate) -> Iterator[Breach]:
    if rules.allowed_versions is None:
        return
    from packaging.specifiers import SpecifierSet

    version = str(inputs.version)
    if not any(SpecifierSet(as_range(text)).contains(version) for text in rules.allowed_versions):
        yield _fail(
            "policy_version", f"vLLM {version} is not among the versions allowed: {', '.join(rules.allowed_versions)}"
        )


def _context(rules: Rules, inputs: Inputs, estimate: Estimate) -> Iterator[Breach]:
    engine, least = estimate.engine, rules.min_context
    if least is None or engine is None or estimate.model.is_pooling:
        return
    plan = estimate.kv_cache
    length = plan.max_model_len if plan is not None else engine.max_model_len
    if length < least:
        yield _fail("policy_context", f"max_model_len is {length:,}, the policy asks for {least:,}", "--max-model-len")


def _room(rules: Rules, inputs: Inputs, estimate: Estimate) -> Iterator[Breach]:
    """Requests at once, and KV cache left over."""
    plan, engine = estimate.kv_cache, estimate.engine
    if plan is None or engine is None or not estimate.fits or not math.isfinite(plan.max_concurrency):
        return
    goal, engines = goal_of(rules, 1), engine.data_parallel_size
    length = min(rules.min_context or plan.max_model_len, plan.max_model_len)
    held, allowed = plan.concurrency_at(length, 0) * engines, engine.max_num_seqs * engines
    wanted = rules.min_concurrency
    if wanted is not None and min(held, allowed) < wanted:
        by, flag = ("the KV cache holds", "--max-model-len")
        if allowed < wanted:
            by, flag = ("max_num_seqs allows", "--max-num-seqs")
        message = f"{by} {min(held, allowed):.2f} requests of {length:,} tokens at once, the policy asks for {wanted:g}"
        yield _fail("policy_concurrency", message, flag)
    elif rules.min_headroom_gib and plan.concurrency_at(length, goal.margin_bytes) * engines < goal.concurrency:
        available = min(rank.available_kv_bytes for rank in estimate.ranks)
        requests = f"{goal.concurrency:g} request{'s' if goal.concurrency != 1 else ''} of {length:,} tokens"
        least = f"{rules.min_headroom_gib:g} GiB"
        message = f"{gib(available)} GiB of KV cache per GPU leave less than {least} beside {requests}"
        yield _fail("policy_headroom", message, "--max-model-len")


def _speed(rules: Rules, inputs: Inputs, estimate: Estimate) -> Iterator[Breach]:
    if rules.ttft_ms is None and rules.tpot_ms is None:
        return
    try:
        speed = inputs.throughput(estimate) if estimate.fits else None
    except InputError as error:  # a card without a known bandwidth
        yield Breach(severity="warn", reason=Reason(code="policy_speed_unknown", message=str(error)))
        return
    if speed is None:
        return
    load = f"{speed.point.concurrency:g} requests at once"
    for name, limit, value in (
        ("TTFT", rules.ttft_ms, speed.point.ttft_ms),
        ("ITL", rules.tpot_ms, speed.point.tpot_ms),
    ):
        if limit is not None and value > limit:
            yield _fail(
                f"policy_{name.lower()}",
                f"a mean {name} of {value:,.0f} ms is predicted at {load}, the limit is {limit:g} ms",
            )


def _close(rules: Rules, inputs: Inputs, estimate: Estimate) -> Iterator[Breach]:
    if rules.too_close_to_call != "pass" and estimate.fits and estimate.verdict.startswith("too close"):
        yield Breach(
            severity=rules.too_close_to_call,
            reason=Reason(code="too_close_to_call", message=estimate.verdict, flag="--gpu-memory-utilization"),
        )


CHECKS: tuple[_Check, ...] = (_gpu, _quantization, _version, _context, _room, _speed, _close)
