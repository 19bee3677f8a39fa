"""What is written is written whole or not at all: killed, interrupted, on a full disk, by two at once."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from planner.errors import InputError
from planner.files import replacing, write_text
from tests.command_line import run

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def test_new_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_text(file, "one")
    file.chmod(0o640)
    write_text(file, "zwei ü\n")
    assert file.read_bytes() == "zwei ü\n".encode()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [file]


def test_a_new_file_has_the_mode_that_the_process_gives(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_of_a_link_the_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_pipe_is_written_to_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "through")
    reader.join(10)
    assert read == ["through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_to_not_replaced() -> None:
    write_text(Path(os.devnull), "gone")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")
    with pytest.raises(error):
        _fail_halfway(file, error)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def _fail_halfway(file: Path, error: type[BaseException]) -> None:
    with replacing(file) as temporary:
        temporary.write_text("half")
        raise error


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")
    endless = (
        "import sys; from pathlib import Path; from planner.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary, temporary.open('w') as out:\n"
        "    while True: out.write('half' * 1000); print(flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", endless, str(file)], stdout=subprocess.PIPE, env=ENVIRONMENT, cwd=ROOT
    ) as writer:
        assert writer.stdout is not None
        for _ in range(20):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
    assert file.read_text() == "old"


def test_two_writers_never_mix(tmp_path: Path) -> None:
    """Whatever a reader sees is one writer's whole text."""
    file = tmp_path / "a.json"
    loop = (
        "import sys; from pathlib import Path; from planner.files import write_text\n"
        "for _ in range(150): write_text(Path(sys.argv[1]), sys.argv[2] * 100_000)"
    )
    write_text(file, "0" * 100_000)
    writers = [
        subprocess.Popen([sys.executable, "-c", loop, str(file), digit], env=ENVIRONMENT, cwd=ROOT) for digit in "12"
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        text = file.read_text()
        seen.add(text[0])
        assert text == text[0] * 100_000
        time.sleep(0.001)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen >= {"1", "2"}
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("target", "why"),
    [("missing/a.json", "no such file"), ("folder", "is a folder"), ("file/a.json", "not a directory")],
)
def test_what_cannot_be_written(tmp_path: Path, target: str, why: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=why):
        write_text(tmp_path / target, "x")


# --- commands --------------------------------------------------------------------------------------------------------

WRITERS = {
    "fit": ("fit", LLAMA, "--gpu", "H100", "-o", "OUT.json"),
    "sweep": ("sweep", LLAMA, "--gpu", "H100", "--max-model-len", "1k:100k:1k", "-o", "OUT.csv"),
    "parquet": ("sweep", LLAMA, "--gpu", "H100", "--max-model-len", "1k:100k:1k", "-o", "OUT.parquet"),
    "report": ("report", "PLAN", "-o", "OUT.html"),
    "commands": ("commands", "PLAN", "-o", "OUT.yaml"),
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("plan") / "plan.json"
    words = [sys.executable, "-m", "planner.cli", "fit", LLAMA, "--gpu", "H100", "-o", str(file)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT, cwd=ROOT)
    return file


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file(name: str, tmp_path: Path, plan: Path) -> None:
    """RLIMIT_FSIZE is a disk with room for 10 bytes."""
    words = [word.replace("OUT", str(tmp_path / "out")).replace("PLAN", str(plan)) for word in WRITERS[name]]
    old = Path(words[-1])
    old.write_text("old")
    full = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)); from planner.cli import main; main(sys.argv[1:])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", full, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"vllm-fit: {old}: cannot be written: ")
    assert ended.stderr.lower().endswith("file too large\n")
    assert ended.stderr.count("\n") == 1
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [("models",), ("gpus",), ("estimate", LLAMA, "--gpu", "H100", "--format", "json")])
def test_a_full_disk_behind_standard_output(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "planner.cli", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=ENVIRONMENT,
            cwd=ROOT,
        )
    assert (ended.returncode, ended.stderr) == (2, "vllm-fit: standard output: no space left on device\n")


def test_a_reader_that_goes_away() -> None:
    """`vllm-fit models | head -1` is no error to talk about."""
    with subprocess.Popen(
        [sys.executable, "-m", "planner.cli", "models"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        cwd=ROOT,
    ) as ours:
        assert ours.stdout is not None
        assert ours.stderr is not None
        ours.stdout.close()
        assert ours.stderr.read() == b""


def test_without_a_home(tmp_path: Path) -> None:
    """No HOME, nothing writable, no network: what is in the catalogue needs none of them."""
    ended = subprocess.run(
        [sys.executable, "-m", "planner.cli", "estimate", LLAMA, "--gpu", "H100", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "HOME": "/nonexistent", "PATH": "", "PYTHONUTF8": "1"},
        cwd=tmp_path,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["status"] == "fits"


def test_a_store_that_cannot_be_written(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    log = ROOT / "tests" / "logs" / "v0.33.0_started.log"
    code, out, err = run(capsys, "explain-log", str(log), "--gpu", "H100-SXM-80GB", "--save")
    assert code == 2
    assert "cannot be written" in err
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
