"""The rungs of the ladder, in their default order. A rung is one entry in RUNGS."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from planner.errors import InputError
from planner.memory.budget import Estimate
from planner.planning.cards import over_nodes, tensor_parallel_sizes
from planner.planning.change import Change
from planner.planning.goal import Goal
from planner.planning.variants import quantized_variants
from planner.request import Inputs
from planner.text import did_you_mean, nearest, printable
from planner.units import GIB, ceil_div

KV_FP8 = Change(
    summary="KV cache in fp8: half the bytes for each token",
    args={"kv_cache_dtype": "fp8"},
    quality_cost="very small: keys and values in 8 bits, usually without calibrated scales",
    cost=1,
)
Enough = Callable[[Change], bool]
"""Whether the goal is met with a change made, for rungs that search for the least of it that is enough."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One entry of the ladder: `changes` yields what it can try, best first, from where the climb is."""

    key: str
    """What --forbid and --order call it."""
    name: str
    flags: tuple[str, ...]
    """The arguments it turns: pinned with --keep, or by giving them."""
    changes: Callable[[Inputs, Goal, Estimate, Enough], Iterator[Change]]
    nothing: str = "nothing to change"
    """Why it is skipped where it has no change to try; empty: it is not even mentioned."""


def ordered(order: tuple[str, ...] = (), forbid: tuple[str, ...] = ()) -> tuple[Rung, ...]:
    """The rungs to climb: those named in `order` first, the others after them as usual, without the forbidden.

    Those named come once more at the end: what was not enough before the others may be so after them.
    """
    first = [rung_of(name) for name in order]
    banned = {rung_of(name).key for name in forbid}
    chosen = dict.fromkeys((*first, *RUNGS))
    return tuple(rung for rung in (*chosen, *first) if rung.key not in banned)


def rung_of(name: str) -> Rung:
    """InputError where there is none of this key."""
    key = name.removeprefix("--").replace("_", "-")
    for rung in RUNGS:
        if key in (rung.key, rung.name):
            return rung
    keys = [rung.key for rung in RUNGS]
    hint = did_you_mean(nearest(key, keys)) or f"; the rungs are {', '.join(keys)}"
    raise InputError(f"unknown rung {printable(name)}{hint}")


def _more_sequences(inputs: Inputs, goal: Goal, now: Estimate, enough: Enough) -> Iterator[Change]:
    if now.engine is None or now.kv_cache is None:
        return
    wanted = math.ceil(goal.per_engine / now.engine.data_parallel_size)
    if wanted <= now.engine.max_num_seqs:
        return
    args = {"max_num_seqs": wanted}
    if wanted > now.engine.max_num_batched_tokens:
        args["max_num_batched_tokens"] = ceil_div(wanted, 1024) * 1024
    yield Change(summary=f"{wanted:,} sequences at once: as many requests as are wanted", args=args)


def _kv_fp8(inputs: Inputs, goal: Goal, now: Estimate, enough: Enough) -> Iterator[Change]:
    yield KV_FP8


def _quantize(inputs: Inputs, goal: Goal, now: Estimate, enough: Enough) -> Iterator[Change]:
    return quantized_variants(inputs, refused=now.status == "refused")


