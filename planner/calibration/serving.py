"""How wrong the speed model is on measured serving, and the page that says so: docs/accuracy-serving.md.

Every source (a model on a card of serving.jsonl, a publisher of serving-more.jsonl) is judged by constants that were
fitted without it: sources are dealt into five folds, and the constants file keeps what the other four gave for each.
The constants that predictions use are fitted on all.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.calibration.serving_fit import FOLDS, Predictor, batch_of, fit_constants, fold_of, prior
from planner.calibration.serving_rows import FILES, Case
from planner.planning.throughput.predict import predict
from planner.planning.throughput.rates import CONSTANTS, constants_file, generation
from planner.planning.throughput.spread import ALL, class_of
from planner.request import prepare
from planner.workload import Workload

REACHED = {"tpot": 0.085, "ttft": 0.125, "more": 0.145}
"""What the constants reach, with a margin for the next row: tests hold them to this."""
TARGETS = {
    "tpot": ("TPOT, serving.jsonl", 0.12),
    "ttft": ("TTFT, serving.jsonl", 0.22),
    "more": ("output tokens/s or TPOT, serving-more.jsonl, median over sources", 0.20),
}
KENDALL_TARGET = 0.9


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One figure of one case, predicted by constants that were fitted without its source."""

    case: Case
    figure: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative: 0.1 where 10 % too much is predicted."""
        return self.predicted / self.measured - 1.0


# --- fitting ----------------------------------------------------------------------------------------------------------


def fit_file(cases: Sequence[Case], on_progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The constants file anew."""
    folds = fold_of(cases)
    fitted = []
    for fold in range(FOLDS):
        on_progress(f"fitting without part {fold + 1} of {FOLDS}")
        fitted.append(_without_defaults(fit_constants([case for case in cases if folds[case.source] != fold])))
    on_progress("fitting on all")
    values = fit_constants(cases)
    judged = judge(cases, fitted)
    return {
        "about": "Constants of planner/planning/throughput; made by vllm-fit fit-constants --serving --write.",
        "values": values,
        "folds": fitted,
        "errors": {name: round(error, 3) for name, error in headline(judged).items()},
        "spread": spreads(judged),
        "fitted_on": {
            source: sum(1 for case in cases if case.source == source)
            for source in sorted({case.source for case in cases})
        },
    }


def _without_defaults(values: Mapping[str, float]) -> dict[str, float]:
    """A constant that no measurement moved is left to its prior."""
    return {name: value for name, value in values.items() if abs(value / prior(name)[0] - 1.0) > 1e-4}


def judge(cases: Sequence[Case], folds: Sequence[Mapping[str, float]]) -> list[Judged]:
    """Every measured figure beside the prediction of constants that have not seen its source."""
    where = fold_of(cases)
    found: list[Judged] = []
    for fold, values in enumerate(folds):
        chosen = [case for case in cases if where[case.source] == fold]
        if not chosen:
            continue
        batch = batch_of(chosen)
        predictor = Predictor(batch)
        vector = np.array([values.get(name, prior(name)[0]) for name in batch.names])
        predictor.settle(vector)
        figures = predictor.figures(vector)
        found += [
            Judged(case=case, figure=figure, predicted=float(figures[figure][i]), measured=measured)
            for i, case in enumerate(chosen)
            for figure, measured in _all_figures(case).items()
        ]
    return found


def _all_figures(case: Case) -> dict[str, float]:
    """What was measured; from TTFT and TPOT of a closed loop follow output tokens/s too."""
    measured = dict(case.measured)
    if case.file == FILES[0]:
        output = float(np.max(case.load.output_len))
        seconds = measured["ttft"] + (output - 1.0) * measured["tpot"]
        measured["output"] = float(np.max(case.load.concurrency)) * output / seconds
    return measured


# --- errors -----------------------------------------------------------------------------------------------------------


def median_error(judged: Iterable[Judged]) -> float:
    """Median of the absolute relative errors; nan without rows."""
    errors = [abs(row.error) for row in judged]
    return median(errors) if errors else float("nan")


