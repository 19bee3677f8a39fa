"""A launch leaves nothing running, whatever happens to it; with a stand-in for the engine's process, so fast."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from planner.engine import launch as launch_module
from planner.engine.in_process import CHILD
from planner.engine.launch import EngineSupport, LaunchError, LaunchSpec, Listener, launch
from planner.validate.store import Store

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="engines run on POSIX systems")

MARK = f"VLLM_FIT_TEST_{os.getpid()}"
"""An environment variable by which the processes of a launch are found again, apart from those of other test runs."""

SMALL = "HuggingFaceTB/SmolLM2-135M-Instruct"

STUBBORN_CHILD = """
# starts a process that starts a process; both ignore what they are asked, one in a group of its own
import json, os, signal, subprocess, sys, time
events = json.load(open(sys.argv[1]))["events"]
if sys.argv[-1] == "leaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
if sys.argv[-1] == "branch":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, __file__, sys.argv[1], "leaf"], process_group=0)
    time.sleep(600)
subprocess.Popen([sys.executable, __file__, sys.argv[1], "branch"])
time.sleep(1)
with open(events, "a") as file:
    print(json.dumps({"event": "progress", "text": "up"}), file=file, flush=True)
"""

SPEC = LaunchSpec(config={}, engine_args={}, timeout_s=30, environment={MARK: "yes"})


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Replaces the engine's process by a script; gives the launch a temporary folder of its own."""
    monkeypatch.setattr("planner.engine.process.ASK_S", 0.5)
    monkeypatch.setattr(launch_module, "platform_supports_engine", lambda *_: EngineSupport(version="0"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()

    def use(script: str) -> None:
        child = tmp_path / "child.py"
        child.write_text(textwrap.dedent(script), encoding="utf-8")
        monkeypatch.setattr("planner.engine.in_process.CHILD", child)

    return use


def marked() -> list[psutil.Process]:
    """The live processes that inherited the environment of a launch made here."""
    found = []
    for process in psutil.process_iter():
        try:
            if MARK in process.environ() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def failure(spec: LaunchSpec = SPEC, on_progress: Callable[[str], Any] = lambda text: None) -> LaunchError:
    with pytest.raises(LaunchError) as caught:
        launch(spec, Listener(on_progress=on_progress))
    return caught.value


def test_timeout_ends_every_process(stand_in):
    stand_in(STUBBORN_CHILD + "time.sleep(600)")
    error = failure(LaunchSpec(config={}, engine_args={}, timeout_s=3, environment={MARK: "yes"}))
    assert str(error) == "not finished after 3 s; the last step was: up"
    assert not marked()


def test_crash_ends_every_process_and_keeps_the_log(stand_in):
    stand_in(STUBBORN_CHILD + "print('last words', flush=True); os.kill(os.getpid(), signal.SIGSEGV)")
    error = failure()
    assert str(error) == "the engine's process ended by itself (signal 11); the last step was: up"
    assert "last words" in error.log
    assert error.log_path is not None
    assert "last words" in error.log_path.read_text()
    assert not marked()


def test_interrupt_ends_every_process_and_leaves_no_file(stand_in, tmp_path):
    stand_in(STUBBORN_CHILD + "time.sleep(600)")

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(SPEC, Listener(on_progress=interrupt))
    assert not marked()
    assert not list((tmp_path / "tmp").iterdir())


def test_second_interrupt_does_not_stop_the_cleaning_up(tmp_path):
    """Two Ctrl-C in a row, as an impatient person does, on a real process."""
    child = tmp_path / "child.py"
    child.write_text(STUBBORN_CHILD + "time.sleep(600)", encoding="utf-8")
    # A test run in the background of a shell inherits an ignored SIGINT.
    script = f"""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from pathlib import Path
        from planner.engine import launch as module
        module.in_process.CHILD = Path({str(child)!r})
        module.platform_supports_engine = lambda *_: module.EngineSupport(version="0")
        spec = module.LaunchSpec(config={{}}, engine_args={{}}, environment={{{MARK!r}: "yes"}})
        module.launch(spec, module.Listener(on_progress=lambda text: print(text, flush=True)))
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        while parent.stdout.readline().strip() != "up":
            assert parent.poll() is None
        parent.send_signal(signal.SIGINT)
        time.sleep(1)
        parent.send_signal(signal.SIGINT)
        parent.wait(30)
    assert not marked()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGINT, signal.SIGINT]])
def test_a_signal_ends_the_command_and_its_engines(tmp_path, signals):
    """Two launches side by side, in threads: both end, and the history says so."""
    child, store = tmp_path / "child.py", tmp_path / "history.sqlite"
    child.write_text(STUBBORN_CHILD + "time.sleep(600)", encoding="utf-8")
    plans = [{"model": SMALL, "max_model_len": length} for length in (512, 1024)]
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    words = ["validate", str(tmp_path / "plans.json"), "--device", "cpu", "--parallel", "2", "--store", str(store)]
    script = f"""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from pathlib import Path
        from planner import cli
        from planner.engine import in_process, launch
        from planner.validate import commands
        in_process.CHILD = Path({str(child)!r})
        supported = lambda *_: launch.EngineSupport(version="0")
        launch.platform_supports_engine = commands.platform_supports_engine = supported
        cli.main({words!r})
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, MARK: "yes", "TMPDIR": str(tmp_path)},
    ) as command:
        assert command.stderr is not None
        up: set[str] = set()
        while len(up) < 2:
            line = command.stderr.readline()
            assert line, "ended by itself"
            up |= {line} if line.endswith(": up\n") else set()
        for number in signals:
            command.send_signal(number)
            time.sleep(0.5)
        assert "interrupted" in command.stderr.read()
        command.wait(30)
    assert command.returncode == 130
    assert not marked()
    assert not list(tmp_path.glob("vllm-fit-*"))
    assert [run["status"] for run in Store(store).runs()] == ["interrupted"] * 2


