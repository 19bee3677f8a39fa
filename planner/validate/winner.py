"""The best of several validated plans by what was measured, and how well the predictions ranked them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planner.validate.record import Record, best_load


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What is best: a figure of a record, predicted and measured; None where a record lacks it."""

    words: str
    unit: str
    more_is_better: bool
    measured: Callable[[Mapping[str, Any]], float | None]
    predicted: Callable[[Mapping[str, Any]], float | None]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The records that have the figure, best first by measurement."""

    aim: Aim
    best: Record
    rows: tuple[tuple[str, float | None, float], ...]
    """(label, predicted, measured)."""
    over_limit: tuple[str, ...]
    """Labels of those that were measured to miss their goal's TTFT or TPOT: they do not win."""
    kendall: float | None
    """Kendall's tau-b of predicted and measured; None with fewer than two predictions."""
    predicted_best: bool | None
    """Whether the prediction, too, put the winner first."""

    def to_dict(self) -> dict[str, Any]:
        """As a report or `--format json` states it."""
        return {
            "aim": self.aim.words,
            "winner": self.best["label"],
            "winner_request": self.best["request"],
            "ranking": [
                {"label": label, "predicted": predicted, "measured": measured}
                for label, predicted, measured in self.rows
            ],
            "over_limit": list(self.over_limit),
            "kendall_tau": self.kendall,
            "predicted_best": self.predicted_best,
        }


def _load_figure(*path: str) -> Callable[[Mapping[str, Any]], float | None]:
    def figure(record: Mapping[str, Any]) -> float | None:
        value: Any = best_load(record)
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return None if value is None else float(value)

    return figure


def _speed_figure(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    """Of the load that was measured to be the best, so that like is compared with like."""

    def figure(record: Mapping[str, Any]) -> float | None:
        best = best_load(record)
        for speed in record["predicted_speed"]:
            if best is not None and speed["workload"]["concurrency"] == best["load"]["concurrency"]:
                return float(speed[name])
        return None

    return figure


def _per_gpu(figure: Callable[[Mapping[str, Any]], float | None]) -> Callable[[Mapping[str, Any]], float | None]:
    def share(record: Mapping[str, Any]) -> float | None:
        value, engine = figure(record), record["estimate"].get("engine") or {}
        sizes = (engine.get(f"{kind}_parallel_size") or 1 for kind in ("tensor", "pipeline", "data"))
        gpus = 1
        for size in sizes:
            gpus *= size
        return None if value is None else value / gpus

    return share


_OUTPUT = _load_figure("output_tokens_per_s")
_PREDICTED_OUTPUT = _speed_figure("output_tokens_per_s")

AIMS: Mapping[str, Aim] = {
    "output-tokens-per-s": Aim(
        words="output tokens/s", unit="tokens/s", more_is_better=True, measured=_OUTPUT, predicted=_PREDICTED_OUTPUT
    ),
    "output-tokens-per-s-per-gpu": Aim(
        words="output tokens/s per GPU",
        unit="tokens/s",
        more_is_better=True,
        measured=_per_gpu(_OUTPUT),
        predicted=_per_gpu(_PREDICTED_OUTPUT),
    ),
    "ttft": Aim(
        words="mean TTFT",
        unit="ms",
        more_is_better=False,
        measured=_load_figure("ttft_ms", "mean"),
        predicted=_speed_figure("ttft_ms"),
    ),
    "tpot": Aim(
        words="mean TPOT",
        unit="ms",
        more_is_better=False,
        measured=_load_figure("tpot_ms", "mean"),
        predicted=_speed_figure("tpot_ms"),
    ),
    "kv-cache-tokens": Aim(
        words="KV cache tokens",
        unit="tokens",
        more_is_better=True,
        measured=lambda record: ((record["measurement"] or {}).get("kv_cache") or {}).get("tokens"),
        predicted=lambda record: (record["estimate"].get("kv_cache") or {}).get("tokens"),
    ),
}
"""By the name that --best takes. Of a record with several loads, the one with most output tokens a second counts."""


def rank(records: Sequence[Record], aim: Aim) -> Ranking | None:
    """None where no record has the figure within its goal's limits."""
    told = [(record, aim.predicted(record), value) for record in records if (value := aim.measured(record)) is not None]
    told = [row for row in told if row[0]["status"] == "measured"]
    told.sort(key=lambda row: row[2], reverse=aim.more_is_better)
    over = [record["label"] for record, _, _ in told if _over_limit(record)]
    within = [row for row in told if row[0]["label"] not in over]
    if not within:
        return None
    pairs = [(predicted, measured) for _, predicted, measured in told if predicted is not None]
    best = within[0][0]
    return Ranking(
        aim=aim,
        best=best,
        rows=tuple((record["label"], predicted, measured) for record, predicted, measured in told),
        over_limit=tuple(over),
        kendall=_kendall(pairs),
        predicted_best=_predicted_best(within, aim),
    )


def _over_limit(record: Mapping[str, Any]) -> bool:
    goal = record["goal"] or {}
    limits = {name: goal.get(f"{name}_ms") for name in ("ttft", "tpot")}
    return any(
        limit is not None and (value := AIMS[name].measured(record)) is not None and value > limit
        for name, limit in limits.items()
    )


def _kendall(pairs: Sequence[tuple[float, float]]) -> float | None:
    from planner.calibration.serving import kendall

    return round(kendall(pairs), 3) if len(pairs) > 1 else None


def _predicted_best(rows: Sequence[tuple[Record, float | None, float]], aim: Aim) -> bool | None:
    known = [(predicted, number) for number, (_, predicted, _) in enumerate(rows) if predicted is not None]
    if len(known) < 2:
        return None
    first = max(known) if aim.more_is_better else min(known)
    return first[1] == 0
