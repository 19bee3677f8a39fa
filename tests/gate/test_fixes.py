"""Fixes are diffs that apply to the files as they are, after which the launch passes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from planner.gate.outcome import Outcome
from planner.gate.run import Options, gate

CORPUS = Path(__file__).parent / "corpus"


def _gate(folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    monkeypatch.chdir(folder)
    return gate([path], Options(offline=True))


def _failing(outcomes: list[Outcome], outcome: Outcome) -> int:
    return sum(
        one.verdict == "fail" and (one.launch.file, one.launch.line) == (outcome.launch.file, outcome.launch.line)
        for one in outcomes
    )


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["deployments", "scripts", "yaml"])
def test_each_diff_applies_and_makes_its_launch_pass(corpus, tmp_path, monkeypatch):
    before = _gate(CORPUS / corpus, Path(), monkeypatch)
    diffs = [outcome for outcome in before if outcome.fix is not None and outcome.fix.startswith("--- a/")]
    assert len(diffs) >= 5
    for number, outcome in enumerate(diffs):
        copy = tmp_path / str(number)
        shutil.copytree(CORPUS / corpus, copy)
        subprocess.run(
            ["git", "apply", "--unidiff-zero", "-"], input=outcome.fix, text=True, cwd=copy, check=True, timeout=60
        )
        after = _gate(copy, Path(outcome.launch.file), monkeypatch)
        assert _failing(after, outcome) < _failing(before, outcome), f"{outcome.launch.file}\n{outcome.fix}"
