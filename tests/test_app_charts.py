"""The app's figures: their numbers are planner's, and their colours can be told apart."""

from __future__ import annotations

import itertools

import pytest
from coloraide import Color

from app import charts
from app.solve import solve
from app.state import State
from planner.units import GIB
from reports.memory import memories_of
from reports.svg import COLOURS, ink

OLD = State(model="Qwen/Qwen3-32B", gpu="H100", cards=4, tensor_parallel_size="4", vllm_version="0.10.0")


def test_the_bar_is_the_answer_with_what_is_outside_the_budget_past_the_requested_line() -> None:
    answer = solve(OLD).now
    figure, sizes = charts.memory_bar(memories_of(answer)), answer["memory"]
    lengths = {trace.name.rsplit(" ", 1)[0]: trace.x[0] * GIB for trace in figure.data}
    assert list(lengths) == ["Weights", "KV cache", "Peak activation", "Non-torch", "Outside the budget", "Free"]
    assert lengths["Outside the budget"] == sizes["outside_budget_bytes"] == sizes["cuda_graph_bytes"] > 0
    assert lengths["Weights"] == sizes["model_loading_bytes"]
    assert lengths["KV cache"] == sizes["available_kv_bytes"]
    assert sum(lengths.values()) == sizes["total_bytes"]
    before = sum(list(lengths.values())[:4])
    lines = {shape.line.dash: shape.x0 * GIB for shape in figure.layout.shapes if shape.line.dash}
    assert lines == {"dash": sizes["requested_bytes"], "solid": sizes["total_bytes"]}
    assert before == pytest.approx(sizes["requested_bytes"])
    assert all(trace.showlegend is not False for trace in figure.data)


PALETTES = {
    "memory": COLOURS,
    "quality cost": {name: colour for name, colour, _ in charts.COSTS},
    "lines and steps": charts.MEANINGS,
}


@pytest.mark.parametrize(("sight", "least"), [(None, 21), ("protan", 12), ("deutan", 11.5), ("tritan", 7.5)])
@pytest.mark.parametrize("palette", PALETTES)
def test_colours_can_be_told_apart_by_the_colour_blind(palette: str, sight: str | None, least: float) -> None:
    """The smallest CIEDE2000 difference of two of them. sight: what the eye lacks, wholly (Machado 2009).

    2 is what an eye notices side by side, 10 what it sees at a glance. No colour stands alone: bars are hatched and
    named, marks have shapes, lines are dashed and labelled.
    """
    seen = [Color(colour) if sight is None else Color(colour).filter(sight, 1) for colour in PALETTES[palette].values()]
    assert min(one.delta_e(other, method="2000") for one, other in itertools.combinations(seen, 2)) >= least


@pytest.mark.parametrize("key", COLOURS)
def test_a_name_can_be_read_on_its_colour(key: str) -> None:
    """WCAG 2.1's contrast of small text."""
    assert Color(COLOURS[key]).contrast(ink(key), method="wcag21") >= 4.5
