"""Batch and context of every combination on one card, as vLLM resolves them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from planner.engine.defaults import Engine, resolve
from planner.errors import InputError, Refusal
from planner.planning.sweep.grid import SHAPE, Grid
from planner.request import Inputs

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Shapes:
    """One value a combination."""

    engines: tuple[Engine | None, ...]
    """None where vLLM refuses it."""
    codes: tuple[str, ...]
    """Why; empty where it does not."""
    max_model_len: Ints
    max_num_seqs: Ints
    max_num_batched_tokens: Ints

    @cached_property
    def graph_tokens(self) -> Ints:
        """The largest batch that a CUDA graph runs; 0 when eager or refused."""
        return np.array([max(e.cudagraph_capture_sizes, default=0) if e is not None else 0 for e in self.engines])

    @cached_property
    def legal(self) -> Ints:
        """Rows that vLLM takes."""
        return np.array([index for index, engine in enumerate(self.engines) if engine is not None], dtype=np.int64)

    def grouped(self, *, by_batch: bool, by_length: bool) -> list[Ints]:
        """The legal rows, apart where the batch or the context decides more than arithmetic."""
        if not by_batch and not by_length:
            return [self.legal] if len(self.legal) else []
        batch = [self.max_num_batched_tokens, self.max_num_seqs] if by_batch else []
        length = [self.max_model_len] if by_length else []
        _, group = np.unique(np.stack([*batch, *length]), axis=1, return_inverse=True)
        return [rows for g in range(group.max() + 1) if len(rows := self.legal[group[self.legal] == g])]

    def distinct(self, *, by_length: bool) -> tuple[list[Engine], Ints]:
        """(engines that differ in what overhead depends on, for each row the one it is like; -1 for refused rows)"""
        known: dict[object, int] = {}
        firsts: list[Engine] = []
        like = np.full(len(self.engines), -1)
        for index, engine in enumerate(self.engines):
            if engine is None:
                continue
            key = (engine.max_num_seqs, engine.max_num_batched_tokens, engine.cudagraph_capture_sizes)
            number = known.setdefault((*key, engine.max_model_len if by_length else 0), len(firsts))
            if number == len(firsts):
                firsts.append(engine)
            like[index] = number
        return firsts, like


def resolved(inputs: Inputs, grid: Grid, stages: int) -> Shapes:
    """Every combination on this card, with so many pipeline stages."""
    engines: list[Engine | None] = []
    codes, rows = [], []
    bare = inputs.args.with_(pipeline_parallel_size=stages if stages > 1 else None)
    quantized = inputs.quantization is not None
    with _not_collecting():
        for values in product(grid.max_model_len, grid.max_num_seqs, grid.max_num_batched_tokens):
            args = bare.with_(**{n: v for n, v in zip(SHAPE, values, strict=True) if v is not None})
            try:
                engine = resolve(inputs.model, inputs.gpu, args, inputs.version, inputs.usage, quantized=quantized)
            except Refusal as refusal:
                engines.append(None)
                codes.append(refusal.reason.code)
                rows.append(tuple(args.get(name) or 0 for name in SHAPE))
                continue
            if engine.auto_max_model_len:
                raise InputError("max_model_len = auto: a sweep needs a length")
            engines.append(engine)
            codes.append("")
            rows.append((engine.max_model_len, engine.max_num_seqs, engine.max_num_batched_tokens))
    columns = np.array(rows, dtype=np.int64).T
    return Shapes(
        engines=tuple(engines),
        codes=tuple(codes),
        max_model_len=columns[0],
        max_num_seqs=columns[1],
        max_num_batched_tokens=columns[2],
    )


@contextmanager
def _not_collecting() -> Iterator[None]:
    """Tens of thousands of objects, all of which stay: looking for garbage among them takes a quarter of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
