"""Plans beside each other as text for a terminal: ways to use the cards, suggestions, alternatives, recommendations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.planning.cards import cards_of
from planner.planning.goal import Goal, Snapshot
from planner.planning.plan import Plan, Step
from planner.planning.replicas import split_words
from planner.planning.speed_goal import limits
from planner.planning.suggestions import WORTH_NAMING, Suggestion
from planner.text import printable
from planner.text_report import estimate_text
from planner.units import gib

if TYPE_CHECKING:
    from planner.planning.alternatives import Option
    from planner.planning.recommend import Recommendation

COSTS = ("none", "hardly measurable", "small", "noticeable", "hardly bearable")


def plan_text(plan: Plan) -> str:
    """The verdict, the rungs with before and after, the memory of the plan, and the launch command."""
    goal = f"{goal_words(plan.goal)} at once{limits_words(plan.goal)}"
    cards = f"{plan.goal.gpus} x {plan.inputs.gpu.name}" if plan.goal.gpus > 1 else plan.inputs.gpu.name
    lines = [
        f"{printable(plan.inputs.model.name)} on {cards}, goal: {goal}",
        "",
        "Rungs",
    ]
    lines.append(f"  start: {_start_words(plan)} — {_snapshot(plan.start_snapshot, plan.goal)}")
    lines += [text for step in plan.steps for text in _step_lines(step, plan.goal)]
    if not plan.steps:
        lines.append("  no rung is needed")
    lines += ["", estimate_text(plan.estimate), ""]
    if plan.met:
        lines += [f"Launch{_on_which(plan)}", f"  {plan.serve_command}"]
        if plan.inputs.what_if_quantization:
            lines.append(f"  (with a {plan.inputs.what_if_quantization} checkpoint of this model in its place)")
        lines += limits_text(plan)
    else:
        reason = plan.binding.message if plan.binding else "no rung is left"
        lines.append(f"No plan: {reason}")
    return "\n".join(lines)


def _on_which(plan: Plan) -> str:
    used = cards_of(plan.inputs)
    each = f" {plan.engines} times, on {used} of the cards each" if plan.engines > 1 else ""
    left = plan.goal.gpus - used * plan.engines
    return f"{each}, {left} of the {plan.goal.gpus} cards left over" if left else each


def limits_text(plan: Plan) -> list[str]:
    """The goal's limits on speed beside what is predicted; nothing where it has none."""
    found = list(limits(plan.goal, plan.speed)) if plan.goal.wants_speed and plan.speed is not None else []
    if not found:
        return []
    near = {True: ": met, but by less than the error", False: ": met"}
    lines = [f"  {limit.predicted}{limit.error_words}, {limit.wanted}{near[limit.close]}" for limit in found]
    return ["", "Speed", *lines]


def goal_words(goal: Goal) -> str:
    """ "12 requests of 4,000 tokens"."""
    length = "full-length request" if goal.request_len is None else "request"
    size = "" if goal.request_len is None else f" of {goal.request_len:,} tokens"
    return f"{goal.concurrency:g} {length}{'s' if goal.concurrency != 1 else ''}{size}"


def limits_words(goal: Goal) -> str:
    """ ", TPOT at most 20 ms"; empty without limits."""
    latencies = {"TTFT": goal.ttft_ms, "TPOT": goal.tpot_ms}
    words = [f"{name} at most {limit:g} ms" for name, limit in latencies.items() if limit is not None]
    if goal.output_tokens_per_s:
        words.append(f"{goal.output_tokens_per_s:,g} output tokens/s")
    return "".join(f", {word}" for word in words)


def _start_words(plan: Plan) -> str:
    engine = plan.start.engine
    if engine is None:
        return "as given"
    words = [f"TP {engine.tensor_parallel_size}"]
    if engine.pipeline_parallel_size > 1:
        words.append(f"PP {engine.pipeline_parallel_size}")
    words.append(f"{engine.max_model_len:,} tokens of context")
    words.append(f"KV cache {engine.kv_cache_dtype}")
    return ", ".join(words)


def _step_lines(step: Step, goal: Goal) -> list[str]:
    if step.outcome == "skipped":
        return [f"  – {step.rung}: skipped, {step.why}"]
    mark = {"taken": "✓", "softened": "≈"}.get(step.outcome, "↩")
    return [
        f"  {mark} {step.rung}: {step.outcome}, {step.why}",
        f"      {step.summary}",
        f"      before {_snapshot(step.before, goal)}; after {_snapshot(step.after, goal)}",
        f"      quality cost: {step.quality_cost}",
    ]


