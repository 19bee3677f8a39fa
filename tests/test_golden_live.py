"""Asks the vLLM installed here for a few rows of the golden files again, and compares."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from planner.engine.ask_vllm.client import GpuFacts, VllmProcess, ask, installed_version
from planner.errors import InputError
from tests.golden.cases import AMOUNTS, GPUS, LIVE, Case, read_configs
from tests.golden.make_golden import kv_row, request_of, weights_row

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM is installed"),
]


def golden(name: str) -> dict[str, dict[str, Any]]:
    """The rows of one golden file by what was asked."""
    with gzip.open(GOLDEN / f"{name}.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    return {Case(row["model"], row["gpu"], row["args"], row.get("recipe")).id(): row for row in rows}


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, Any]]:
    configs = read_configs(ROOT / "hf_configs")
    with VllmProcess(GpuFacts(**GPUS["h100"])) as vllm:
        return {case.id(): vllm.ask(request_of(case, configs), timeout_s=300) for case in LIVE}


@pytest.mark.parametrize("case", LIVE, ids=Case.id)
def test_weights_are_what_vllm_allocates(case: Case, answers: dict[str, dict[str, Any]]) -> None:
    expected = golden("weights")[case.id()]
    assert weights_row(case, answers[case.id()], "") | {"vllm": expected["vllm"]} == expected


@pytest.mark.parametrize("case", [case for case in LIVE if case.kv], ids=Case.id)
def test_kv_cache_is_planned_as_vllm_plans_it(case: Case, answers: dict[str, dict[str, Any]]) -> None:
    expected = golden("kv")[case.id()]
    assert kv_row(case, answers[case.id()], "") | {"vllm": expected["vllm"]} == expected


def test_a_second_question_is_answered_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config, files = read_configs(ROOT / "hf_configs")["google/gemma-3-270m-it"]
    gpu = GpuFacts(**GPUS["h100"])
    first = ask(config, {}, gpu, files=files, available_bytes=AMOUNTS[:1])
    assert first["stages"][0]["total"] > 0
    (kept,) = tmp_path.rglob("*.json")
    kept.write_text(json.dumps({"from": "the cache"}))
    assert ask(config, {}, gpu, files=files, available_bytes=AMOUNTS[:1]) == {"from": "the cache"}


def test_an_interpreter_without_vllm_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no vLLM in"):
        installed_version(vllm_source=tmp_path)
