"""Models that the catalogue lacks: looked up on a Hub side by side, within a time limit, or not at all."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hf_configs
from tests.hub_stand_in import Hub

CONFIG = hf_configs.path("Qwen/Qwen3-8B").read_bytes()


def _gate(folder: Path, endpoint: str, *words: str) -> tuple[int, list[dict[str, Any]], float]:
    kept = {key: value for key, value in os.environ.items() if not key.upper().startswith(("HF_", "HUGGING"))}
    environment = {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home"), "NO_PROXY": "127.0.0.1"}
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "planner.cli", "gate", "deploy", "--gpu", "H100", "--format", "json", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)["launches"], time.monotonic() - start


def _deploy(folder: Path, *models: str) -> None:
    (folder / "deploy").mkdir()
    lines = [f"vllm serve {model} --max-model-len 4096\n" for model in models]
    (folder / "deploy" / "serve.sh").write_text("".join(lines))


def test_a_model_of_the_hub_is_judged_and_one_that_is_not_there_is_unknown(tmp_path):
    _deploy(tmp_path, "acme/chat", "acme/missing", "Qwen/Qwen3-8B", "acme/chat")
    with Hub(repos={"acme/chat": {"config.json": CONFIG}}) as hub:
        code, launches, _ = _gate(tmp_path, hub.endpoint)
        assert code == 1
        assert [launch["verdict"] for launch in launches] == ["pass", "unknown", "pass", "pass"]
        assert "no such model" in launches[1]["reasons"][0]["message"]
        asked = len(hub.requests)
        _, launches, _ = _gate(tmp_path, hub.endpoint, "--offline")
        assert [launch["verdict"] for launch in launches] == ["pass", "unknown", "pass", "pass"], "from the cache"
        assert len(hub.requests) == asked, "offline asks nobody"


def test_launches_judged_side_by_side_each_get_their_fix(tmp_path):
    (tmp_path / "deploy").mkdir()
    lines = [f"vllm serve acme/chat --max-model-len 99999 --seed {number}\n" for number in range(40)]
    (tmp_path / "deploy" / "serve.sh").write_text("".join(lines))
    with Hub(repos={"acme/chat": {"config.json": CONFIG}}) as hub:
        _, launches, _ = _gate(tmp_path, hub.endpoint)
    for number, launch in enumerate(launches):
        assert launch["fix"].endswith(f"\n+vllm serve acme/chat --max-model-len 40960 --seed {number}\n")
    assert len(launches) == 40


def test_a_hub_that_never_answers_is_not_waited_for(tmp_path):
    _deploy(tmp_path, "acme/chat", "Qwen/Qwen3-8B")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        code, launches, seconds = _gate(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", "--timeout", "1")
    assert code == 1
    assert [launch["verdict"] for launch in launches] == ["unknown", "pass"]
    assert launches[0]["reasons"][0]["code"] == "hub_timeout"
    assert seconds < 60, "the process ends while the look-up still waits"
