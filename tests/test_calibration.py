"""How wrong the memory figures are on measured launches: never worse than the page in docs says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from planner.calibration.failures import Failure, failures
from planner.calibration.fit import error_of, fit, for_fitting
from planner.calibration.launches import card_of, launches, source_of, version_of
from planner.calibration.report import FIGURES, accuracy_page, errors, off, reason_of
from planner.memory import overhead

PAGE = Path(__file__).parents[1] / "docs" / "accuracy-memory.md"


def test_the_accuracy_page_is_what_the_command_makes():
    """A change that alters a prediction must show its errors: run `vllm-fit fit-constants --write`."""
    assert accuracy_page(*launches()) == PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("fitting", [True, False])
def test_errors_where_version_card_and_flags_are_known(fitting: bool):
    found, _ = launches()
    judged = {e.name: e for e in errors(x for x in found if x.flags_known and for_fitting(x) is fitting)}
    assert judged["available KV cache memory"].median_gib <= 0.2
    if fitting:
        assert judged["weights"].median_share <= 0.003
        assert judged["peak activation"].median_share <= 0.03


def test_errors_over_all_launches_that_are_known():
    found, _ = launches()
    judged = {e.name: e for e in errors(x for x in found if x.flags_known)}
    assert judged["weights"].median_share <= 0.0005
    assert judged["peak activation"].median_share <= 0.005
    available = judged["available KV cache memory"]
    assert available.median_gib <= 0.02
    assert available.p90_gib <= 0.45
    assert available.over_promised <= 0.02 * available.launches


def test_every_known_launch_that_is_far_off_has_its_reason_on_the_page():
    missing = [launch.id for launch, _ in off(launches()[0]) if reason_of(launch) is None]
    assert missing == []


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


def test_a_repository_is_one_source():
    url = "https://github.com/llm-d-incubation/llm-d-planner/blob/0/accuracy/results/{}.log"
    assert source_of({"source": url.format("a"), "id": "a"}) == source_of({"source": url.format("b"), "id": "b"})
    log = {"source": "log in a public repository"}
    assert source_of({**log, "id": "a100-40-q3-8-v0191"}) == source_of({**log, "id": "a100-40-q3-8-v092"})
    assert source_of({**log, "id": "f51771234912-base"}) == source_of({**log, "id": "f51771234912-short"})


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"id": "x", "vllm_version": "0.10.1.1"}, ("0.10.1.1", False)),
        ({"id": "x", "vllm_version": "~0.13 (gpu_worker.py:375)"}, ("0.13", True)),
        ({"id": "f70469032009-n1"}, ("0.28.0", True)),
        ({"id": "x", "vllm_version": "0.1.dev20073"}, (None, False)),
        ({"id": "x"}, (None, False)),
    ],
)
def test_a_version_is_stated_inferred_or_unknown(row: dict[str, str], expected: tuple[str | None, bool]):
    assert version_of(row) == expected


def test_a_card_that_is_no_name_gets_a_stand_in():
    assert card_of({"gpu": "RTX 5090 (WSL2)"}) == ("NVIDIA GeForce RTX 5090", False)
    assert card_of({"gpu": "24 GB card under WSL2"})[1]
    assert card_of({"gpu": "unknown (24GB-class, 4 GPUs)"}) == (None, True)


def test_an_error_needs_both_figures():
    assert error_of("nothing", launches()[0], lambda _: None, lambda _: 1.0) is None


def test_every_figure_of_the_page_is_a_key_of_the_rows():
    text = PAGE.read_text(encoding="utf-8")
    for name, _, _ in FIGURES:
        assert re.search(rf"\| {name} \| \d+ \|", text)


# --- launches that failed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [f for f in failures() if f.judged], ids=lambda f: f.row["id"])
def test_a_failed_launch_is_predicted_to_fail_in_the_same_way(failure: Failure):
    assert failure.agrees, failure.predicted


def test_failures_with_an_inferred_version_agree_but_one():
    """f70469032009-n64-spec's draft model is not stated."""
    asked = [f for f in failures() if f.estimate is not None and f.unknown]
    assert [f.row["id"] for f in asked if not f.agrees] == ["f70469032009-n64-spec-080"]


def test_most_failed_launches_can_be_judged():
    assert sum(failure.judged for failure in failures()) >= 20
