"""What a person has measured, damaged, taken or out of reach: a sentence, exit code 2, and the file as it was."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from planner.validate import store as stores
from planner.validate.run import run as run_trials
from planner.validate.store import Store
from tests.command_line import run, without_rights
from tests.validate_case import Pretended, trial, well

ROOT = Path(__file__).parents[1]
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
LOG = ROOT / "tests" / "logs" / "v0.33.0_started.log"


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("history") / "history.sqlite"
    for length in (2048, 1024):
        list(run_trials([trial(max_model_len=length)], Pretended(well()), Store(path)))
    return path


@pytest.fixture
def history(two_runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(two_runs, tmp_path / "history.sqlite"))


def check_sentence(outcome: tuple[int, str, str], *words: str) -> None:
    code, out, err = outcome
    assert (code, out) == (2, ""), err
    assert err.startswith("vllm-fit: ")
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert "a fault of vllm-fit" not in err
    for word in words:
        assert word in err


def other_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE bookmarks (url TEXT)")


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a page cut off": (lambda path: path.write_bytes(path.read_bytes()[:5000]), "malformed"),
    "the header alone": (lambda path: path.write_bytes(path.read_bytes()[:60]), "malformed"),
    "noise": (lambda path: path.write_bytes(bytes(range(256)) * 50), "not a database"),
    "text": (lambda path: path.write_text("id,model\n1,x\n" * 20), "not a database"),
    "another program's": (other_database, "another program's database"),
    "a newer version's": (lambda path: changed(path, "PRAGMA user_version = 99"), "newer vllm-fit"),
}


def changed(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("command", ["history", "validate"])
def test_a_file_that_is_no_history(kind: str, command: str, history: Path, capsys: Any) -> None:
    damage, word = FILES[kind]
    damage(history)
    before = history.read_bytes()
    words = {
        "history": ("history",),
        "validate": ("validate", MODEL, "--device", "cpu"),
    }
    check_sentence(run(capsys, *words[command], "--store", str(history)), str(history), word)
    assert history.read_bytes() == before
    assert list(history.parent.iterdir()) == [history]


RECORDS = {
    "cut short": "record = substr(record, 1, 100)",
    "another JSON": "record = '[]'",
    "one letter": "record = replace(record, '\"measured\"', '\"pleasured\"')",
    "a number": "record = 7",
    "bytes": "record = x'ff00ff'",
    "nothing": "digest = NULL, record = ''",
    "no owner": "digest = NULL, record = replace(record, '\"measured\"', '\"running\"'), owner = '[]'",
}


@pytest.mark.parametrize("kind", RECORDS)
@pytest.mark.parametrize("words", [("2",), ("--export", "launches", "OUT")])
def test_a_damaged_run_is_named(kind: str, words: tuple[str, ...], history: Path, tmp_path: Path, capsys: Any) -> None:
    changed(history, f"UPDATE runs SET {RECORDS[kind]} WHERE id = 2")
    out = tmp_path / "rows.jsonl"
    words = tuple(str(out) if word == "OUT" else word for word in words)
    check_sentence(run(capsys, "history", *words, "--store", str(history)), str(history), "run 2 is damaged")
    assert not out.exists()
    code, shown, _ = run(capsys, "history", "1", "--store", str(history))
    assert (code, bool(shown)) == (0, True)


@pytest.mark.parametrize("kind", RECORDS)
def test_a_damaged_run_does_not_hide_the_others(kind: str, history: Path, capsys: Any) -> None:
    changed(history, f"UPDATE runs SET {RECORDS[kind]} WHERE id = 1")
    for form, other in (("text", r"^ +2 "), ("json", r'"id": 2,'), ("csv", r"^2,")):
        code, shown, err = run(capsys, "history", "--format", form, "--store", str(history))
        check_sentence((code, "", err), str(history), "run 1 is damaged")
        assert re.search(other, shown, re.MULTILINE)


def test_a_history_of_before_the_digests_is_read_and_kept_up(history: Path) -> None:
    changed(history, "ALTER TABLE runs DROP COLUMN digest")
    changed(history, "PRAGMA user_version = 1")
    store = Store(history)
    assert len(store.runs()) == 2
    store.add(store.runs()[0])
    assert [len(Store(history).runs()), len(store.runs())] == [3, 3]


def test_looking_makes_no_history(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "history.sqlite"
    assert run(capsys, "history", "--store", str(path))[:2] == (0, "no run in the history\n")
    assert not path.exists()
    path.touch()
    assert run(capsys, "history", "--store", str(path))[0] == 0
    assert path.read_bytes() == b""


def test_a_history_in_use(history: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_WAIT_S", 0.1)
    with closing(sqlite3.connect(history)) as database:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("BEGIN EXCLUSIVE")
        check_sentence(run(capsys, "history", "--store", str(history)), str(history), "locked")
    assert len(Store(history).runs()) == 2


# --- no room, no right ------------------------------------------------------------------------------------------------


def apart(code: str, *words: str, data: Path, before: tuple[str, ...] = ()) -> tuple[int, str, str]:
    ended = subprocess.run(
        [*before, sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "XDG_DATA_HOME": str(data)},
        cwd=ROOT,
    )
    return ended.returncode, ended.stdout, ended.stderr


MAIN = "import sys; from planner.cli import main; main(sys.argv[1:])"


WRITERS = {
    "history.sqlite": ("validate", MODEL, "--device", "cpu"),
    "launches.jsonl": ("explain-log", str(LOG), "--gpu", "H100-SXM-80GB", "--save"),
}


@pytest.mark.parametrize("room", [0, 10])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(name: str, room: int, history: Path, tmp_path: Path) -> None:
    """RLIMIT_FSIZE is a disk with room for so much more."""
    folder = tmp_path / "data" / "vllm-fit"
    folder.mkdir(parents=True)
    path = folder / name
    if name == "history.sqlite":
        shutil.copy(history, path)
    else:
        path.write_text(json.dumps({"id": "own-1"}) + "\n")
    before = path.read_bytes()
    full = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + room},) * 2);"
    )
    code, _, err = apart(full + MAIN, *WRITERS[name], data=tmp_path / "data")
    check_sentence((code, "", err), str(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ("history",),
        ("validate", MODEL, "--device", "cpu"),
        ("explain-log", str(LOG), "--gpu", "H100-SXM-80GB", "--save"),
    ],
)
def test_a_folder_that_only_lets_read(words: tuple[str, ...], history: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "vllm-fit"
    folder.mkdir(parents=True)
    shutil.copy(history, folder)
    folder.chmod(0o555)
    try:
        code, _, err = apart(MAIN, *words, data=tmp_path / "data", before=without_rights())
    finally:
        folder.chmod(0o755)
    check_sentence((code, "", err), str(folder))


# --- measurements to fit on -------------------------------------------------------------------------------------------

ROW = {
    "id": "own-1",
    "source": "me",
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "gpu": "H100",
    "vllm_version": "0.19.0",
    "measured": {"available_kv_gib": 50.0},
}
ROWS: dict[str, tuple[str, str]] = {
    "no JSON": ("garbage", "not JSON"),
    "cut short": (json.dumps(ROW)[:50], "not JSON"),
    "a list": ("[1]", "must hold a JSON object"),
    "no source": (json.dumps({**ROW, "source": None}), "source"),
    "a number in quotes": (json.dumps({**ROW, "measured": {"available_kv_gib": "8"}}), "available_kv_gib"),
    "a serving row": (json.dumps({"id": "a", "source": "me", "model": "x", "kind": "serving"}), "measured"),
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_to_fit_on_that_is_damaged(kind: str, tmp_path: Path, capsys: Any) -> None:
    line, word = ROWS[kind]
    path = tmp_path / "own.jsonl"
    path.write_text(f"{json.dumps(ROW)}\n{line}\n")
    check_sentence(run(capsys, "fit-constants", "--also", str(path)), f"{path} line 2", word)


def test_a_serving_row_that_is_damaged(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({**ROW, "kind": "serving", "input_len": "8", "output_len": 8}) + "\n")
    check_sentence(run(capsys, "fit-constants", "--serving", "--also", str(path)), f"{path} line 1", "input_len")