def of(judged: Iterable[Judged], *, file: str | None = None, figure: str | None = None) -> list[Judged]:
    """Those of a file, of a figure; `more` rows have one figure each, whichever it is."""
    return [
        row for row in judged if (file is None or row.case.file == file) and (figure is None or row.figure == figure)
    ]


def headline(judged: Sequence[Judged]) -> dict[str, float]:
    """The three median errors that the targets are about. serving-more.jsonl: of the sources' medians."""
    serving = of(judged, file=FILES[0])
    return {
        "tpot": median_error(of(serving, figure="tpot")),
        "ttft": median_error(of(serving, figure="ttft")),
        "more": median(by(of(judged, file=FILES[1]), lambda row: row.case.source).values()),
    }


def spreads(judged: Sequence[Judged]) -> dict[str, dict[str, dict[str, float]]]:
    """Measured over predicted by class of launch and figure (planner/planning/throughput/spread.py).

    Every source weighs alike in "all", its rows in a class.
    """
    groups: dict[tuple[str, str], list[Judged]] = {}
    for row in judged:
        gen = generation(row.case.inputs.gpu)
        for name in (class_of(gen, experts=bool(row.case.work.expert_layers)), gen, ALL):
            groups.setdefault((name, row.figure), []).append(row)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (name, figure), rows in sorted(groups.items()):
        if len(rows) >= _FEWEST:
            found.setdefault(name, {})[figure] = _spread(rows, evenly=name == ALL)
    return found


_FEWEST = 12
"""Measurements of a class, below which those of a wider one are taken."""


def _spread(rows: Sequence[Judged], *, evenly: bool) -> dict[str, float]:
    counts = Counter(row.case.source for row in rows)
    weights = np.array([1.0 / counts[row.case.source] if evenly else 1.0 for row in rows])
    ratios = np.array([row.measured / row.predicted for row in rows])
    errors = np.array([abs(row.error) for row in rows])
    return {
        "low": round(_quantile(ratios, weights, 0.1), 3),
        "high": round(_quantile(ratios, weights, 0.9), 3),
        "error": round(_quantile(errors, weights, 0.5), 3),
    }


def _quantile(values: NDArray[np.float64], weights: NDArray[np.float64], part: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) - weights[order] / 2.0
    return float(np.interp(part * weights.sum(), reached, values[order]))


def by(judged: Iterable[Judged], key: Callable[[Judged], str]) -> dict[str, float]:
    """Median error of each group."""
    groups: dict[str, list[Judged]] = {}
    for row in judged:
        groups.setdefault(key(row), []).append(row)
    return {name: median_error(rows) for name, rows in sorted(groups.items())}


def kendall(pairs: Sequence[tuple[float, float]]) -> float:
    """Kendall's tau-b of (predicted, measured): 1 where both rank all alike."""
    x, y = (np.array(column) for column in zip(*pairs, strict=True))
    upper = np.triu_indices(len(x), 1)
    a, b = np.sign(x[:, None] - x)[upper], np.sign(y[:, None] - y)[upper]
    ties = np.sqrt(float((a != 0).sum()) * float((b != 0).sum()))
    return float((a * b).sum() / ties) if ties else 1.0


