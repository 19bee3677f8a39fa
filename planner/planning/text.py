"""Plans beside each other as text for a terminal: ways to use the cards, suggestions, alternatives, recommendations."""

from __future__ import annotations

import math
from collections.abc import Sequence

from planner.planning.alternatives import Option
from planner.planning.goal import Goal
from planner.planning.ladder import Plan
from planner.planning.recommend import Recommendation
from planner.planning.replicas import split_words
from planner.planning.suggestions import Suggestion
from planner.text import printable

COSTS = ("none", "hardly measurable", "small", "noticeable", "hardly bearable")


def goal_words(goal: Goal) -> str:
    """ "12 requests of 4,000 tokens"."""
    length = "full-length request" if goal.request_len is None else "request"
    size = "" if goal.request_len is None else f" of {goal.request_len:,} tokens"
    return f"{goal.concurrency:g} {length}{'s' if goal.concurrency != 1 else ''}{size}"


def splits_text(plan: Plan) -> list[str]:
    """Ways to use the same cards; the chosen one marked."""
    if not plan.splits:
        return []
    lines = ["", "Ways to use these cards"]
    for split in plan.splits:
        chosen = "→" if split.engines == plan.engines and split.inputs == plan.inputs else " "
        held = split.goal.held(split.estimate) * split.engines if split.met else 0.0
        words = f"holds {_count(held)} at once, quality cost {COSTS[split.cost]}" if split.met else _why_not(split)
        if split.speed is not None:
            words += f", {split.output_tokens_per_s:,.0f} output tokens/s predicted"
        lines.append(f"  {chosen} {split_words(split):32} {words}")
    return lines


def _why_not(split: Plan) -> str:
    return f"no plan: {split.binding.code}" if split.binding is not None else "no plan"


def suggestions_text(found: Sequence[Suggestion]) -> list[str]:
    if not found:
        return []
    return ["", "To consider, at no cost in quality", *map(_suggestion, found)]


def _suggestion(one: Suggestion) -> str:
    return f"  {one.flag:32} {_count(one.concurrency_before)} → {_count(one.concurrency_after)} at once; {one.why}"


def alternatives_text(found: Sequence[Option]) -> list[str]:
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
            f"{COSTS[one.cost]}; {printable(one.summary)}"
        )
    return lines


def recommendations_text(found: Sequence[Recommendation], goal: Goal) -> str:
    if not found:
        return f"no card of the catalogue holds {goal_words(goal)}, eight of them together included"
    priced = any(one.price_per_hour is not None for one in found)
    lines = [f"For {goal_words(goal)} at once{', by price' if priced else ', by the memory of all cards'}:", ""]
    for one in found:
        plan = one.plan
        held = plan.goal.held(plan.estimate) * plan.engines
        price = "" if not priced else f"{one.price_per_hour:9.2f}/h " if one.price_per_hour is not None else " " * 12
        how = "; ".join(change.summary for change in plan.changes) or "as it is"
        lines.append(f"  {price}{one.gpus} x {one.gpu.name:44} {split_words(plan):22} holds {_count(held):>8}; {how}")
    return "\n".join(lines)


def _speed(one: Option) -> str:
    return "" if one.speed is None else f"{one.speed['output_tokens_per_s'] * one.engines:,.0f}"


def _count(held: float) -> str:
    return f"{held:,.1f}" if math.isfinite(held) else "any number"
