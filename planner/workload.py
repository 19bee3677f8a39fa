"""What an engine is to serve: the `workload` of a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from planner.errors import InputError
from planner.text import did_you_mean, nearest, printable, shown


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What the engine is to serve."""

    concurrency: int = 1
    """Requests in flight, of clients that each send the next when the last is done."""
    input_len: int = 1024
    output_len: int = 256
    request_rate: float | None = None
    """Requests/s instead: how many are then in flight follows from how fast they are served."""
    prefix_hit_rate: float = 0.0
    """The share of prompt tokens that prefix caching finds."""
    price_per_gpu_hour: float | None = None
    """In any currency; costs are in the same."""

    @property
    def mean_len(self) -> float:
        """Tokens that a running request holds on average, halfway through its output."""
        return self.input_len + self.output_len / 2

    def to_dict(self) -> dict[str, Any]:
        """Lengths and concurrency, and what else was given."""
        default = Workload()
        given = {key: value for key, value in vars(self).items() if value != getattr(default, key)}
        return {key: getattr(self, key) for key in _LENGTHS} | given


_LENGTHS = ("concurrency", "input_len", "output_len")
_NUMBERS = {"request_rate": (0.0, 1e6), "prefix_hit_rate": (0.0, 1.0), "price_per_gpu_hour": (0.0, 1e6)}
"""Keys of a workload that need not be whole numbers: their range."""


def workload_of(value: object) -> Workload | None:
    """What a request says; null is as if not given. InputError names the key that is wrong and its range."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InputError(f"workload = {shown(value)}: must be an object")
    known = [field.name for field in fields(Workload)]
    for key in value:
        if key not in known:
            raise InputError(f"workload.{printable(key)}: unknown key{did_you_mean(nearest(str(key), known))}")
    given = {key: number for key, number in value.items() if number is not None}
    for key, number in given.items():
        _check(key, number)
    return Workload(**given)


def _check(key: str, number: object) -> None:
    if key in _LENGTHS:
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 10**9:
            raise InputError(f"workload.{key} = {shown(number)}: must be a whole number from 1 to 1,000,000,000")
        return
    low, high = _NUMBERS[key]
    if isinstance(number, bool) or not isinstance(number, int | float) or not low <= number <= high:
        raise InputError(f"workload.{key} = {shown(number)}: must be a number from {low:g} to {high:g}")
    if key == "request_rate" and number == 0:
        raise InputError("workload.request_rate = 0: must be more than 0")