def kendalls(judged: Iterable[Judged]) -> dict[str, float]:
    """Of output tokens/s, within each model and card of serving.jsonl."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in of(judged, file=FILES[0], figure="output"):
        groups.setdefault(row.case.source, []).append((row.predicted, row.measured))
    return {name: kendall(pairs) for name, pairs in sorted(groups.items())}


# --- the page ---------------------------------------------------------------------------------------------------------

FIELD_REPORTS: tuple[tuple[str, dict[str, Any], Workload, str, tuple[float, float]], ...] = (
    (
        "Llama-3-8B bf16, one L40S, one request",
        {"model": "meta-llama/Meta-Llama-3-8B-Instruct", "gpu": "L40S"},
        Workload(concurrency=1, input_len=512, output_len=256),
        "output tokens/s",
        (50.0, 70.0),
    ),
    (
        "Llama-3-8B bf16, one L40S, 40 requests",
        {"model": "meta-llama/Meta-Llama-3-8B-Instruct", "gpu": "L40S"},
        Workload(concurrency=40, input_len=512, output_len=256),
        "output tokens/s",
        (640.0, 960.0),
    ),
    (
        "Llama-3-70B, four L40S, TP 4, KV cache fp8, one request",
        {
            "model": "meta-llama/Meta-Llama-3-70B-Instruct",
            "gpu": "L40S",
            "tensor_parallel_size": 4,
            "kv_cache_dtype": "fp8",
        },
        Workload(concurrency=1, input_len=512, output_len=256),
        "output tokens/s a request",
        (20.0, 30.0),
    ),
)
"""(what, request, workload, unit, range of the field reports that are at hand)."""


def field_reports() -> list[tuple[str, float, str, tuple[float, float]]]:
    """(what, predicted, unit, expected range), with the constants in use."""
    found = []
    for what, request, workload, unit, wanted in FIELD_REPORTS:
        inputs = prepare(request)
        result = predict(inputs, inputs.estimate(), workload)
        assert result is not None
        found.append((what, result.per_user if "a request" in unit else result.point.output_tokens_per_s, unit, wanted))
    return found


def accuracy_page(cases: Sequence[Case], left_out: Mapping[str, int]) -> str:
    """docs/accuracy-serving.md."""
    judged = judge(cases, constants_file()["folds"])
    lines = [
        "# How exact the speed figures are",
        "",
        "Made by `vllm-fit fit-constants --serving --write`; do not edit. Measurements are in planner/measured, each",
        "with its source. Every source is judged by constants that were fitted without it (five folds: a model on a",
        "card in serving.jsonl, a publisher in serving-more.jsonl). The constants in use are fitted on all. Errors are",
        "medians of |predicted / measured - 1|.",
        "",
        "## Against the targets",
        "",
        "| what | error | target | |",
        "|---|---:|---:|---|",
    ]
    found = headline(judged)
    lines += [
        f"| {what} | {found[name]:.1%} | {limit:.0%} | {'met' if found[name] <= limit else 'missed'} |"
        for name, (what, limit) in TARGETS.items()
    ]
    ranks = kendalls(judged)
    lines += [
        _rank_line("rank correlation of output tokens/s (Kendall)", ranks),
        _rank_line(
            "the same without the disturbed rows (below)", kendalls(row for row in judged if not row.case.disturbed)
        ),
        "",
        "## Field reports",
        "",
        "| what | predicted | reported |",
        "|---|---:|---:|",
    ]
    lines += [
        f"| {what} | {value:.0f} {unit} | {low:.0f} to {high:.0f} |"
        for what, value, unit, (low, high) in field_reports()
    ]
    lines += ["", *_FIELD_NOTES]
    lines += ["", "## serving.jsonl, by model and card", "", *_serving_table(judged, ranks)]
    lines += ["", "## serving-more.jsonl, by source", "", *_more_table(judged, lambda row: row.case.source)]
    lines += ["", "## serving-more.jsonl, by card", "", *_more_table(judged, lambda row: row.case.card)]
    lines += ["", "## serving-more.jsonl, by model", "", *_more_table(judged, lambda row: row.case.model)]
    lines += ["", "## How the rows were read", "", *_READING, "", "## Left out", "", "| rows | because |", "|---:|---|"]
    lines += [f"| {count} | {why} |" for why, count in sorted(left_out.items(), key=lambda item: (-item[1], item[0]))]
    return "\n".join(lines) + "\n"


_FIELD_NOTES = [
    "The reports state no lengths; 512 tokens in and 256 out are taken. On an L40S (864 GB/s) the 15.0 GB of weights",
    "that a token reads allow 57.5 tokens/s at most, and four cards allow Llama-3-70B 24.6: the upper ends of these",
    "reports are beyond the memory. A public log has 43.6 for Qwen3-8B, of the same size (76 % of the bandwidth, its",
    "server included), and 562 tokens/s for 16 requests at once, 1477 for 64: 800 for 40 needs longer prompts.",
]
_READING = [
    "- serving.jsonl is of InferenceX, whose scripts are public: lengths are drawn from 80 to 100 % of those named",
    "  (the mean, 0.9 of them, is predicted), ten requests a client, flags as in planner/calibration/serving_rows.py.",
    "- The width of the priors and the form of the step model for steps with prompts were chosen by these same errors,",
    "  so the errors of rows that nobody has seen yet may be a little larger.",
    "- Rows of serving.jsonl that name several data-parallel replicas carry figures of rows with one, on machines that",
    "  could not hold so many GPUs: they are read as one replica with expert parallelism over its ranks.",
    "- Two rows of gpt-oss-120b on four H100 have a TPOT 20 and 64 % above that of twice as many requests on the same",
    "  launch, which no engine can have in a steady state; an H200 has nothing like it. They are judged, not fitted.",
    "- Five rows of gpt-oss-120b on H100 with 512 clients have a TTFT of 4.2 to 4.6 times the time of the whole",
    "  output (the highest of all other rows is 1.5) and the TPOT of 64 or 8 requests: all requests came at once, ten",
    "  for each place that the server had. Their tokens/s do not follow from TTFT and TPOT; they are left out.",
    "- gpt-oss on H100 and H200 ran on Marlin since vLLM 0.13 (VLLM_MXFP4_USE_MARLIN=1 in the scripts). Where scripts",
    "  had both kinds of KV cache, that one is taken which explains when requests begin to queue: fp8 for Llama on",
    "  H200 and B200. Graph modes are those of the scripts; for gpt-oss on B200 without a version, whose script is",
    "  not known, that of Llama's on the same card. MiniMax on B200 with vLLM 0.17 and on H200 with 0.18 ran with",
    "  expert parallelism whatever EP_SIZE said, which the rows have as 1 (InferenceX pull requests 869 and 947).",
    "- Requests sent all at once run in waves: n requests over the waves they need are at once on average.",
    "- Where a version is not stated: vLLM's release of the row's date; without one 0.10.2 in serving.jsonl, which",
    "  InferenceX had until it gave up Llama 70B and took 0.11 (its perf-changelog.yaml), and 0.11 in the other file.",
    "- A row with a request rate and few requests is a short run: the concurrency is the mean over it.",
    "- The fit gives each source a bias of its own and throws it away, so that one server's habits do not bend the",
    "  constants of its card; the errors above are without it.",
    "- Floods of requests for 4 tokens each measure the API server (44 to 250 requests/s): judged, not fitted.",
    "- A model that the catalogue lacks stands in for another of the same shape (planner/calibration/serving_rows.py).",
]


def _rank_line(what: str, ranks: Mapping[str, float]) -> str:
    worst = min(ranks, key=lambda name: ranks[name])
    met = sum(1 for value in ranks.values() if value >= KENDALL_TARGET)
    return (
        f"| {what}, worst of {len(ranks)}: {worst} | {ranks[worst]:.3f} | {KENDALL_TARGET} "
        f"| {met} of {len(ranks)} met |"
    )


def _serving_table(judged: Sequence[Judged], ranks: Mapping[str, float]) -> list[str]:
    lines = ["| model on card | rows | TPOT | bias | TTFT | bias | Kendall |", "|---|---:|---:|---:|---:|---:|---:|"]
    for source, rank in ranks.items():
        rows = [row for row in judged if row.case.source == source]
        tpot, ttft = of(rows, figure="tpot"), of(rows, figure="ttft")
        lines.append(
            f"| {source} | {len(tpot)} | {median_error(tpot):.1%} | {_bias(tpot):+.1%} | {median_error(ttft):.1%} "
            f"| {_bias(ttft):+.1%} | {rank:.3f} |"
        )
    return lines


def _more_table(judged: Sequence[Judged], key: Callable[[Judged], str]) -> list[str]:
    rows = of(judged, file=FILES[1])
    lines = ["| | rows | error | bias |", "|---|---:|---:|---:|"]
    for name, error in by(rows, key).items():
        mine = [row for row in rows if key(row) == name]
        lines.append(f"| {name} | {len(mine)} | {error:.1%} | {_bias(mine):+.1%} |")
    return lines


def _bias(judged: Iterable[Judged]) -> float:
    errors = [row.error for row in judged]
    return median(errors) if errors else float("nan")


def write_constants(data: Mapping[str, Any]) -> None:
    """Replaces the installed constants of speed, whole or not at all."""
    from planner.files import write_text

    write_text(CONSTANTS, json.dumps(data, indent=1, sort_keys=False) + "\n")
    constants_file.cache_clear()
