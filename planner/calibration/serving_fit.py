"""Fits the constants of the speed model on measured serving: least squares on log errors, with priors.

Robust (large errors count by their size, not their square), weighted by source: the rows of one source together weigh
as much as the square root of their number. Constants start from what data sheets and single kernels suggest and are
held there by a prior, so that a GPU generation or kernel with few measurements stays near what the others say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from planner.calibration.serving_rows import FILES, Case
from planner.planning.throughput.rates import Rates
from planner.planning.throughput.steady import Limits, Load, Steady, at_rate, steady
from planner.planning.throughput.work import Work, stacked

Array = NDArray[np.float64]

FOLDS = 5

PRIORS: Mapping[str, tuple[float, float]] = {
    "bandwidth.dense": (0.8, 0.3),
    "bandwidth.experts": (0.65, 0.4),
    "bandwidth.dense.int4_weight": (0.9, 0.3),
    "kv_bandwidth": (0.6, 0.5),
    "flops": (0.6, 0.4),
    "flops.dense.fp4": (0.6, 0.5),
    "flops.experts.fp4": (0.4, 0.5),
    "flops.experts.bf16": (0.7, 0.5),
    "flops.experts.fp8": (0.6, 0.5),
    "flops.experts.fp4_triton": (0.5, 0.5),
    "flops.experts.fp4_weight": (0.5, 0.5),
    "flops.experts.int4_weight": (0.5, 0.5),
    "pair_flops": (0.4, 0.5),
    "link_bandwidth.nvlink": (0.7, 0.4),
    "link_bandwidth.pcie": (0.7, 0.4),
    "link_bandwidth.node": (0.7, 0.4),
    "link_latency_us.nvlink": (8.0, 0.7),
    "link_latency_us.pcie": (30.0, 0.7),
    "link_latency_us.node": (60.0, 0.7),
    # DeepSeek's experts on an H20, 5.05 GB in 2.97 ms by Marlin: github.com/flagos-ai/FlagGems/pull/3609
    "unpacking_gbs.fp8_weight": (11.0, 0.4),
    "unpacking_gbs.int8_weight": (11.0, 0.4),
    "unpacking_gbs.int4_weight": (11.0, 0.4),
    "unpacking_gbs.fp4_weight": (11.0, 0.4),
    "layer_us": (30.0, 0.5),
    "expert_layer_us": (30.0, 0.7),
    # DeepSeek-R1 on eight H200, 16 at once, 1,000 times 300 tokens: 412 s on Triton, "about 30 % slower" on this, in 58
    # layers (github.com/vllm-project/vllm/pull/33490)
    "expert_layer_us.flashinfer_cutlass": (115.0, 0.5),
    "state_layer_us": (30.0, 0.7),
    "latent_layer_us": (20.0, 0.7),
    "launch_us": (300.0, 1.0),
    "piecewise_us": (150.0, 1.0),
    "step_us.v0": (2500.0, 0.7),
    "step_us.v1": (1000.0, 0.7),
    "step_us.async": (500.0, 0.7),
    "sequence_us": (10.0, 0.7),
    "first_token_ms": (10.0, 0.7),
    # Half of the largest tile that Triton's default has: get_default_config, fused_moe.py, vLLM 0.32.0
    "expert_tile_rows": (64.0, 0.5),
    # In the first of ten rounds half of the others stand before one.
    "crowd": (0.05, 0.7),
}
"""Where a constant starts, and how far the logarithm may move from there (one standard deviation)."""
_DEVIATION = (1.0, 0.15)
"""The prior of a generation's or a kernel's deviation."""
_DEVIATIONS = {"launch_us@": (1.0, 0.6), "kv_bandwidth.fp8@hopper": (1.0, 0.4)}
"""Wider ones, by how the name begins: launches by the host differ with the machine that a generation comes in, and
FlashAttention 3 has to transpose fp8 values, which only Hopper runs."""
_STRENGTH = 4.0
"""How many (weighted) measurements a prior counts for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Cases as arrays: the speed model computes them at once."""

    cases: tuple[Case, ...]
    names: tuple[str, ...]
    nominal: Mapping[str, Array]
    """By field of Rates."""
    factors: Mapping[str, NDArray[np.int64]]
    """By field, one row a case: which constants it is multiplied by; len(names) stands for 1."""


def batch_of(cases: Sequence[Case]) -> Batch:
    """The cases as arrays [case], and for each rate the fitted constants that scale it as indices [case, factor]."""
    names = sorted({name for case in cases for rate in case.table.values() for name in rate.constants})
    index = {name: i for i, name in enumerate(names)}
    nominal, factors = {}, {}
    for f in fields(Rates):
        rates = [case.table[f.name] for case in cases]
        width = max(len(rate.constants) for rate in rates)
        nominal[f.name] = np.array([rate.nominal for rate in rates])
        rows = [[index[n] for n in rate.constants] + [len(names)] * (width - len(rate.constants)) for rate in rates]
        factors[f.name] = np.array(rows, dtype=np.int64).reshape(len(rates), width)
    return Batch(cases=tuple(cases), names=tuple(names), nominal=nominal, factors=factors)


def prior(name: str) -> tuple[float, float]:
    """(where a constant starts, one standard deviation of its logarithm)."""
    return PRIORS.get(name, next((value for start, value in _DEVIATIONS.items() if name.startswith(start)), _DEVIATION))


def start(names: Iterable[str]) -> dict[str, float]:
    """The constants before any measurement."""
    return {name: prior(name)[0] for name in names}


class Predictor:
    """Predicts a batch for any constants."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.work = stacked([case.work for case in batch.cases])
        self.limits = Limits(**{f.name: _column([c.limits for c in batch.cases], f.name) for f in fields(Limits)})
        self.load = Load(**{f.name: _column([c.load for c in batch.cases], f.name) for f in fields(Load)})
        self._rated = np.array([i for i, case in enumerate(batch.cases) if case.request_rate], dtype=np.int64)

    def steady(self, values: Array) -> Steady:
        """values: the constants in the order of batch.names."""
        return steady(self.work, self.rates(values), self.limits, self.load)

    def rates(self, values: Array) -> Rates:
        """The rates of all cases, arrays [case], with these constants (in the order of Batch.names)."""
        padded, batch = np.append(values, 1.0), self.batch
        return Rates(
            **{name: nominal * padded[batch.factors[name]].prod(axis=1) for name, nominal in batch.nominal.items()}
        )

    def settle(self, values: Array) -> None:
        """Find the concurrency of the cases that have a request rate instead; held until the next call."""
        if not len(self._rated):
            return
        wanted = np.array([self.batch.cases[i].request_rate for i in self._rated], dtype=float)
        load = at_rate(
            _taken(self.work, self._rated),
            _taken(self.rates(values), self._rated),
            _taken(self.limits, self._rated),
            _taken(self.load, self._rated),
            wanted,
            np.array([self.batch.cases[i].requests for i in self._rated]),
        )
        concurrency = np.array(self.load.concurrency)
        most = [self.batch.cases[i].clients for i in self._rated]
        concurrency[self._rated] = np.minimum(load.concurrency, most)
        self.load = replace(self.load, concurrency=concurrency)

    def users(self, constant: int) -> NDArray[np.int64]:
        """The cases that a constant has a part in."""
        used = [(rows == constant).any(axis=1) for rows in self.batch.factors.values()]
        return np.flatnonzero(np.any(used, axis=0))

    def part(self, rows: NDArray[np.int64]) -> Predictor:
        """The same for some of the cases."""
        batch = self.batch
        return Predictor(
            Batch(
                cases=tuple(batch.cases[i] for i in rows),
                names=batch.names,
                nominal={name: nominal[rows] for name, nominal in batch.nominal.items()},
                factors={name: factors[rows] for name, factors in batch.factors.items()},
            )
        )

    def figures(self, values: Array) -> dict[str, Array]:
        """Predicted "tpot" and "ttft" in seconds and "output" in tokens/s."""
        found = self.steady(values)
        output = found.requests_per_s * self.load.output_len
        return {"tpot": np.asarray(found.tpot), "ttft": np.asarray(found.ttft), "output": np.asarray(output)}


