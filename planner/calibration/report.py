"""docs/accuracy-memory.md: predicted beside measured, and the errors, as a command makes them again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from planner.calibration.errors import AVAILABLE, FIGURES, Error, Judged, as_shipped, errors
from planner.calibration.failures import Failure, failures
from planner.calibration.fit import crosswise, for_fitting
from planner.calibration.launches import Launch
from planner.memory.constants import constants

OFF_BY_GIB = 0.3
"""A launch whose available KV cache memory is further off than this is listed with its reason."""

REASONS: tuple[tuple[str, str], ...] = (
    (
        "f51771234912",
        "0.79 GiB of CUDA graphs are missing from the KV cache, as if VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=1 were "
        "set (its author states that figure); by default 0.19.1 does not deduct it",
    ),
    (
        "kimik25-8xH100",
        "weights are 0.83 GiB more than computed. The flags do not say how the tower is placed: whole on each rank "
        "(`--mm-encoder-tp-mode data`, as vLLM's recipe starts this model) it would be 0.67 GiB of that; 0.16 GiB "
        "and the KV figure's rest are not explained",
    ),
    (
        "f70469032009",
        "a cold compile cache adds 0.65 to 0.95 GiB of peak activation to the same launch (cold and warm rows). LoRA: "
        "n is the number of adapters, rank 16 follows from the differences of four launches; 0.005 GiB a slot more",
    ),
    (
        "qwen36-27b-spark",
        "unified memory: what the host takes and gives back while vLLM profiles counts as its own. 50.22 GiB of "
        "weights is what the same model prints with --language-model-only, which the row does not state",
    ),
    ("f68873638920", "unified memory: how much the host takes meanwhile varies by some GiB"),
    ("dsv4flash-2xGB10", "unified memory, and the weights of a fork's checkpoint"),
    ("qwen3-30b-a3b-fp8-gb10", "unified memory; gpu_memory_utilization is not stated and cannot be the default"),
    (
        "qwen3-30b-a3b-tp4pp2-gh200",
        "gpu_memory_utilization is not stated, the version is inferred, and the stage whose figures were printed too",
    ),
    (
        "vllm-10511",
        "0.6.4 on one H100 printed 1.79 GiB of non-torch memory, others 0.1 to 0.35: other processes on the card count "
        "in that version",
    ),
    ("vllm-12126", "Llama 3.2 Vision in V0, whose tower's profile run takes 36 GiB and is not described"),
    ("myoceane-gemma4", "the version is given as 0.19 alone; a little less is taken than its tower was thought to"),
    ("vllm-44376", "two GH200 of an unstated size and share; DeepSeek-V4, whose workspaces are not described"),
    ("dsv4flash-h200nvl", "DeepSeek-V4, whose workspaces are not described; the peak predicted for it is too high"),
    ("kimik26-h200nvl", "eight data-parallel ranks with whole experts on each; only one is in the row"),
    (
        "dl22-qwen2-7b",
        "FlashInfer is installed and samples, as its log says (0.9 to 0.11.0 take it where it is): 12 bytes for each "
        "logit in place of 36",
    ),
    ("kaggle-gemma4-31b", "the vision tower's peak is predicted too high; the card is inferred too"),
    ("ada48-q3-8b-awq", "a fifth of a card whose total is not known; an L40S stands in"),
)
"""By the beginning of a row's id: why it is off. What has no mechanism yet says so."""


def accuracy_page(launches: Sequence[Launch], left_out: Mapping[str, int]) -> str:
    """The page in Markdown."""
    stated = [launch for launch in launches if launch.flags_known]
    partly = [launch for launch in launches if not launch.flags_known and not launch.inferred]
    without_own = crosswise(launches, constants())
    lines = ["# How exact the memory figures are", "", *_INTRODUCTION, ""]
    for title, chosen in (
        ("Sources that were not fitted on", as_shipped(_half(stated, fitting=False))),
        ("Every source, by constants fitted on all others", [each for each in without_own if each.alone is None]),
        ("Sources that were fitted on", as_shipped(_half(stated, fitting=True))),
        ("All that is known", as_shipped(stated)),
        ("Apart: flags or environment not all known", as_shipped(partly)),
        ("Apart: version or card inferred", as_shipped(launch for launch in launches if launch.inferred)),
    ):
        lines += [f"## {title}", "", *_error_table(errors(chosen)), ""]
    lines += [*_alone_table(without_own), ""]
    for title, of in (("version", _minor), ("card", _card), ("architecture", _architecture)):
        lines += [f"## All that is known, by {title}", "", *_grouped(stated, of), ""]
    lines += ["## What is off, and why", "", f"Available KV cache memory off by more than {OFF_BY_GIB} GiB.", ""]
    lines += [*_off_table(launches), "", "## Launches that failed", "", *_failure_lines(), ""]
    lines += ["## Launch by launch", "", *_launch_table(launches), ""]
    lines += ["## Left out", "", "| rows | because |", "|---:|---|"]
    lines += [f"| {count} | {why} |" for why, count in sorted(left_out.items(), key=lambda item: (-item[1], item[0]))]
    return "\n".join(lines) + "\n"