def _larger_tp(inputs: Inputs, goal: Goal, now: Estimate, enough: Enough) -> Iterator[Change]:
    current = inputs.args.get("tensor_parallel_size", 1)
    others = inputs.args.get("pipeline_parallel_size", 1) * inputs.args.get("data_parallel_size", 1)
    for size in tensor_parallel_sizes(goal.gpus_per_engine // others, goal.gpus_per_node):
        if size > current:
            nodes = ceil_div(size * others, goal.gpus_per_node)
            yield Change(
                summary=f"tensor parallel size {size}: weights and KV heads over {size} cards",
                args={"tensor_parallel_size": size, **over_nodes(nodes, inputs)},
            )


def _pipeline(inputs: Inputs, goal: Goal, now: Estimate, enough: Enough) -> Iterator[Change]:
    """More stages; then, where that is enough, fewer ranks in each: ranks of a stage can hold the same KV cache."""
    current = inputs.args.get("pipeline_parallel_size", 1)
    tensor = inputs.args.get("tensor_parallel_size", 1)
    ranks = inputs.args.get("data_parallel_size", 1)
    for stages in range(current + 1, goal.gpus_per_engine // (tensor * ranks) + 1):
        yield _stages(stages, tensor, {}, inputs, goal)
    cards = goal.gpus_per_engine // ranks
    for size in tensor_parallel_sizes(cards, goal.gpus_per_node):
        if size < tensor and cards // size > current:
            change = _stages(cards // size, size, {"tensor_parallel_size": size}, inputs, goal)
            if enough(change):
                yield change


def _stages(stages: int, tensor: int, args: dict[str, int], inputs: Inputs, goal: Goal) -> Change:
    each = tensor * inputs.args.get("data_parallel_size", 1)
    nodes = ceil_div(stages * each, goal.gpus_per_node)
    over = f"{nodes} nodes" if nodes > 1 else f"{stages} groups of {each} cards" if each > 1 else f"{stages} cards"
    return Change(
        summary=f"pipeline parallel size {stages}: the layers over {over}",
        args={"pipeline_parallel_size": stages, **args, **over_nodes(nodes, inputs)},
        quality_cost="none; a single request is no faster than on one group",
    )


def _smaller_batch(inputs: Inputs, goal: Goal, now: Estimate, enough: Enough) -> Iterator[Change]:
    """Steps of fewer tokens; then fewer sequences too, which the sampler's buffers are made for."""
    if now.engine is None:
        return
    each = ceil_div(math.ceil(goal.per_engine), now.engine.data_parallel_size)
    fewest = min(now.engine.max_num_seqs, max(64, ceil_div(each, 64) * 64))
    for tokens in (4096, 2048, 1024, 512):
        if tokens > now.engine.max_num_batched_tokens:
            continue
        for seqs in dict.fromkeys((now.engine.max_num_seqs, fewest)):
            args = {"max_num_batched_tokens": tokens, "max_num_seqs": seqs}
            given = (now.engine.max_num_batched_tokens, now.engine.max_num_seqs)
            changed = {name: value for (name, value), old in zip(args.items(), given, strict=True) if value != old}
            if seqs <= tokens and changed:
                yield Change(
                    summary=f"smaller steps: {tokens:,} batched tokens, {seqs:,} sequences",
                    args=changed,
                    quality_cost="none; prefill is slower",
                )


def _smaller_context(inputs: Inputs, goal: Goal, now: Estimate, enough: Enough) -> Iterator[Change]:
    """The longest that meets the goal."""
    if now.kv_cache is None or now.engine is None:
        return
    wanted = now.engine.max_model_len

    def at(length: int) -> Change:
        return Change(
            summary=f"context of {length:,} tokens, the longest that fits",
            args={"max_model_len": length},
            quality_cost=f"longer requests are rejected (wanted {wanted:,})",
            cost=3,
        )

    low, high = goal.shortest_context, wanted - 1
    if low > high or not enough(at(low)):
        return
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if enough(at(middle)) else (low, middle - 1)
    yield at(low)


def _offload(inputs: Inputs, goal: Goal, now: Estimate, enough: Enough) -> Iterator[Change]:
    """The fewest GiB that meet the goal, up to all weights or a card's worth: beyond, nobody would wait."""
    if not now.stages or now.engine is None:
        return

    def of(size: int) -> Change:
        return Change(
            summary=f"{size} GiB of weights per GPU stay in host memory and are read over PCIe in every step",
            args={"cpu_offload_gb": size},
            quality_cost="none; every step waits for PCIe",
            cost=4,
        )

    low = int(now.engine.cpu_offload_gb)
    high = min(min(stage.block_bytes for stage in now.stages), inputs.gpu.known_memory()) // GIB
    if low >= high or not enough(of(high)):
        return
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(of(middle)) else (middle, high)
    yield of(high)


RUNGS: tuple[Rung, ...] = (
    Rung(
        key="sequences",
        name="more sequences at once",
        flags=("max_num_seqs",),
        changes=_more_sequences,
        nothing="",
    ),
    Rung(key="kv-cache-dtype", name="kv-cache-dtype fp8", flags=("kv_cache_dtype",), changes=_kv_fp8),
    Rung(
        key="quantization",
        name="quantization",
        flags=("quantization",),
        changes=_quantize,
        nothing="the checkpoint is quantized already, and no smaller form of it is known",
    ),
    Rung(
        key="tensor-parallel",
        name="larger tensor parallel size",
        flags=("tensor_parallel_size",),
        changes=_larger_tp,
        nothing="it is the largest that these cards allow",
    ),
    Rung(
        key="pipeline-parallel",
        name="pipeline parallel size",
        flags=("pipeline_parallel_size",),
        changes=_pipeline,
        nothing="all cards are in use",
    ),
    Rung(
        key="batches",
        name="smaller batches",
        flags=("max_num_batched_tokens", "max_num_seqs"),
        changes=_smaller_batch,
        nothing="they are small already",
    ),
    Rung(
        key="context",
        name="smaller context",
        flags=("max_model_len",),
        changes=_smaller_context,
        nothing="no context that is long enough would fit",
    ),
    Rung(
        key="cpu-offload",
        name="CPU offload",
        flags=("cpu_offload_gb",),
        changes=_offload,
        nothing="not even with all that a card could hold in host memory",
    ),
)
