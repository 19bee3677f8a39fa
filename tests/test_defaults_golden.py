"""What vLLM fills in by itself, against the statements of its own wheels (tests/golden/make_defaults.py)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from planner.engine.defaults import capture_sizes, default_batch_sizes
from planner.engine.version import parse_version
from planner.hardware.catalogue import find_gpu

ROWS = gzip.decompress((Path(__file__).parent / "golden" / "defaults.jsonl.gz").read_bytes()).decode().splitlines()
VERSIONS = sorted({json.loads(row)["version"] for row in ROWS})
OF_CAPABILITY = {90: "H100-SXM-80GB", 100: "B200"}


def rows(version: str, kind: str) -> Iterator[dict[str, Any]]:
    return (row for row in map(json.loads, ROWS) if row["version"] == version and kind in row)


@pytest.mark.parametrize("version", VERSIONS)
def test_batch_sizes(version: str):
    for row in rows(version, "batch"):
        for usage, expected in row["batch"].items():
            found = default_batch_sizes(find_gpu(row["gpu"]), parse_version(version), usage, {})
            assert list(found) == expected, (row["gpu"], usage)


@pytest.mark.parametrize("version", VERSIONS)
def test_capture_sizes(version: str):
    for row in rows(version, "captured"):
        asked, gpu = row["asked"], find_gpu(OF_CAPABILITY[row["capability"]])
        drafts = asked["num_speculative_tokens"]
        given = {"speculative_config": {"num_speculative_tokens": drafts}} if drafts else {}
        seqs, tokens = asked["max_num_seqs"], asked["max_num_batched_tokens"]
        found = capture_sizes(given, parse_version(version), gpu, seqs, tokens)
        assert list(found) == row["captured"], asked


def test_every_kind_of_row_is_there():
    assert len(VERSIONS) >= 20
    assert all(any(rows(version, kind)) for version in VERSIONS for kind in ("batch", "captured"))
