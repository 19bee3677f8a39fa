"""How wrong the memory figures are on measured launches: never worse than the page in docs says."""

from __future__ import annotations

import re
from pathlib import Path

from planner.calibration.fit import error_of, fit, for_fitting
from planner.calibration.launches import launches
from planner.calibration.report import FIGURES, accuracy_page, errors
from planner.memory import overhead

PAGE = Path(__file__).parents[1] / "docs" / "accuracy-memory.md"


def test_the_accuracy_page_is_what_the_command_makes():
    """A change that alters a prediction must show its errors: run `vllm-fit fit-constants --write`."""
    assert accuracy_page(*launches()) == PAGE.read_text(encoding="utf-8")


def test_errors_on_sources_that_were_not_fitted_on():
    found, _ = launches()
    judged = {e.name: e for e in errors(x for x in found if x.flags_known and not for_fitting(x))}
    assert judged["weights"].median_share <= 0.003
    assert judged["peak activation"].median_share <= 0.03
    assert judged["available KV cache memory"].median_gib <= 0.2
    assert judged["available KV cache memory"].p90_gib <= 0.7


def test_fitting_again_changes_nothing():
    found, _ = launches()
    assert fit(found, overhead.constants()) == overhead.constants()


def test_the_split_is_by_source():
    found, _ = launches()
    halves: dict[str, set[bool]] = {}
    for launch in found:
        halves.setdefault(launch.source, set()).add(for_fitting(launch))
    assert all(len(half) == 1 for half in halves.values())
    assert {True, False} == {half for halves_of in halves.values() for half in halves_of}


def test_an_error_needs_both_figures():
    assert error_of("nothing", launches()[0], lambda _: None, lambda _: 1.0) is None


def test_every_figure_of_the_page_is_a_key_of_the_rows():
    text = PAGE.read_text(encoding="utf-8")
    for name, _, _ in FIGURES:
        assert re.search(rf"\| {name} \| \d+ \|", text)
