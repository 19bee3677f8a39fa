"""docs/accuracy-memory.md: predicted beside measured, and the errors, as a command makes them again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from planner.calibration.fit import Error, error_of, for_fitting
from planner.calibration.launches import Launch
from planner.units import GIB

Figure = Callable[[Launch], float | None]


def predicted_weights(launch: Launch) -> float | None:
    ranks = launch.estimate.ranks
    return ranks[0].loading_bytes / GIB if ranks else None


def predicted_activation(launch: Launch) -> float | None:
    """Of the first pipeline stage: the rank whose figures a log shows first."""
    overheads = launch.estimate.overheads
    return overheads[0].activation_peak / GIB if overheads else None


def predicted_available(launch: Launch) -> float | None:
    ranks = launch.estimate.ranks
    return ranks[0].available_kv_bytes / GIB if ranks else None


FIGURES: tuple[tuple[str, str, Figure], ...] = (
    ("weights", "model_loading_gib", predicted_weights),
    ("peak activation", "activation_peak_gib", predicted_activation),
    ("available KV cache memory", "available_kv_gib", predicted_available),
)
"""(name, key of the measured row, our figure)."""


def errors(launches: Iterable[Launch]) -> list[Error]:
    launches = tuple(launches)
    found = []
    for name, key, ours in FIGURES:
        error = error_of(name, launches, ours, lambda launch, key=key: launch.measured(key))  # type: ignore[misc]
        if error is not None:
            found.append(error)
    return found


def accuracy_page(launches: Sequence[Launch], left_out: Mapping[str, int]) -> str:
    """The page in Markdown."""
    lines = [
        "# How exact the memory figures are",
        "",
        "Made by `vllm-fit fit-constants`; do not edit. GiB. Measured launches are in planner/measured, each with its",
        "source. Constants are fitted on one half of the sources and judged on the other.",
        "",
    ]
    for title, chosen in (
        ("Sources that were not fitted on, version and flags known", _known(launches, fitting=False)),
        ("Sources that were fitted on, version and flags known", _known(launches, fitting=True)),
        ("Flags not all stated", [launch for launch in launches if not launch.flags_known]),
    ):
        lines += [f"## {title}", "", *_error_table(errors(chosen)), ""]
    lines += ["## Launch by launch", "", *_launch_table(launches), ""]
    lines += ["## Left out", "", "| rows | because |", "|---:|---|"]
    lines += [f"| {count} | {why} |" for why, count in sorted(left_out.items(), key=lambda item: (-item[1], item[0]))]
    return "\n".join(lines) + "\n"


def _known(launches: Iterable[Launch], *, fitting: bool) -> list[Launch]:
    return [launch for launch in launches if launch.flags_known and for_fitting(launch) is fitting]


def _error_table(found: Iterable[Error]) -> list[str]:
    lines = ["| figure | launches | median error | 90th percentile | median share |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {error.name} | {error.launches} | {error.median_gib:.3f} | {error.p90_gib:.2f} | {error.median_share:.2%} |"
        for error in found
    ]
    return lines


def _launch_table(launches: Iterable[Launch]) -> list[str]:
    lines = [
        "| launch | model | vLLM | card | TP | weights | predicted | activation | predicted | KV | predicted |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for launch in launches:
        cells = [launch.row["id"], launch.inputs.model.name, str(launch.version), launch.inputs.gpu.name]
        cells.append(str(launch.row.get("tp") or 1))
        for _, key, ours in FIGURES:
            measured = launch.measured(key)
            predicted = ours(launch) if measured is not None else None
            cells += ["" if measured is None else f"{measured:.2f}", "" if predicted is None else f"{predicted:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
