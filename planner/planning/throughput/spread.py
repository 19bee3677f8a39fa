"""How far a prediction may be off: what measurements that the fit had not seen were, over what was predicted for them.

By class of launch, since cards and kinds of model differ: "hopper/experts", else "hopper", else "all". The data file
has them from `vllm-fit fit-constants --serving --write` (planner/calibration/serving.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from planner.planning.throughput.rates import constants_file

FIGURES = ("output", "tpot", "ttft")
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Of one figure: measured over predicted."""

    low: float
    """Below it was one measurement in ten."""
    high: float
    """Above it was one in ten."""
    error: float
    """The median of |predicted / measured - 1|."""

    def range_of(self, predicted: float) -> tuple[float, float]:
        """Where four of five measured servers of the class would lie around a prediction, in its unit."""
        return predicted * self.low, predicted * self.high


def class_of(generation: str, *, experts: bool) -> str:
    """The key of the measured spreads: the card's generation, and whether the model has experts."""
    return f"{generation}/{'experts' if experts else 'dense'}"


def spreads_of(name: str) -> Mapping[str, Spread]:
    """Every figure's spread for a class; of figures that it has no measurements of, its generation's or all cards'."""
    known = constants_file()["spread"]
    found = {}
    for figure in FIGURES:
        key = next(key for key in (name, name.partition("/")[0], ALL) if figure in known.get(key, {}))
        found[figure] = Spread(**known[key][figure])
    return found