def test_the_childs_own_sentence_is_the_error(stand_in):
    stand_in("""
        import json, sys
        message = ("1 validation error for ModelConfig\\n  Value error, Total number of attention heads (8) must be "
                   "divisible by tensor parallel size (3). [type=value_error, input_value=..., input_type=X]")
        with open(json.load(open(sys.argv[1]))["events"], "a") as file:
            print(json.dumps({"event": "error", "kind": "ValidationError", "message": message}), file=file)
        sys.exit(1)
    """)
    assert str(failure()) == "Total number of attention heads (8) must be divisible by tensor parallel size (3)."


def test_progress_comes_from_the_log_and_from_the_child(stand_in):
    stand_in("""
        import json, sys, time
        print("INFO 11-20 [core.py:134] Initializing a V1 LLM engine (v0.32.0) with config: ...", flush=True)
        time.sleep(0.5)
        with open(json.load(open(sys.argv[1]))["events"], "a") as file:
            print(json.dumps({"event": "progress", "text": "load 1/1: warming up"}), file=file)
        sys.exit(3)
    """)
    texts: list[str] = []
    error = failure(on_progress=texts.append)
    assert texts == ["starting the engine's processes", "load 1/1: warming up"]
    assert str(error).startswith("the engine's process ended by itself (exit code 3)")


def test_child_sees_only_this_machine(stand_in, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "40")  # would override what the plan says
    stand_in("""
        import os
        for name in ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS", "VLLM_HOST_IP", "VLLM_CPU_KVCACHE_SPACE"):
            print(name, os.environ.get(name), flush=True)
    """)
    tail = failure().log.splitlines()
    assert tail == [
        "HF_HUB_OFFLINE 1",
        "VLLM_NO_USAGE_STATS 1",
        "VLLM_HOST_IP 127.0.0.1",
        "VLLM_CPU_KVCACHE_SPACE None",
    ]


def test_too_little_memory_is_said_before_anything_starts(stand_in):
    stand_in("raise SystemExit('started')")
    error = failure(LaunchSpec(config={}, engine_args={}, expected_weights_bytes=1 << 50))
    assert "the CPU engine would take 2097" in str(error)
    assert error.log_path is None


def test_no_engine_is_said_with_the_reason(tmp_path):
    without_vllm = tmp_path / "python"
    without_vllm.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    without_vllm.chmod(0o755)
    error = failure(LaunchSpec(config={}, engine_args={}, engine_python=without_vllm))
    assert str(error).startswith(f"no engine for cpu: vLLM is not installed for {without_vllm}")
    missing = tmp_path / "nothing"
    error = failure(LaunchSpec(config={}, engine_args={}, engine_python=missing))
    assert f"{missing} does not run" in str(error)


@pytest.mark.skipif(not hasattr(os, "getsid"), reason="needs sessions")
def test_parent_that_is_killed_takes_the_engine_with_it(tmp_path):
    """The real child notices; vLLM is replaced by a package that hangs while it is imported."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("import time; time.sleep(600)")
    script = f"""
        from planner.engine import launch as module
        module.platform_supports_engine = lambda *_: module.EngineSupport(version="0")
        environment = {{{MARK!r}: "yes", "PYTHONPATH": {str(tmp_path)!r}}}
        spec = module.LaunchSpec(config={{}}, engine_args={{}}, environment=environment)
        module.launch(spec, module.Listener(on_progress=lambda text: print(text, flush=True)))
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().strip() == "importing vLLM"
        assert marked()
        parent.kill()
    deadline = time.monotonic() + 20
    while marked() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not marked()


def test_a_process_whose_folder_is_gone_ends_with_its_parent_all_the_same(tmp_path):
    """A server and its load share a folder: whichever is cleaned up first removes it."""
    folder = tmp_path / "vllm-fit-shared"
    folder.mkdir()
    child = textwrap.dedent(f"""
        import sys, threading, time
        sys.path.insert(0, {str(CHILD.parent)!r})
        from main import die_with_parent
        threading.Thread(target=die_with_parent, daemon=True).start()
        time.sleep(0.2)
        print("up", flush=True)
        time.sleep(600)
    """)
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], start_new_session=True)"
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=folder, stdout=subprocess.PIPE, env={**os.environ, MARK: "yes"}, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        folder.rmdir()
        parent.kill()
    deadline = time.monotonic() + 20
    while marked() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not marked()