_INTRODUCTION = (
    "Made by `vllm-fit fit-constants --write`; do not edit. GiB. Measured launches are in planner/measured, each with",
    "its source; what was read again in a source, and why, in read-again.jsonl beside them. A source is a repository",
    "with all its files and threads, or one log, so that no campaign is on both sides. Constants are fitted on one",
    "half of the sources (by a hash of their names, so that none moves as rows are added) and judged on the other.",
    "Stronger: every source judged by constants fitted on all others, which also makes the stated range. Peak",
    "activation since 0.17 has no fitted constant. In the first four tables version, card and flags are all known.",
)


def _alone_table(judged: Iterable[Judged]) -> list[str]:
    counts = Counter(each.alone for each in judged if each.alone is not None)
    lines = ["Constants for which one source alone speaks, so that its launches are judged without them nowhere:", ""]
    lines += ["| launches | constant |", "|---:|---|"]
    return [*lines, *(f"| {count} | {name} |" for name, count in sorted(counts.items()))]


def _half(launches: Iterable[Launch], *, fitting: bool) -> list[Launch]:
    return [launch for launch in launches if for_fitting(launch) is fitting]


def _minor(launch: Launch) -> str:
    return f"{launch.version.major}.{launch.version.minor:02}"


def _card(launch: Launch) -> str:
    return launch.inputs.gpu.name


def _architecture(launch: Launch) -> str:
    return launch.inputs.model.architecture


def _error_table(found: Iterable[Error]) -> list[str]:
    lines = [
        "| figure | launches | sources | median error | 90th percentile | median share | in range | over-promised |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {error.name} | {error.launches} | {error.sources} | {error.median_gib:.3f} | {error.p90_gib:.2f} "
        f"| {error.median_share:.2%} | {_count(error.inside)} | {_count(error.over_promised)} |"
        for error in found
    ]
    return lines


def _count(number: int | None) -> str:
    return "" if number is None else str(number)


def _grouped(launches: Sequence[Launch], of: Callable[[Launch], str]) -> list[str]:
    lines = ["| | launches | weights | peak activation | KV, median | KV, worst |", "|---|---:|---:|---:|---:|---:|"]
    for name in sorted({of(launch) for launch in launches}):
        chosen = as_shipped(launch for launch in launches if of(launch) == name)
        by_name = {error.name: error for error in errors(chosen)}
        cells = [f"{by_name[figure].median_share:.2%}" if figure in by_name else "" for figure, _, _ in FIGURES[:2]]
        available = by_name.get(AVAILABLE)
        cells.append(f"{available.median_gib:.2f}" if available else "")
        worst = [abs(case.error) for case in chosen if case.error is not None]
        cells.append(f"{max(worst):.2f}" if worst else "")
        lines.append(f"| {name} | {len(chosen)} | " + " | ".join(cells) + " |")
    return lines


def reason_of(launch: Launch) -> str | None:
    """Why a launch is far off, where that is known; None where it is not."""
    return next((reason for start, reason in REASONS if launch.id.startswith(start)), None)


def off(launches: Iterable[Launch]) -> list[tuple[Launch, float]]:
    """Launches whose available KV cache memory is off by more than OFF_BY_GIB, worst first."""
    pairs = [(case.launch, case.error) for case in as_shipped(launches) if case.error is not None]
    return sorted((pair for pair in pairs if abs(pair[1]) > OFF_BY_GIB), key=lambda pair: (-abs(pair[1]), pair[0].id))


def _off_table(launches: Iterable[Launch]) -> list[str]:
    lines = ["| launch | error | known | why |", "|---|---:|---|---|"]
    for launch, error in off(launches):
        known = "all" if launch.flags_known else ", ".join(f"{what} inferred" for what in launch.inferred) or "not all"
        lines.append(f"| {launch.id} | {error:+.2f} | {known} | {reason_of(launch) or 'Not explained'} |")
    return lines


def _failure_lines() -> list[str]:
    judged = [failure for failure in failures() if failure.judged]
    asked = [failure for failure in failures() if failure.estimate is not None and failure.unknown]
    lines = [
        f"Of {len(failures())} failed launches {len(judged)} can be judged, all flags that decide being known: "
        f"{sum(failure.agrees for failure in judged)} are predicted to fail in the same way. Of {len(asked)} more, "
        f"where something was inferred, {sum(failure.agrees for failure in asked)}.",
        "",
        "| launch | failed with | predicted | |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {failure.row['id']} | {failure.kind} | {failure.predicted} | {_judgement(failure)} |"
        for failure in sorted(failures(), key=lambda failure: (not failure.judged, failure.estimate is None))
    ]
    return lines


def _judgement(failure: Failure) -> str:
    if failure.estimate is None:
        return f"not asked: {'; '.join(failure.unknown)}"
    said = "agrees" if failure.agrees else "differs"
    return f"{said} ({'; '.join(failure.unknown)})" if failure.unknown else said


def _launch_table(launches: Iterable[Launch]) -> list[str]:
    lines = [
        "| launch | model | vLLM | card | TP | weights | predicted | activation | predicted | KV | predicted |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for launch in launches:
        version = f"{launch.version}{' (inferred)' if 'version' in launch.inferred else ''}"
        card = f"{launch.inputs.gpu.name}{' (stands in)' if 'card' in launch.inferred else ''}"
        cells = [launch.id, launch.inputs.model.name, version, card, str(launch.row.get("tp") or 1)]
        case = Judged(launch=launch, estimate=launch.estimate)
        for _, key, ours in FIGURES:
            measured = launch.measured(key)
            predicted = ours(case) if measured is not None else None
            cells += ["" if measured is None else f"{measured:.2f}", "" if predicted is None else f"{predicted:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
