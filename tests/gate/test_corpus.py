"""Files as people write them, each with the verdict and the lines of every launch in it (EXPECTED.jsonl).

After a change that is meant: `python -m tests.gate.test_corpus` writes the files anew; read the difference.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from planner.gate.outcome import Outcome
from planner.gate.run import Options, gate

CORPUS = Path(__file__).parent / "corpus"
CORPORA = sorted(path.parent for path in CORPUS.glob("*/EXPECTED.jsonl"))


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Names in messages are then those of the corpus, whatever it lies below."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _outcomes(corpus: Path) -> list[Outcome]:
    with _inside(corpus):
        return gate([Path()], Options(offline=True))


def _row(outcome: Outcome) -> dict[str, Any]:
    launch = outcome.launch
    return {
        "file": launch.file,
        "line": launch.line,
        "end_line": launch.end_line,
        "verdict": outcome.verdict,
        "fails": outcome.fails,
        "model": launch.model,
        "gpu": outcome.gpu,
        "codes": [reason.code for reason in outcome.reasons],
    }


def _rows(corpus: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (corpus / "EXPECTED.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda path: path.name)
def test_every_launch_has_the_verdict_and_the_lines_expected(corpus):
    found = [_row(outcome) for outcome in _outcomes(corpus)]
    expected = _rows(corpus)
    for row in expected:
        assert row in found
    assert found == expected


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda path: path.name)
def test_no_secret_is_in_what_is_said(corpus):
    for outcome in _outcomes(corpus):
        assert "NeverPrinted" not in json.dumps(outcome.to_dict())


def main() -> None:
    for corpus in CORPORA:
        lines = [json.dumps(_row(outcome)) for outcome in _outcomes(corpus)]
        (corpus / "EXPECTED.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
