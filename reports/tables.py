"""Tables that not every plan has: speed, measured results, alternatives, suggestions. One entry each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.memory import text


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under a title, each cell printable on one line."""

    key: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def tables_of(plan: Mapping[str, Any]) -> tuple[Table, ...]:
    """Those with a row, in the order in which a report shows them."""
    found = (make(plan) for make in _TABLES)
    return tuple(table for table in found if table is not None and table.rows)


def difference_words(difference: float) -> str:
    """Measured less predicted, up to two decimals."""
    return "equal" if difference == 0 else f"{difference:+,.2f}".removesuffix(".00")


_SPEED = (
    ("output_tokens_per_s", "Output tokens/s", "at least"),
    ("total_tokens_per_s", "Total tokens/s", ""),
    ("ttft_ms", "TTFT, mean, ms", "at most"),
    ("ttft_p90_ms", "TTFT, p90, ms", ""),
    ("tpot_ms", "Time per output token, mean, ms", "at most"),
    ("tpot_p90_ms", "Time per output token, p90, ms", ""),
    ("itl_p50_ms", "Inter-token latency, p50, ms", ""),
)
"""Key, name, which way a limit of the goal binds."""


def _speed(plan: Mapping[str, Any]) -> Table | None:
    speed, goal = plan.get("speed"), plan["goal"]
    if not speed:
        return None
    ranges, load = speed.get("range") or {}, speed["workload"]
    rows = []
    for key, name, way in _SPEED:
        if speed.get(key) is not None:
            low_high = ranges.get(key)
            expected = f"{_number(low_high[0])} to {_number(low_high[1])}" if low_high else ""
            limit = f"{way} {_number(goal[key])}" if way and goal.get(key) is not None else ""
            rows.append((name, _number(speed[key]), expected, limit))
    note = (
        f"{text(speed['basis'])}, for {int(load['concurrency']):,} requests at once of {int(load['input_len']):,} + "
        f"{int(load['output_len']):,} tokens on one engine. {text(speed['bound_by'])}."
    )
    head = ("Of one engine", "Predicted", "Expected range", "Limit")
    return Table(key="speed", title="Predicted speed", head=head, rows=tuple(rows), note=note)


def _measured(plan: Mapping[str, Any]) -> Table | None:
    record = plan.get("validation")
    if not record:
        return None
    rows = tuple(
        (
            f"{text(row['name'])} ({text(row['unit'])})",
            _number(row["predicted"]),
            _number(row["measured"]),
            difference_words(row["difference"]),
            "exact" if row["exact"] else "fitted or assumed",
        )
        for row in record["comparisons"]
    )
    met = "met" if record["agrees"] is True else "not all met"
    note = (
        f"Launched {text(record['started'])} with vLLM {text(record['versions']['vllm'])} on {text(record['device'])}; "
        f"the predictions that claim to be exact were {met}."
    )
    head = ("Figure", "Predicted", "Measured", "Difference", "Claims to be")
    return Table(key="measured", title="Measured on a real engine", head=head, rows=rows, note=note)


def _alternatives(plan: Mapping[str, Any]) -> Table | None:
    rows = tuple(
        (
            _number(option["gpus"]),
            f"{int(option['engines'])} x TP {int(option['tensor_parallel_size'])}",
            text(option["summary"]),
            text(option["quality_cost"]),
            _number(option["concurrency"]),
            _rate(option),
            "yes" if option["meets_goal"] is True else "no",
        )
        for option in plan.get("alternatives") or ()
    )
    head = (
        "Cards",
        "Engines x TP",
        "Change",
        "Quality cost",
        "Requests at once",
        "Output tokens/s",
        "Reaches the goal",
    )
    note = "None of these is beaten in cards, quality cost, requests at once, output tokens/s and reaching the goal."
    return Table(key="alternatives", title="Alternatives", head=head, rows=rows, note=note)


def _splits(plan: Mapping[str, Any]) -> Table | None:
    rows = tuple(
        (
            f"{int(way['engines'])} x TP {int(way['tensor_parallel_size'])}, DP {int(way['data_parallel_size'])}",
            "yes" if way["met"] is True else "no",
            _number(way["concurrency"]),
            _number(way["output_tokens_per_s"]),
        )
        for way in plan.get("splits") or ()
    )
    head = ("Engines", "Reaches the goal", "Requests at once", "Output tokens/s")
    return Table(key="splits", title="Other ways to use the cards", head=head, rows=rows)


def _suggestions(plan: Mapping[str, Any]) -> Table | None:
    ideas: Sequence[Mapping[str, Any]] = plan.get("suggestions") or ()
    rows = tuple((text(idea["flag"]), text(idea["why"])) for idea in ideas)
    return Table(key="suggestions", title="Flags to consider", head=("Flag", "Why"), rows=rows)


def _rate(option: Mapping[str, Any]) -> str:
    speed = option.get("speed")
    return _number(speed["output_tokens_per_s"] * int(option["engines"])) if speed else ""


def _number(value: Any) -> str:
    """Up to two decimals; empty for what is not known."""
    if value is None:
        return ""
    return f"{float(value):,.2f}".removesuffix(".00")


_TABLES: Iterable[Callable[[Mapping[str, Any]], Table | None]] = (
    _speed,
    _measured,
    _suggestions,
    _alternatives,
    _splits,
)
