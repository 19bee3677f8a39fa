"""The history: what is stored when, what is found again, and what a run that broke off leaves."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from planner.validate.run import run
from planner.validate.store import Store
from tests.command_line import run as cli_run
from tests.validate_case import Pretended, failing, trial, well


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data" / "history.sqlite")


def test_a_result_is_stored_with_prediction_measurement_versions_and_hardware(store):
    (record,) = run([trial()], Pretended(well()), store)
    (stored,) = store.runs()
    assert stored == json.loads(json.dumps(record))
    assert stored["status"] == "measured"
    assert stored["agrees"] is True
    assert stored["estimate"]["status"] == "fits"
    assert stored["measurement"]["kv_cache"]["tokens"] == stored["estimate"]["kv_cache"]["tokens"]
    assert stored["versions"]["vllm"]
    assert stored["hardware"]["cores"]
    rows = {row["name"]: row for row in stored["comparisons"]}
    assert rows["weights, rank 0"]["difference"] == 0
    assert rows["output tokens/s at 4"]["measured"] == 10.0
    assert rows["output tokens/s at 4"]["predicted"] > 0
    assert not rows["output tokens/s at 4"]["exact"]


def test_what_was_measured_before_an_interrupt_is_kept(store):
    with pytest.raises(KeyboardInterrupt):
        list(run([trial()], Pretended(lambda _: KeyboardInterrupt()), store))
    (stored,) = store.runs()
    assert stored["status"] == "interrupted"
    assert stored["measurement"]["startup_s"] == 2.0
    assert stored["measurement"]["kv_cache"]["tokens"] > 0


def test_an_interrupted_run_goes_on_where_it_was(store):
    trials = [trial("a"), trial("b", max_model_len=1024), trial("c", max_model_len=512)]

    def stops_at_b(one):
        return KeyboardInterrupt() if one.label == "b" else well()(one)

    with pytest.raises(KeyboardInterrupt):
        list(run(trials, Pretended(stops_at_b), store, again=False))
    place = Pretended(well())
    records = list(run(trials, place, store, again=False))
    assert place.launched == ["b", "c"]
    assert {record["label"]: record.get("from_store", False) for record in records} == {
        "a": True,
        "b": False,
        "c": False,
    }
    assert all(record["agrees"] for record in records)
    place = Pretended(well())
    list(run(trials, place, store, again=True))
    assert place.launched == ["a", "b", "c"]


def test_another_load_or_flag_is_another_result(store):
    keys = {trial().key, trial(max_model_len=1024).key, trial(kv_cache_memory_bytes=1 << 29).key}
    assert len(keys) == 3
    assert trial("other name").key == trial().key


def test_a_failed_start_is_a_result_with_its_explanation(store):
    log = Path(__file__).parent.joinpath("logs", "v0.29.0_no_cache_blocks.log").read_text()
    (record,) = run([trial()], Pretended(failing("No available memory for the cache blocks.", log)), store)
    assert record["status"] == "failed"
    assert record["agrees"] is False
    assert record["explanation"]["diagnosis"]["code"]
    assert record["explanation"]["printed"]["model_loading_gib"] > 0
    place = Pretended(well())
    list(run([trial()], place, store, again=False))
    assert place.launched == []


def test_a_run_whose_process_is_gone_was_interrupted(tmp_path):
    script = """
        import sys
        from pathlib import Path
        from planner.validate.record import begun
        from planner.validate.store import Store
        from tests.validate_case import trial
        Store(Path(sys.argv[1])).add(begun(trial()))
    """
    path = tmp_path / "history.sqlite"
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(path)], check=True)
    (stored,) = Store(path).runs()
    assert stored["status"] == "interrupted"


def test_many_writers_at_once(store):
    def write() -> None:
        for _ in range(5):
            list(run([trial()], Pretended(well()), Store(store.path)))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [record["status"] for record in store.runs()] == ["measured"] * 20


def test_an_empty_file_becomes_a_history(tmp_path):
    path = tmp_path / "history.sqlite"
    path.touch()
    assert Store(path).runs() == []


def test_history_lists_shows_and_exports(store, capsys, tmp_path):
    list(run([trial(), trial("b", max_model_len=1024)], Pretended(well()), store))
    where = ("--store", str(store.path))
    code, out, _ = cli_run(capsys, "history", *where)
    assert code == 0
    assert len(out.splitlines()) == 3
    code, out, _ = cli_run(capsys, "history", *where, "--format", "json", "--last", "1")
    assert [run["label"] for run in json.loads(out)] == ["b"]
    code, out, _ = cli_run(capsys, "history", *where, "--format", "csv")
    assert out.splitlines()[1].split(",")[2] == "measured"
    code, out, _ = cli_run(capsys, "history", "2", *where)
    assert "every exact prediction was met" in out
    for absent in ("7", str(10**30)):
        code, _, err = cli_run(capsys, "history", absent, *where)
        assert code == 2
        assert f"has no run {absent}" in err


def test_what_gpus_measured_is_exported_for_fit_constants(capsys, tmp_path):
    """The figures of a real log of an L4, through a record, an export and the calibration's own readers."""
    from planner.calibration.launches import Launch, launch_of
    from planner.calibration.serving_rows import Case, cases
    from planner.engine.launch import printed
    from planner.planning.change import request_of
    from planner.request import prepare
    from planner.validate.export import launch_rows, serving_rows
    from planner.validate.trial import Options, trial_of

    log = Path(__file__).parent.joinpath("logs", "v0.33.0_started.log").read_text()
    figures = printed(log)
    assert figures["model_loading_gib"] > 0
    inputs = prepare({"model": "Qwen/Qwen3-8B", "gpu": "L4", "vllm_version": "0.33.0", "max_model_len": 4096})
    one = trial_of("one", inputs, Options(device="cuda", input_len=100, output_len=50))
    store = Store(tmp_path / "history.sqlite")
    (record,) = run([one], Pretended(well({"one": 50.0})), store)
    assert request_of(inputs).items() <= record["request"].items()
    record["measurement"]["printed"] = figures
    record["measurement"]["engine"] = {}
    (row,) = launch_rows([record])
    assert row["measured"]["model_loading_gib"] == figures["model_loading_gib"]
    launch = launch_of(json.loads(json.dumps(row)))
    assert isinstance(launch, Launch)
    assert launch.measured("available_kv_gib") == figures["available_kv_gib"]
    assert launch.flags_known
    (served,) = serving_rows([record])
    path = tmp_path / "serving.jsonl"
    path.write_text(json.dumps(served) + "\n")
    found = [case for case in cases(path)[0] if case.row["id"] == served["id"]]
    assert isinstance(found[0], Case)
    assert found[0].measured


def test_cpu_engines_measure_nothing_that_is_fitted(store):
    from planner.validate.export import launch_rows, serving_rows

    (record,) = run([trial()], Pretended(well()), store)
    assert launch_rows([record]) == serving_rows([record]) == []
