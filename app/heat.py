"""Grids for the heat maps: planner's sweep over two dimensions, as rows of cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from app.solve import remembered, solve
from app.state import State
from planner.hardware.catalogue import find_gpu
from planner.planning.cards import tensor_parallel_sizes
from planner.planning.change import Change, request_of
from planner.planning.curve import default_lengths
from planner.planning.sweep import Grid, request_of_row, sweep
from planner.planning.variants import quantized_variants

KV_DTYPES = ("auto", "fp8")
MOST_CARDS = 8
KINDS = {
    "context": "Context x TP",
    "quantization": "Quantization x KV dtype",
    "cards": "Cards x TP",
}
WELL_KNOWN = (
    "B200", "H200 SXM", "H100 SXM", "A100 80GB SXM", "RTX PRO 6000", "L40S", "A10", "L4", "RTX 5090", "RTX 4090"
)  # fmt: skip
"""Beside the state's own card."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One launch of the grid."""

    status: str
    reason: str
    max_concurrency: float
    tokens: int
    request: dict[str, Any]
    """The launch as entered with what the cell stands for."""

    @property
    def fits(self) -> bool:
        """Whether vLLM would start."""
        return self.status == "fits"


@dataclass(frozen=True, kw_only=True)
class Heat:
    """Cells in rows from top to bottom."""

    x_title: str
    y_title: str
    x: tuple[str, ...]
    y: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]


@remembered(32)
def heat(state: State, kind: str) -> Heat:
    """One of KINDS. InputError where the inputs make no sense."""
    return _GRIDS[kind](state)


def _context(state: State) -> Heat:
    base = solve(state).base
    sizes, lengths = tensor_parallel_sizes(MOST_CARDS), default_lengths(base)
    grid = Grid(tensor_parallel_size=tuple(sizes), max_model_len=lengths)
    return Heat(
        x_title="max_model_len (tokens)",
        y_title="tensor_parallel_size",
        x=tuple(f"{length:,}" for length in lengths),
        y=tuple(map(str, sizes)),
        cells=_cells(state, grid, len(lengths)),
    )


def _quantization(state: State) -> Heat:
    variants = [(label, name) for label, name in map(_label, quantized_variants(solve(state).base)) if label]
    grid = Grid(quantization=(None, *(label for label, _ in variants)), kv_cache_dtype=KV_DTYPES)
    return Heat(
        x_title="kv_cache_dtype",
        y_title="weights",
        x=KV_DTYPES,
        y=("as entered", *(name for _, name in variants)),
        cells=_cells(state, grid, len(KV_DTYPES)),
    )


def _cards(state: State) -> Heat:
    own = solve(state).base.gpu.name
    short = {own: own.removeprefix("NVIDIA ").removeprefix("GeForce ")}
    short |= {find_gpu(name).name: name for name in WELL_KNOWN}
    names = tuple(short)
    sizes = tensor_parallel_sizes(MOST_CARDS)[::-1]
    grid = Grid(gpu=names, tensor_parallel_size=tuple(sizes))
    return Heat(
        x_title="tensor_parallel_size",
        y_title="",
        x=tuple(map(str, sizes)),
        y=tuple(short.values()),
        cells=_cells(state, grid, len(sizes)),
    )


_GRIDS = {"context": _context, "quantization": _quantization, "cards": _cards}


def _label(variant: Change) -> tuple[str | None, str]:
    """(what sweep calls it, a short name)"""
    if variant.what_if_quantization is not None:
        return f"what-if:{variant.what_if_quantization}", f"{variant.what_if_quantization} (to be made)"
    if variant.model is not None:
        return f"model:{variant.model}", variant.model.split("/")[-1]
    return variant.args.get("quantization"), f"--quantization {variant.args.get('quantization')}"


def _cells(state: State, grid: Grid, width: int) -> tuple[tuple[Cell, ...], ...]:
    request = request_of(solve(state).base)
    varied = {field.name for field in fields(grid) if getattr(grid, field.name) not in ((), (None,))}
    table = sweep(request, grid).to_dict("records")
    cells = [_cell(request, row, varied) for row in table]
    return tuple(tuple(cells[start : start + width]) for start in range(0, len(cells), width))


def _cell(request: Mapping[str, Any], row: Mapping[Any, Any], varied: set[str]) -> Cell:
    made = request_of_row(request, row)
    wanted = {"model", "gpu", "what_if_quantization", *request, *varied}
    return Cell(
        status=str(row["status"]),
        reason=str(row["reason"]),
        max_concurrency=float(row["max_concurrency"]),
        tokens=int(row["tokens"]),
        request={name: value for name, value in made.items() if name in wanted and value != "auto"},
    )
