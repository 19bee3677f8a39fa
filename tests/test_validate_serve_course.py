"""The course of a served launch, with a stand-in for vLLM's command line, so fast: how it loads, fails and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from planner.engine import launch as launch_module
from planner.engine.launch import EngineSupport, LaunchError, LaunchSpec, Listener, Soak, launch
from planner.engine.measure import Load
from planner.validate.store import Store
from tests.test_validate_process import MARK, SMALL, marked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="engines run on POSIX systems")

VLLM = """
import json, os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

def value(flag):
    return sys.argv[sys.argv.index(flag) + 1]

RANK = {
    "rank": 0, "engine": {"vllm_version": "0.32.0", "device": "cpu"}, "loaded": [{"parameters": 70, "buffers": 7}],
    "resident": [], "model_loading_bytes": None, "available_kv_bytes": 999, "peak_activation_bytes": None,
    "cuda_graph_bytes": None, "attention_backends": ["CPU_ATTN"], "kv_cache_groups": [],
}

def main():
    serve() if sys.argv[1] == "serve" else bench()

def serve():
    assert value("--host") == "127.0.0.1"
    if "DIE_AT_START" in os.environ:
        print("ValueError: no luck today", flush=True)
        sys.exit(1)
    seen = {"metrics": 0}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen["metrics"] += self.path == "/metrics"
            if "DIE_UNDER_LOAD" in os.environ and seen["metrics"] > 3:
                print("RuntimeError: out of luck", flush=True)
                os._exit(7)
            preemptions = 1 if seen["metrics"] > 4 else 0
            self.answer({
                "/health": "ok",
                "/version": '{"version": "0.32.0"}',
                "/v1/models": json.dumps({"data": [{"id": value("--served-model-name"), "max_model_len": 64}]}),
                "/metrics": 'vllm:cache_config_info{block_size="16",num_gpu_blocks="9",kv_cache_size_tokens="144"} 1\\n'
                            f"vllm:kv_cache_usage_perc 0.5\\nvllm:num_preemptions_total {preemptions}\\n",
            }[self.path])
        def do_POST(self):
            self.answer(json.dumps({"results": [RANK]}))
        def answer(self, text):
            self.send_response(200); self.end_headers(); self.wfile.write(text.encode())
        def log_message(self, *_):
            pass

    ThreadingHTTPServer.allow_reuse_port = True
    ThreadingHTTPServer(("127.0.0.1", int(value("--port"))), Handler).serve_forever()

def bench():
    if "BENCH_FAILS" in os.environ:
        sys.exit("ValueError: the load generator has its own ideas")
    assert value("--base-url").startswith("http://127.0.0.1:")
    time.sleep(float(os.environ.get("BENCH_SECONDS", "0.6")))
    n = int(value("--num-prompts"))
    result = {
        "num_prompts": n, "completed": n - 1, "max_concurrency": int(value("--max-concurrency")), "duration": 1.0,
        "request_throughput": 20.0, "output_throughput": float(value("--seed")), "total_token_throughput": 9.0,
        "start_times": list(range(n)), "ttfts": [0.1] * n, "itls": [[0.1]] * n, "errors": ["boom"] + [""] * (n - 1),
    }
    for name in value("--percentile-metrics").split(","):
        result[f"mean_{name}_ms"] = 5.0
        for percent in value("--metric-percentiles").split(","):
            result[f"p{percent}_{name}_ms"] = float(percent)
    (Path(value("--result-dir")) / value("--result-filename")).write_text(json.dumps(result))
"""


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that, on PYTHONPATH, has the stand-in."""
    package = tmp_path / "site" / "vllm" / "entrypoints" / "cli"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "main.py").write_text(VLLM)
    monkeypatch.setattr("planner.engine.process.ASK_S", 0.5)
    monkeypatch.setattr(launch_module, "platform_supports_engine", lambda *_: EngineSupport(version="0"))
    return tmp_path / "site"


def spec(vllm: Path, *, soak: Soak | None = None, **environment: str) -> LaunchSpec:
    return LaunchSpec(
        name="tiny",
        config={"vocab_size": 100},
        engine_args={"max_model_len": 64},
        way="serve",
        loads=(
            Load(concurrency=1, input_len=4, output_len=2, rounds=2),
            Load(concurrency=3, input_len=4, output_len=2, rounds=1),
        ),
        soak=soak,
        timeout_s=60,
        environment={MARK: "yes", "PYTHONPATH": str(vllm), **environment},
    )


