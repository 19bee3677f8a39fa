"""`vllm serve` and `vllm bench serve` as users run them, a server that is attached to, and a run that is killed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from planner.validate.store import Store
from tests.cpu_engine import ON_CPU_ENGINE
from tests.test_validate_process import MARK, marked
from tests.validate_case import SMALL

pytestmark = ON_CPU_ENGINE

LENGTHS = ("--input-len", "16", "--output-len", "4", "--max-model-len", "2048")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "planner.cli", "validate", *words]


def result_of(words: Sequence[str]) -> dict[str, Any]:
    ended = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    assert ended.stdout, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    assert ended.returncode == (0 if found["agrees"] and found.get("soak", {}).get("held", True) else 1), ended.stderr
    return found


def equal(record: dict[str, Any]) -> dict[str, float]:
    """Measured figures, every exact one of which was predicted."""
    rows = record["comparisons"]
    assert [row["name"] for row in rows if row["exact"] and row["difference"]] == []
    return {row["name"]: row["measured"] for row in rows}


def test_serve_load_and_soak(tmp_path: Path) -> None:
    store = tmp_path / "history.sqlite"
    words = ("--device", "cpu", "--serve", "--concurrency", "1,2", "--rounds", "2", "--soak", "0.05")
    record = result_of(command(SMALL, *LENGTHS, *words, "--format", "json", "--store", str(store)))
    figures = equal(record)
    assert figures["weights, rank 0"] == 134_515_008 * 2 + 8192 * 64 * 2 + 30 * 4 * 4
    assert figures["KV cache size"] == 364 * 128
    assert figures["maximum concurrency"] == round(364 * 128 / 2048, 2)
    one, two = record["measurement"]["loads"]
    assert [load["load"]["concurrency"] for load in (one, two)] == [1, 2]
    for load in (one, two):
        assert len(load["rounds"]) == 2
        assert load["output_tokens_per_s"] > 0
        assert 0 < load["ttft_ms"]["p50"] <= load["ttft_ms"]["p90"] <= load["ttft_ms"]["p99"] <= load["e2e_ms"]["p99"]
        assert (load["failed"], load["preemptions"]) == (0, 0)
    assert figures["output tokens/s at 2"] == two["output_tokens_per_s"]
    soak = record["measurement"]["soak"]
    assert soak["concurrency"] == 4
    assert soak["requests"] >= 16
    assert (soak["failed"], soak["preemptions"]) == (0, 0)
    assert 0 < soak["kv_cache_usage"] < 0.1
    assert soak["rss"][0] > 1 << 30
    assert record["measurement"]["memory"]["rss_started"] > 1 << 30
    assert record["weights"].startswith("dummy weights")
    (stored,) = Store(store).runs()
    assert stored["status"] == "measured"


def test_attach_to_a_server_and_kill_the_run_that_had_started_it(tmp_path: Path) -> None:
    store = tmp_path / "history.sqlite"
    words = ("--device", "cpu", "--serve", "--concurrency", "1", "--rounds", "100", "--store", str(store))
    surroundings = {**os.environ, MARK: "yes", "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command(SMALL, *LENGTHS, *words), env=surroundings, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as run:
        assert run.stderr is not None
        lines: list[str] = []
        while "round 2/100" not in (lines or [""])[-1]:
            lines.append(run.stderr.readline())
            assert run.poll() is None, lines
        url, log = server_of(marked()), next(tmp_path.glob("vllm-fit-*/engine.log"))
        attached = result_of(
            command("--attach", url, "--gpu", "cpu", "--log", str(log), "--format", "json", "--store", str(store))
        )
        run.kill()
        run.wait(10)
    assert equal(attached)["KV cache size"] == 364 * 128
    assert attached["way"] == "attach"

    deadline = time.monotonic() + 20
    while marked() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not marked()
    assert not list(tmp_path.glob("vllm-fit-*"))
    killed, _ = Store(store).runs()
    assert killed["status"] == "interrupted"
    assert killed["agrees"]
    assert killed["measurement"]["kv_cache"]["tokens"] == 364 * 128
    (load,) = killed["measurement"]["loads"]
    assert len(load["rounds"]) >= 1


def server_of(processes: Sequence[psutil.Process]) -> str:
    """Where the server among them listens: on 127.0.0.1 and nowhere else."""
    listening = [
        address.laddr
        for process in processes
        for address in process.net_connections("inet")
        if address.status == psutil.CONN_LISTEN
    ]
    for ip, port in listening:
        url = f"http://127.0.0.1:{port}"
        if is_http(url):
            assert ip == "127.0.0.1"
            return url
    raise AssertionError(f"no HTTP server among {listening}")


def is_http(url: str) -> bool:
    import httpx

    try:
        return bool(re.match(r"\{", httpx.get(f"{url}/version", timeout=5, trust_env=False).text))
    except httpx.HTTPError:
        return False
