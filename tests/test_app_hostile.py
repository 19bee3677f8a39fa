"""Whatever a link, an upload, a pasted log or a damaged history holds: a page shows a sentence, in time."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hf_configs
from app import session, uploads
from app.state import NUMBERS, State
from planner.errors import InputError
from planner.validate.record import begun, with_measurement
from planner.validate.store import Store
from tests.app_page import VIEWS, checked, opened, said
from tests.validate_case import measured, trial

SMALL: dict[str, Any] = {"model": "Qwen/Qwen3-0.6B", "gpu": "A10"}
CONFIG: dict[str, Any] = json.loads(hf_configs.path("Qwen/Qwen3-0.6B").read_text(encoding="utf-8"))
SECONDS = 20
"""What a page may take on a busy machine. Each is done in one or two."""

# -- links ---------------------------------------------------------------------------------------------------------

KEYS = [*State().to_dict(), *session.VIEW_KEYS, "vs", "page", ""]
WRONG = (
    *("0", "-1", "1.5", "1e308", "-1e308", "5e-324", "NaN", "inf", "9" * 400, "999999", "0x10", "٣", "1_000", "4k"),
    *("true", "null", "[]", "{}", '{"a": 1}', "\x00", "\x1b[31mred", "\u202e", "'", '"', "$(id)", "`id`"),
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "**x**"),
    *("/", "../../../etc/passwd", "/dev/zero", "/dev/stdin", "~root", "http://127.0.0.1:1/", "no/such-model"),
    *("auto", "fp8", "H100", "name", "upload", "numbers", "8B", "x" * 1_000_000, "--enforce-eager " * 20_000),
)
VALUES = st.one_of(st.sampled_from(WRONG), st.text(max_size=30), st.integers(-5, 10**7).map(str))


def in_time(view: str, query: dict[str, Any]) -> str:
    """What the page says."""
    began = time.monotonic()
    told = said(opened(view, **query))
    assert time.monotonic() - began < SECONDS
    return told


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(query=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4), view=st.sampled_from(VIEWS))
def test_any_link_is_a_page_or_a_sentence(query: dict[str, str], view: str) -> None:
    if view == "gpus":  # tries every card, which takes too long here
        view = "compare"
    in_time(view, {**SMALL, **query})


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(numbers=st.dictionaries(st.sampled_from(NUMBERS), st.sampled_from(WRONG), min_size=1))
def test_any_numbers_of_a_model_are_a_page_or_a_sentence(numbers: dict[str, str]) -> None:
    assert in_time("answer", {"by": "numbers", "gpu": "A10", "parameters": "8B", **numbers})


@pytest.mark.parametrize(
    ("view", "query"),
    [
        ("answer", {"cards": "4096", "concurrency": "999999", "input_len": "100M", "output_len": "999999999"}),
        ("what_if", {"cards": "3360", "concurrency": "999999", "chart": "ways"}),
        ("what_if", {"cards": "8", "ttft_ms": "5e-324", "tpot_ms": "1e308", "output_len": "1", "chart": "speed"}),
        ("answer", {"max_num_seqs": "999999999", "max_num_batched_tokens": "999999999", "gpu_memory_gib": "1e300"}),
        ("answer", {"more": "--hf-overrides '{\"num_hidden_layers\": 100000000}'"}),
        ("compare", {"vs": ["x" * 100_000, urlencode({"cards": "1e308"}), urlencode({"model": "\x00"})]}),
        ("gpus", {"prices": "H100, 1e308\nL4, -1"}),
        ("gpus", {"prices": '"' * 100_000}),
        ("gpus", {"prices": "<script>alert(1)</script>, 3"}),
    ],
)
def test_extremes_together_are_a_page_or_a_sentence(view: str, query: dict[str, Any]) -> None:
    assert in_time(view, {**SMALL, **query}) or view == "what_if"


# -- uploads -------------------------------------------------------------------------------------------------------

CONFIGS = {
    "a million layers": json.dumps({**CONFIG, "num_hidden_layers": 10**6}).encode(),
    "a list of layers": json.dumps({**CONFIG, "num_hidden_layers": 10**5, "layer_types": ["full"] * 10**5}).encode(),
    "deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "1e308": json.dumps({**CONFIG, "hidden_size": 1e308}).encode(),
    "400 digits": json.dumps({**CONFIG, "hidden_size": 10**399}).encode(),
    "NaN": json.dumps({**CONFIG, "rope_theta": float("nan")}).encode(),
    "below zero": json.dumps({**CONFIG, "num_attention_heads": -4}).encode(),
    "zero": json.dumps({**CONFIG, "num_attention_heads": 0}).encode(),
    "a number in quotes": json.dumps({**CONFIG, "hidden_size": "1024"}).encode(),
    "an object for a list": json.dumps({**CONFIG, "architectures": {"a": 1}}).encode(),
    "a list for a text": json.dumps({**CONFIG, "quantization_config": {"quant_method": ["x"]}}).encode(),
    "markup": json.dumps({**CONFIG, "architectures": ["<script>alert(1)</script>"]}).encode(),
    "the same key twice": b'{"model_type": "qwen3", "model_type": "llama"}',
    "text": b"import os",
    "binary": random.Random(1).randbytes(100_000),
    "empty": b"",
    "too large": b" " * (uploads.MAX_BYTES + 1),
}


def test_any_upload_is_a_sentence() -> None:
    app = opened(**SMALL, by="upload")
    for name, content in CONFIGS.items():
        began = time.monotonic()
        checked(app.file_uploader[0].set_value(("config.json", content, "application/json")).run())
        assert app.error, name
        assert "<script" not in said(app)
        assert time.monotonic() - began < SECONDS, name


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[1]", b"{", b'{"H100": "free"}', b'{"abacus": 1}', b'{"H100": NaN}']
)
def test_any_price_file_is_a_sentence(content: bytes) -> None:
    app = opened("gpus", **SMALL)
    upload = next(one for one in app.file_uploader if one.label.startswith("A file"))
    checked(upload.set_value(("prices.json", content, "application/json")).run())
    assert "prices.json: " in said(app)


# -- logs ----------------------------------------------------------------------------------------------------------

LINE = "INFO 11-20 10:00:00 [gpu_worker.py:298] Available KV cache memory: 10.00 GiB\n"
LOGS = {
    "10 MB": LINE * (10_000_000 // len(LINE)),
    "one line": "x" * 10_000_000,
    "binary": random.Random(2).randbytes(1_000_000).decode("latin-1"),
    "colours": "\x1b[31m\x1b[2J\x07" * 200_000 + LINE,
    "brackets": "INFO non-default args: " + "{'a': " * 50_000,
    "a number of 5000 digits": "GPU KV cache size: " + "9" * 5_000 + " tokens\nvLLM API server version 0.33.0\n",
    "markup": "vLLM API server version 0.33.0\nValueError: <script>alert(1)</script> ![x](http://e.com/x.png)\n",
}


@pytest.mark.parametrize("name", LOGS)
def test_any_log_is_a_sentence(name: str) -> None:
    app = opened("log", **SMALL)
    began = time.monotonic()
    checked(app.text_area(key="log").set_value(LOGS[name]).run())
    assert said(app)
    assert not any("\x1b" in one.value or "<script" in one.value for one in (*app.markdown, *app.error, *app.warning))
    assert time.monotonic() - began < SECONDS


# -- a damaged history ---------------------------------------------------------------------------------------------


def changed(statement: str) -> Callable[[Path], None]:
    def change(history: Path) -> None:
        with sqlite3.connect(history) as database:
            database.execute(statement)
        database.close()

    return change


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no database": lambda path: path.write_bytes(b"hello"),
    "binary": lambda path: path.write_bytes(random.Random(3).randbytes(20_000)),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "no table": changed("DROP TABLE runs"),
    "a newer one": changed("PRAGMA user_version = 99"),
    "half a record": changed("UPDATE runs SET record = '{'"),
    "another record": changed("UPDATE runs SET record = '[1]'"),
    "no text": changed("UPDATE runs SET record = X'FFFE'"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_history_is_a_sentence(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    store, one = Store(), trial(max_model_len=1024)
    store.add(with_measurement(begun(one), one, measured(one.estimate, trial=one), complete=True))
    DAMAGES[name](store.path)
    assert "history.sqlite" in said(opened("validation", **SMALL, run="1"))


@pytest.mark.parametrize("content", [b"\xff{]\n" * 100, b"[1]\n{}\n", b"null\n"])
def test_damaged_measurements_do_not_stop_a_log_from_being_explained(
    content: bytes, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "vllm-fit").mkdir()
    (tmp_path / "vllm-fit" / "launches.jsonl").write_bytes(content)
    app = opened("log", **SMALL)
    log = Path(__file__).parent / "logs" / "v0.33.0_started.log"
    checked(app.text_area(key="log").set_value(log.read_text(encoding="utf-8")).run())
    assert "it started" in said(app) or "the log does not say enough" in said(app)


def test_what_is_too_long_for_a_link_says_so() -> None:
    with pytest.raises(InputError, match="more than 4,000 characters"):
        State.read({"more": "--enforce-eager " * 20_000})
    with pytest.raises(InputError, match="from 1 to 4096"):
        State.read({"cards": "720720"})