def test_loads_and_soak(vllm):
    texts: list[str] = []
    soak = Soak(minutes=0.01, concurrency=6, input_len=4, output_len=2)
    found = launch(spec(vllm, soak=soak), Listener(on_progress=texts.append))
    assert found.weights_bytes == (77,)
    assert (found.kv_cache.num_blocks, found.kv_cache.tokens, found.kv_cache.available_kv_bytes) == (9, 144, 999)
    assert found.engine["attention_backend"] == "CPU_ATTN"
    first, second = found.loads
    # the stand-in's throughput is the seed: prompts of their own in each round
    assert (first.rounds, second.rounds) == ((1001.0, 1002.0), (2001.0,))
    assert first.output_tokens_per_s == 1001.5
    assert first.ttft_ms.p99 == 99
    assert first.failed == 2
    assert first.kv_cache_usage == 0.5
    assert sum(load.preemptions for load in found.loads) <= 1
    assert found.soak is not None
    assert (found.soak.requests, found.soak.concurrency, found.soak.failed) == (24, 6, 1)
    assert found.soak.errors == ("boom",)
    assert found.memory is not None
    assert found.memory.rss_under_load >= found.memory.rss_started > 0
    assert "load 2/2: round 1/1" in texts
    assert not marked()


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"DIE_AT_START": "1"}, "no luck today"),
        ({"DIE_UNDER_LOAD": "1"}, "out of luck"),
        ({"BENCH_FAILS": "1"}, "vllm bench serve failed: ValueError: the load generator has its own ideas"),
    ],
)
def test_what_fails_says_why_and_leaves_nothing(vllm, environment, told):
    with pytest.raises(LaunchError) as caught:
        launch(spec(vllm, **environment))
    assert told in str(caught.value)
    assert caught.value.kind == "failed"
    assert not marked()
    assert caught.value.log_path is not None
    caught.value.log_path.unlink()


def test_a_server_that_is_never_up_is_out_of_time(vllm):
    (vllm / "vllm" / "entrypoints" / "cli" / "main.py").write_text("import time\ndef main(): time.sleep(600)\n")
    slow = LaunchSpec(
        config={}, engine_args={}, way="serve", timeout_s=2, environment={MARK: "yes", "PYTHONPATH": str(vllm)}
    )
    with pytest.raises(LaunchError, match="not finished after 2 s") as caught:
        launch(slow)
    assert caught.value.kind == "timeout"
    assert not marked()
    assert caught.value.log_path is not None
    caught.value.log_path.unlink()


def test_killed_under_load_leaves_nothing_running_and_a_partial_result(vllm, tmp_path):
    """SIGKILL of the command: server and load generator notice, and the history has the rounds that were done."""
    (tmp_path / "tmp").mkdir()
    store = tmp_path / "history.sqlite"
    words = ["validate", SMALL, "--device", "cpu", "--serve", "--rounds", "50", "--store", str(store)]
    script = f"""
        from planner import cli
        from planner.engine import launch
        from planner.validate import commands
        supported = lambda *_: launch.EngineSupport(version="0")
        launch.platform_supports_engine = commands.platform_supports_engine = supported
        cli.main({words!r})
    """
    environment = {
        **os.environ,
        MARK: "yes",
        "TMPDIR": str(tmp_path / "tmp"),
        "PYTHONPATH": os.pathsep.join([str(vllm), os.environ.get("PYTHONPATH", "")]),
    }
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.PIPE, text=True, env=environment
    ) as command:
        assert command.stderr is not None
        lines: list[str] = []
        while "round 3/50" not in (lines or [""])[-1]:
            lines.append(command.stderr.readline())
            assert lines[-1], lines
        assert marked()
        command.send_signal(signal.SIGKILL)
        command.wait(10)
    deadline = time.monotonic() + 10
    while marked() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not marked()
    assert not list((tmp_path / "tmp").glob("vllm-fit-*"))
    (run,) = Store(store).runs()
    assert run["status"] == "interrupted"
    assert len(run["measurement"]["loads"][0]["rounds"]) >= 2
