"""A running server as it is read: its metrics, its refusals, what is not a vLLM server; with a stand-in over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from planner.engine.api import checked, is_loopback, metrics_of, reserved_port
from planner.engine.bench import Bench
from planner.engine.soak import SoakResult
from planner.errors import InputError
from tests.command_line import run as cli_run
from tests.validate_case import SMALL

METRICS = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{engine="0",model_name="m"} 4.0
vllm:num_preemptions_total{engine="1",model_name="m"} 1.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="128",cache_dtype="auto",gpu_memory_utilization="0.92",\
kv_cache_max_concurrency="5.6875",kv_cache_memory_bytes="1073741824",kv_cache_size_tokens="46592",\
num_gpu_blocks="364"} 1.0
"""


class Handler(BaseHTTPRequestHandler):
    metrics = METRICS

    def do_GET(self) -> None:
        answers = {
            "/metrics": self.metrics,
            "/version": json.dumps({"version": "0.32.0"}),
            "/v1/models": json.dumps({"data": [{"id": "m", "root": SMALL, "max_model_len": 8192}]}),
        }
        body = answers.get(self.path, "").encode()
        self.send_response(200 if body else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


def test_metrics():
    found = metrics_of(METRICS)
    assert (found.block_size, found.num_blocks, found.tokens, found.max_concurrency) == (128, 364, 46592, 5.6875)
    assert (found.running, found.waiting, found.preemptions, found.kv_cache_usage) == (5, 1, 5, 0.75)


def test_older_metrics_lack_some():
    found = metrics_of('vllm:gpu_cache_usage_perc 0.5\nvllm:cache_config_info{num_gpu_blocks="None"} 1.0\n')
    assert (found.num_blocks, found.tokens, found.kv_cache_usage) == (None, None, 0.5)


def test_metrics_of_nothing_known():
    with pytest.raises(InputError, match="Prometheus"):
        metrics_of("<html>{{{")


def test_attach_compares_without_a_launch(server, capsys, tmp_path):
    store = ("--store", str(tmp_path / "history.sqlite"))
    code, out, err = cli_run(capsys, "validate", "--attach", server, "--gpu", "cpu", *store)
    assert code == 0, err
    assert "46,592" in out
    assert "every exact prediction was met" in out
    assert "5 requests running, 1 waiting, 75.0% of the KV cache in use, 5 preemptions" in out
    code, out, _ = cli_run(capsys, "history", *store)
    assert "attach" in out


def test_attach_takes_what_the_command_line_says(server, capsys, tmp_path):
    words = ("--attach", server, "--gpu", "cpu", "--input-len", "9", "--vllm-version", "0.33.0")
    code, out, err = cli_run(capsys, "validate", *words, "--store", str(tmp_path / "history.sqlite"))
    assert code == 0, err
    assert "the engine is vLLM 0.32.0, the prediction is for 0.33.0" in out


def test_attach_says_what_differs(server, capsys, tmp_path):
    store = ("--store", str(tmp_path / "history.sqlite"))
    words = ("--attach", server, "Qwen/Qwen2.5-0.5B", "--gpu", "cpu", "--max-model-len", "8192", "--format", "json")
    code, out, _ = cli_run(capsys, "validate", *words, *store)
    assert code == 1
    assert json.loads(out)["agrees"] is False


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--attach", "127.0.0.1:8000"), "must be an address like"),
        (("--attach", "http://127.0.0.1:1", "--gpu", "L4"), "no answer"),
        (("--load", SMALL), "go with --attach"),
        (("--best", "speed", SMALL), "must be one of"),
        (("--concurrency", "1,x", SMALL), "must be whole numbers"),
        (("--concurrency", "0", SMALL), "must be whole numbers"),
        (("--request-rate", "3", SMALL), "is for `estimate`"),
        (("--prefix-hit-rate", "0.5", SMALL), "is for `estimate`"),
        (("--price-per-gpu-hour", "2", SMALL), "is for `estimate`"),
        (("--input-len", "-3", SMALL), "must be a whole number"),
        (("--attach", "http://127.0.0.1:1", "--soak", "3"), "--attach makes none"),
        (("--attach", "http://127.0.0.1:1", "--parameters", "8B"), "that has no config"),
        (("--input-len", "9000", "--device", "cpu", SMALL), "are more than max_model_len"),
        (("--load-format", "auto", "--device", "cpu", SMALL), "no complete checkpoint"),
    ],
)
def test_wrong_input(capsys, tmp_path, words, told):
    code, out, err = cli_run(capsys, "validate", *words, "--store", str(tmp_path / "history.sqlite"))
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


def test_a_load_goes_to_this_machine_only(tmp_path: Path):
    assert is_loopback("http://127.0.0.1:8000")
    assert is_loopback("http://[::1]:8000")
    assert is_loopback("http://localhost")
    assert not is_loopback("http://10.0.0.7:8000")
    assert not is_loopback("http://127.0.0.1.example.org")
    with pytest.raises(InputError, match="only put on 127"):
        Bench("http://10.0.0.7:8000", "m", "m", tmp_path)


def test_addresses():
    assert checked("http://127.0.0.1:8000/v1/") == "http://127.0.0.1:8000"
    for wrong in ("", "ftp://x", "http://", "x y"):
        with pytest.raises(InputError):
            checked(wrong)


def test_a_reserved_port_is_nobody_elses():
    import socket

    with reserved_port() as port, reserved_port() as other, socket.socket() as taker:
        assert port != other
        with pytest.raises(OSError, match="in use"):
            taker.bind(("127.0.0.1", port))


def soak(**changes: object) -> SoakResult:
    """Thirty requests, each a second long, of an engine that holds."""
    result = {
        "num_prompts": 30,
        "completed": 30,
        "max_concurrency": 4,
        "duration": 30.0,
        "output_throughput": 5.0,
        "start_times": [float(n) for n in range(30)],
        "ttfts": [0.5] * 30,
        "itls": [[0.25, 0.25]] * 30,
        "errors": [""] * 30,
    }
    samples = [{"at": n, "rss": 1 << 30, "devices": None} for n in range(30)]
    event = {"result": result, "memory": samples, "preemptions": 0, "kv_cache_usage": 0.4}
    for name, value in changes.items():
        (event if name in event else result)[name] = value
    return SoakResult.of(event)


def test_a_soak_that_holds():
    assert soak().held
    assert soak().e2e_p50_ms == (1000, 1000, 1000)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"completed": 28, "errors": ["boom"] * 2 + [""] * 28}, "2 of 30 requests failed: boom"),
        ({"preemptions": 7}, "7 preemptions in 30 requests"),
        ({"ttfts": [0.5] * 20 + [1.5] * 10}, "answers became slower: median 1,000 ms at first, 2,000 ms at last"),
        ({"memory": [{"at": n, "rss": (10 + n) << 28, "devices": None} for n in range(30)]}, "host memory grew from"),
        (
            {"memory": [{"at": n, "rss": 1 << 30, "devices": (1 << 33, n << 30)} for n in range(30)]},
            "GPU memory grew from",
        ),
    ],
)
def test_a_soak_that_does_not(changes, told):
    found = soak(**changes)
    assert not found.held
    assert any(told in finding for finding in found.findings)