_Arrays = TypeVar("_Arrays", Work, Rates, Limits, Load)


def _taken(arrays: _Arrays, rows: NDArray[np.int64]) -> _Arrays:
    return type(arrays)(**{f.name: np.asarray(getattr(arrays, f.name))[rows] for f in fields(arrays)})


def _column(rows: Sequence[object], name: str) -> Array:
    return np.array([getattr(row, name) for row in rows], dtype=float)


# --- least squares ----------------------------------------------------------------------------------------------------


def fit_constants(cases: Sequence[Case], *, rounds: int = 30) -> dict[str, float]:
    """The constants that predict these cases best."""
    batch = batch_of(cases)
    problem = _Problem(Predictor(batch))
    point = problem.start
    damping = 1.0
    for _ in range(rounds):
        problem.settle(point)
        loss = problem.loss(point)
        step = problem.step(point, damping)
        moved = problem.loss(point + step)
        if moved < loss:
            point, damping = point + step, damping / 3
            if loss - moved < 1e-4 * loss:
                break
        else:
            damping *= 5
    return dict(zip(batch.names, (float(f"{v:.5g}") for v in np.exp(point[: len(batch.names)])), strict=True))


class _Problem:
    """Unknowns: logarithms of the constants, then one bias for each figure of each source, which is thrown away.

    The bias takes up what a source does otherwise than others (its server, clocks, client), so that a source with many
    rows does not bend the constants of its card.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        batch = predictor.batch
        self.count = len(batch.names)
        self.measured = {
            figure: np.array([case.measured.get(figure, np.nan) for case in batch.cases]) for figure in _FIGURES
        }
        groups = {
            (figure, case.source): case.file for figure in _FIGURES for case in batch.cases if figure in case.measured
        }
        self.groups = {group: i for i, group in enumerate(groups)}
        biases = np.array([_SOURCE_BIAS[file] for file in groups.values()])
        self.centre = np.append(np.log([prior(name)[0] for name in batch.names]), np.zeros(len(groups)))
        self.width = np.append([prior(name)[1] for name in batch.names], biases)
        self.start = self.centre.copy()
        counts: dict[str, int] = {}
        for case in batch.cases:
            counts[case.source] = counts.get(case.source, 0) + (not case.disturbed)
        weight = np.array([counts[case.source] ** -0.5 * _is_fitted(case) for case in batch.cases])
        self.weights = np.concatenate([weight[np.isfinite(measured)] for measured in self.measured.values()])
        self.group = np.array(
            [self.groups[figure, case.source] for figure in _FIGURES for case in batch.cases if figure in case.measured]
        )
        self.users = [predictor.users(i) for i in range(self.count)]
        self.parts = [predictor.part(rows) for rows in self.users]

    def settle(self, point: Array) -> None:
        """See Predictor.settle."""
        values = np.exp(point[: self.count])
        self.predictor.settle(values)
        for rows, part in zip(self.users, self.parts, strict=True):
            part.load = _taken(self.predictor.load, rows)

    def residuals(self, point: Array) -> Array:
        found = self.predictor.figures(np.exp(point[: self.count]))
        parts = [np.log(found[name]) - np.log(measured) for name, measured in self.measured.items()]
        biases: Array = point[self.count :]
        return np.asarray(np.concatenate([part[np.isfinite(part)] for part in parts]) + biases[self.group])

    def loss(self, point: Array) -> float:
        errors = self.residuals(point)
        robust = np.sqrt(errors**2 + _SOFT**2) - _SOFT
        held = ((point - self.centre) / self.width) ** 2
        return float((self.weights * robust).sum() + _STRENGTH * _UNIT * held.sum())

    def step(self, point: Array, damping: float) -> Array:
        """Gauss-Newton with reweighting, damped, at most a factor of 1.6 at once."""
        errors = self.residuals(point)
        jacobian = self._jacobian(point)
        weights = self.weights / np.sqrt(errors**2 + _SOFT**2)
        hold = 2 * _STRENGTH * _UNIT / self.width**2
        normal = jacobian.T @ (weights[:, None] * jacobian) + np.diag(hold)
        gradient = jacobian.T @ (weights * errors) + hold * (point - self.centre)
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -gradient)
        return np.clip(step, -0.5, 0.5)

    def _jacobian(self, point: Array) -> Array:
        """By finite differences, each on the cases that the constant is used in."""
        values = np.exp(point[: self.count])
        before = {name: np.log(figure) for name, figure in self.predictor.figures(values).items()}
        jacobian = np.zeros((len(self.weights), len(point)))
        for i, (rows, part) in enumerate(zip(self.users, self.parts, strict=True)):
            moved = values.copy()
            moved[i] *= np.exp(_STEP)
            after = part.figures(moved)
            first = 0
            for name, measured in self.measured.items():
                slope = np.zeros(len(measured))
                slope[rows] = (np.log(after[name]) - before[name][rows]) / _STEP
                known = np.isfinite(measured)
                jacobian[first : first + known.sum(), i] = slope[known]
                first += int(known.sum())
        jacobian[np.arange(len(self.group)), self.count + self.group] = 1.0
        return jacobian


def _is_fitted(case: Case) -> bool:
    """Floods of requests for a few tokens each (70 to 250 requests/s) measure the API server: judged, not fitted."""
    return float(np.max(case.load.output_len)) >= 16 and not case.disturbed


_FIGURES = ("tpot", "ttft", "output")
_SOURCE_BIAS = {FILES[0]: 0.03, FILES[1]: 0.15}
"""How far a source is taken to be off by itself (a standard deviation): serving.jsonl is of one benchmark on one kind
of machine a card, serving-more.jsonl of whoever published."""
_STEP = 1e-3
_SOFT = 0.05
"""Log errors below this count as squares, above as they are."""
_UNIT = 0.01
"""A prior's weight per unit of strength."""


# --- folds ------------------------------------------------------------------------------------------------------------


def fold_of(cases: Iterable[Case]) -> dict[str, int]:
    """Which part of the data each source is judged in: sources in order of their names, dealt out in turn, by file."""
    folds: dict[str, int] = {}
    for file in sorted({case.file for case in cases}):
        for i, source in enumerate(sorted({case.source for case in cases if case.file == file})):
            folds[source] = i % FOLDS
    return folds