def _snapshot(snapshot: Snapshot, goal: Goal) -> str:
    room = snapshot.available_kv_bytes
    if snapshot.status == "refused" or room is None:
        return "refused by vLLM"
    if snapshot.status != "fits":
        return f"{gib(room)} GiB for KV cache: does not fit"
    if not snapshot.tokens:
        return f"{gib(room)} GiB to spare, no KV cache"
    words = f"{gib(room)} GiB for KV cache, {snapshot.tokens:,} tokens, {snapshot.max_concurrency:.2f}x"
    return f"{words}, holds {snapshot.held:,.1f} at once" if goal.request_len is not None else words


def splits_text(plan: Plan) -> list[str]:
    """Ways to use the same cards; the chosen one marked."""
    if not plan.splits:
        return []
    lines = ["", "Ways to use these cards"]
    for split in plan.splits:
        chosen = "→" if split.engines == plan.engines and split.inputs == plan.inputs else " "
        words = (
            f"holds {_count(split.concurrency)} at once, quality cost {COSTS[split.cost]}"
            if split.met
            else _why_not(split)
        )
        if split.speed is not None:
            words += f", {split.output_tokens_per_s:,.0f} output tokens/s predicted"
        lines.append(f"  {chosen} {split_words(split):32} {words}")
    return lines


def _why_not(split: Plan) -> str:
    return f"no plan: {split.binding.code}" if split.binding is not None else "no plan"


def suggestions_text(found: Sequence[Suggestion]) -> list[str]:
    """Lines for a terminal; none where there is nothing to suggest."""
    if not found:
        return []
    return ["", "To consider, at no cost in quality", *map(_suggestion, found)]


def _suggestion(one: Suggestion) -> str:
    before, after = one.before, one.after
    figures = []
    if round(before.concurrency, 1) != round(after.concurrency, 1):
        figures.append(f"{_count(before.concurrency)} → {_count(after.concurrency)} at once")
    rates = before.output_tokens_per_s, after.output_tokens_per_s
    if rates[0] and rates[1] and abs(rates[1] / rates[0] - 1) >= WORTH_NAMING:
        figures.append(f"{rates[0]:,.0f} → {rates[1]:,.0f} output tokens/s")
    waits = before.ttft_ms, after.ttft_ms
    if waits[0] and waits[1] and abs(waits[1] / waits[0] - 1) >= WORTH_NAMING:
        figures.append(f"TTFT {waits[0]:,.0f} → {waits[1]:,.0f} ms")
    return f"  {one.flag:32} {''.join(f'{figure}; ' for figure in figures)}{one.why}"


def alternatives_text(found: Sequence[Option]) -> list[str]:
    """A table for a terminal; no lines where there are none."""
    if not found:
        return []
    lines = [
        "",
        "Alternatives",
        f"  {'GPUs':>4} {'engines':>8} {'TP':>3} {'at once':>9} {'tokens/s':>9}  quality cost; how",
    ]
    for one in found:
        tensor = one.inputs.args.get("tensor_parallel_size", 1)
        lines.append(
            f"  {one.gpus:>4} {one.engines:>8} {tensor:>3} {_count(one.concurrency):>9} {_speed(one):>9}  "
            f"{COSTS[one.cost]}; {printable(one.summary)}{'' if one.meets_goal else ' (misses the goal)'}"
        )
    return lines


def recommendations_text(found: Sequence[Recommendation], goal: Goal, shown: int) -> str:
    """A table of the first `shown`."""
    wanted = f"{goal_words(goal)} at once{limits_words(goal)}"
    if not found:
        return f"no card of the catalogue serves {wanted}, sixteen of them together included"
    priced = any(one.price_per_hour is not None for one in found)
    head = ("per hour", "per M tokens", "cards", "used as", "at once", "tokens/s", "quality cost", "changes")
    rows: list[tuple[str, ...]] = [head]
    rows += [_recommendation(one) for one in found[:shown]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"For {wanted}{', by price' if priced else ', by the memory of all cards'}:", ""]
    for row in rows:
        cells = [f"{cell:{side}{width}}" for cell, side, width in zip(row, ">><<>><<", widths, strict=True)]
        lines.append("  " + "  ".join(cells if priced else cells[2:]).rstrip())
    if len(found) > shown:
        lines += ["", f"  and {len(found) - shown} more (--top {len(found)} shows all)"]
    return "\n".join(lines)


def _recommendation(one: Recommendation) -> tuple[str, ...]:
    plan = one.plan
    return (
        "" if one.price_per_hour is None else f"{one.price_per_hour:,.2f}",
        "" if one.price_per_million is None else f"{one.price_per_million:,.2f}",
        f"{one.gpus} x {one.gpu.name}",
        split_words(plan),
        _count(plan.concurrency),
        f"{plan.output_tokens_per_s:,.0f}" if plan.speed is not None else "",
        COSTS[plan.cost],
        " ".join(printable(change.label) for change in plan.changes) or "none",
    )


def _speed(one: Option) -> str:
    return "" if one.speed is None else f"{one.output_tokens_per_s:,.0f}"


def _count(held: float) -> str:
    return f"{held:,.1f}" if math.isfinite(held) else "any number"
