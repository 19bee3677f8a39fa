"""Speed columns for a table of launches (planner/planning/sweep): all rows through the step model at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.planning.throughput.predict import load_of
from planner.planning.throughput.rates import Rates, rates_for
from planner.planning.throughput.steady import Limits, at_rate, steady
from planner.planning.throughput.work import Work, work_of_launch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from planner.engine.defaults import Engine
    from planner.memory.weights import StageWeights
    from planner.request import Inputs
    from planner.workload import Workload

    Array = NDArray[np.float64]

COLUMNS = ("running", "output_tokens_per_s", "total_tokens_per_s", "ttft_ms", "tpot_ms")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Launches that differ in batch and context alone, one value a row."""

    max_num_seqs: Array
    max_num_batched_tokens: Array
    graph_tokens: Array
    """The largest batch that a CUDA graph runs; 0 when eager."""
    fits: Array
    """Requests of the workload's mean length that the KV cache holds."""

    def __len__(self) -> int:
        return len(self.fits)


@dataclass(kw_only=True)
class SpeedTable:
    """Takes launches one by one, then computes them together."""

    workload: Workload
    _work: list[Work] = field(default_factory=list)
    _rates: list[Rates] = field(default_factory=list)
    _rows: list[Rows] = field(default_factory=list)
    _replicas: list[int] = field(default_factory=list)

    def add(self, inputs: Inputs, engine: Engine, stages: tuple[StageWeights, ...], kv_dtype: str, rows: Rows) -> None:
        """Rows of one launch. InputError where the card's bandwidth is not known."""
        work, kernels = work_of_launch(inputs.model, engine, stages, kv_dtype, inputs.quantization)
        self._work.append(work)
        self._rates.append(rates_for(inputs.gpu, engine, kernels)[0])
        self._rows.append(rows)
        self._replicas.append(engine.data_parallel_size)

    def columns(self) -> Mapping[str, Array]:
        """COLUMNS over all rows, in the order in which they were added."""
        if not self._rows:
            return {name: np.zeros(0) for name in COLUMNS}
        counts = [len(rows) for rows in self._rows]
        rates = replace(_repeated(Rates, self._rates, counts), graph_tokens=self._joined("graph_tokens"))
        work = _repeated(Work, self._work, counts)
        replicas = np.repeat(np.array(self._replicas, dtype=float), counts)
        limits = Limits(**{f.name: self._joined(f.name) for f in fields(Limits)})
        load = load_of(self.workload, replicas)
        if self.workload.request_rate is not None:
            load = at_rate(work, rates, limits, load, self.workload.request_rate / replicas)
        found = steady(work, rates, limits, load)
        output = replicas * found.requests_per_s * self.workload.output_len
        columns: dict[str, Any] = {
            "running": replicas * found.running,
            "output_tokens_per_s": output,
            "total_tokens_per_s": output * (1.0 + self.workload.input_len / self.workload.output_len),
            "ttft_ms": 1e3 * found.ttft,
            "tpot_ms": 1e3 * found.tpot,
        }
        return columns

    def _joined(self, name: str) -> Array:
        columns: list[Array] = [getattr(rows, name) for rows in self._rows]
        return np.concatenate(columns).astype(float)


def _repeated(kind: Any, values: Sequence[Any], counts: Sequence[int]) -> Any:
    """Each launch's numbers once a row."""
    return kind(
        **{
            f.name: np.repeat(np.array([getattr(value, f.name) for value in values], dtype=float), counts)
            for f in fields(kind)
        }
    )
