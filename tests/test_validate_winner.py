"""Several plans: which files hold them, which one wins, how well the ranking was predicted, who runs beside whom."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from planner.engine.launch import LaunchError, Listener
from planner.errors import InputError
from planner.validate import run as runs
from planner.validate.candidates import read_candidates
from planner.validate.run import Outcome, ThisMachine, run
from planner.validate.store import Store
from planner.validate.winner import AIMS, rank
from tests.command_line import run as cli_run
from tests.validate_case import SMALL, Pretended, measured, trial, well


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "history.sqlite")


def test_a_plan_file_and_its_alternatives(capsys, tmp_path):
    path = tmp_path / "plan.json"
    words = ("--gpu", "L4", "--gpus", "2", "--max-model-len", "2048", "--concurrency", "4")
    code, _, err = cli_run(capsys, "fit", "Qwen/Qwen3-8B", *words, "--alternatives", "-o", str(path))
    assert code == 0, err
    found = read_candidates(path)
    assert found[0].request["model"] == "Qwen/Qwen3-8B"
    assert found[0].goal is not None
    assert found[0].goal["concurrency"] == 4
    assert len(found) > 2
    assert len({candidate.label for candidate in found}) == len(found)
    assert all(candidate.request["gpu"] for candidate in found)


def test_recommendations_and_requests(capsys, tmp_path):
    code, out, _ = cli_run(capsys, "recommend", SMALL, "--gpu", "L4,T4", "--max-model-len", "2048", "--format", "json")
    assert code == 0
    path = tmp_path / "plans.json"
    path.write_text(out)
    assert {candidate.request["gpu"] for candidate in read_candidates(path)} == {one["gpu"] for one in json.loads(out)}
    load = {"concurrency": 3, "input_len": 100, "output_len": 20}
    requests = [{"model": SMALL, "max_model_len": 512}, {"model": SMALL, "max_model_len": 1024, "workload": load}]
    path.write_text(json.dumps(requests))
    found = read_candidates(path)
    assert [candidate.label for candidate in found] == [
        "SmolLM2-135M-Instruct len 512",
        "SmolLM2-135M-Instruct len 1024",
    ]
    assert [candidate.goal for candidate in found] == [None, load]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[]", "no launch in it"),
        ("[1]", "entry 1: must be a plan"),
        ('{"plan": 1}', "has no request"),
        ('{"plan": 1, "request": {"model": "x"}, "met": false}', "does not reach its goal"),
        ('[{"serve": "rm -rf /"}]', "not a `vllm serve` line"),
        ('[{"serve": "vllm serve \\"x"}]', "No closing quotation"),
        ('{"gpu": "H100"}', "neither a request nor a model"),
        ('{"plan": 1, "request": {"model": "x"}, "alternatives": 5}', "must be a list"),
        ('{"plan": 1, "request": {"model": "x"}, "goal": {"concurrency": "many"}}', "concurrency"),
        ('[{"model": "x", "workload": {"input_len": 0}}]', "input_len"),
    ],
)
def test_files_that_hold_no_plan(tmp_path, content, told):
    path = tmp_path / "plans.json"
    path.write_text(content)
    with pytest.raises(InputError, match=told):
        read_candidates(path)


def test_the_fastest_measured_wins_and_the_ranking_is_judged(store):
    trials = [trial(name, max_model_len=length) for name, length in (("a", 512), ("b", 1024), ("c", 2048))]
    records = list(run(trials, Pretended(well({"a": 5.0, "b": 9.0, "c": 7.0})), store))
    for number, record in enumerate(records):  # predicted: a < b < c
        record["predicted_speed"][0]["output_tokens_per_s"] = 100.0 + number
    ranking = rank(records, AIMS["output-tokens-per-s"])
    assert ranking is not None
    assert ranking.best["label"] == "b"
    assert [label for label, _, _ in ranking.rows] == ["b", "c", "a"]
    assert ranking.kendall == pytest.approx(1 / 3, abs=1e-3)
    assert ranking.predicted_best is False
    fastest_answer = rank(records, AIMS["ttft"])
    assert fastest_answer is not None
    assert fastest_answer.best["label"] == "b"


def test_who_misses_the_goals_limit_does_not_win(store):
    limited = {"ttft_ms": 120.0}
    trials = [trial("a", goal=limited), trial("b", goal=limited, max_model_len=1024)]
    records = list(run(trials, Pretended(well({"a": 10.0, "b": 5.0})), store))
    records[0]["measurement"]["loads"][0]["ttft_ms"]["mean"] = 500.0
    records[1]["measurement"]["loads"][0]["ttft_ms"]["mean"] = 100.0
    ranking = rank(records, AIMS["output-tokens-per-s"])
    assert ranking is not None
    assert ranking.best["label"] == "b"
    assert ranking.over_limit == ("a",)


def test_trials_share_the_gpus_and_never_one(monkeypatch, store):
    """Four launches of one or two GPUs on three: side by side, each with GPUs of its own."""
    running: dict[str, set[str]] = {}
    most = 0
    lock = threading.Lock()

    def launch(spec, listener: Listener) -> object:
        nonlocal most
        mine = set(spec.environment["CUDA_VISIBLE_DEVICES"].split(","))
        with lock:
            assert not any(mine & others for others in running.values())
            running[spec.name] = mine
            most = max(most, len(running))
        time.sleep(0.3)
        with lock:
            del running[spec.name]
        return measured(trials[0].estimate)

    monkeypatch.setattr(runs, "launch", launch)
    trials = []
    for number, gpus in enumerate((1, 2, 2, 1)):
        one = trial(f"t{number}", max_model_len=512 + number)
        assert one.spec is not None
        spec = replace(one.spec, name=one.label)
        trials.append(replace(one, device="cuda", gpus=gpus, spec=spec))
    records = list(run(trials, ThisMachine(gpus=["0", "3", "GPU-abc"]), store))
    assert {record["status"] for record in records} == {"measured"}
    assert most == 2
    too_large = replace(trials[0], gpus=4)
    with pytest.raises(InputError, match="needs 4 GPUs and this machine has 3"):
        list(run([too_large], ThisMachine(gpus=["0", "3", "GPU-abc"]), store))


def test_cancelled_trials_end_before_the_run_does(monkeypatch, store):
    ended = []

    def launch(spec, listener: Listener) -> object:
        while not listener.cancelled():
            time.sleep(0.02)
        ended.append(spec)
        raise LaunchError("cancelled", kind="cancelled")

    monkeypatch.setattr(runs, "launch", launch)
    results = run([trial(), trial("b", max_model_len=512)], ThisMachine(parallel=2), store)
    monkeypatch.setattr("queue.Queue.get", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert len(ended) == 2
    assert {record["status"] for record in store.runs()} == {"interrupted"}


def _interrupt(*_: object, **__: object) -> object:
    time.sleep(0.3)
    raise KeyboardInterrupt


def test_a_fault_of_the_tool_itself_is_not_swallowed(monkeypatch, store):
    def launch(spec, listener: Listener) -> object:
        raise OSError("no space left")

    monkeypatch.setattr(runs, "launch", launch)
    with pytest.raises(OSError, match="no space left"):
        list(run([trial()], ThisMachine(), store))


def test_outcome_survives_pickling():
    import pickle

    error = LaunchError("why", kind="timeout", log="a log")
    found = pickle.loads(pickle.dumps(Outcome(error=error))).error
    assert (str(found), found.kind, found.log) == ("why", "timeout", "a log")
