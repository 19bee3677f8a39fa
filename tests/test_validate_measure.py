"""From raw timings and log lines to what a person reads."""

from __future__ import annotations

from typing import Any

import pytest

from planner.engine import enginelog
from planner.engine.measure import Load, LoadResult, Measurement, Summary

LOAD = Load(concurrency=2, input_len=10, output_len=3, rounds=2)


def round_(duration_s: float, *requests: tuple[float, list[float]]) -> dict[str, Any]:
    return {
        "event": "round",
        "number": 1,
        "duration_s": duration_s,
        "requests": [{"submitted": at, "token_times": times, "preemptions": 1} for at, times in requests],
    }


def test_load_result():
    rounds = [
        round_(2.0, (0.0, [0.5, 0.7, 1.1]), (0.0, [0.6, 0.8, 1.0])),
        round_(4.0, (1.0, [1.5, 2.5, 3.5]), (1.0, [2.0, 2.5, 4.0])),
    ]
    result = LoadResult.of(LOAD, rounds)
    assert result.rounds == (3.0, 1.5)
    assert result.output_tokens_per_s == 2.25
    assert result.total_tokens_per_s == pytest.approx((26 / 2 + 26 / 4) / 2)
    assert result.requests_per_s == 0.75
    assert result.ttft_ms.mean == pytest.approx((500 + 600 + 500 + 1000) / 4)
    assert result.ttft_ms.p50 == pytest.approx(550)
    assert result.tpot_ms is not None
    assert result.tpot_ms.mean == pytest.approx((300 + 200 + 1000 + 1000) / 4)
    assert result.itl_ms is not None
    assert result.itl_ms.p50 == pytest.approx(450)
    assert result.e2e_ms.p90 == pytest.approx(2500 + 0.7 * 500)
    assert result.preemptions == 4


def test_requests_of_one_token_have_no_time_between_tokens():
    result = LoadResult.of(LOAD, [round_(1.0, (0.0, [0.5]))])
    assert result.tpot_ms is None
    assert result.itl_ms is None


def test_summary_of_one_value():
    assert Summary.of([0.25]) == Summary(mean=250, p50=250, p90=250, p99=250)


def rank(number: int, available: int, loaded: list[dict[str, int]] | None) -> dict[str, Any]:
    return {
        "rank": number,
        "loaded": loaded,
        "resident": [{"parameters": 70, "buffers": 5, "attributes": 1}],
        "model_loading_bytes": None,
        "available_kv_bytes": available,
        "peak_activation_bytes": None,
        "cuda_graph_bytes": None,
        "attention_backends": ["CPU_ATTN"],
        "kv_cache_groups": [{"kind": "FullAttentionSpec", "layers": 2, "block_size": 16, "page_size_bytes": 64}],
    }


def test_measurement_of_unequal_ranks():
    draft = {"parameters": 10, "buffers": 0}
    events: list[dict[str, Any]] = [
        {
            "event": "engine",
            "startup_s": 3.0,
            "engine": {"device": "cpu"},
            "kv_cache": {"block_size": 16, "num_blocks": 9, "tokens": 144, "max_concurrency": 1.5},
        },
        {"event": "ranks", "ranks": [rank(0, 500, [{"parameters": 100, "buffers": 5}, draft]), rank(1, 400, None)]},
        round_(1.0, (0.0, [0.5, 0.6])),
        {"event": "done"},
    ]
    measured = Measurement.of(events, [LOAD])
    assert measured.weights_bytes == (115, 76)
    assert measured.kv_cache.available_kv_bytes == 400
    assert measured.engine["attention_backend"] == "CPU_ATTN"
    assert [result.load for result in measured.loads] == [LOAD]
    assert measured.to_dict()["weights_bytes"] == [115, 76]


def test_root_cause_is_the_workers_error_and_not_its_echoes():
    log = """
(EngineCore pid=7) INFO 11-20 20:00:00 [core.py:134] Initializing a V1 LLM engine (v0.32.0) with config: ...
(Worker pid=9) ERROR 11-20 20:00:09 [multiproc_executor.py:990] ValueError: No available memory for the cache blocks.
(EngineCore pid=7) ERROR 11-20 20:00:10 [core.py:1295] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-20 20:00:10 [core.py:1295] Exception: WorkerProc initialization failed due to an exception
Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
    assert enginelog.root_cause(log) == "No available memory for the cache blocks."


def test_root_cause_that_is_no_sentence_keeps_its_type():
    assert enginelog.root_cause("ERROR [core.py:1512] KeyError: 'request-1'") == "KeyError: 'request-1'"


def test_root_cause_of_a_log_without_one():
    assert enginelog.root_cause("INFO all is well\n") is None


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("(Worker pid=1) INFO 11-20 [cpu_model_runner.py:68] Starting to load model /x...", "loading weights"),
        (
            "(EngineCore pid=7) INFO 11-20 [kv_cache_utils.py:2327] CPU KV cache size: 131,072 tokens, Maximum"
            " concurrency for 2,048 tokens per request: 64.00x",
            "CPU KV cache size: 131,072 tokens, Maximum concurrency for 2,048 tokens per request: 64.00x",
        ),
        ("WARNING something else", None),
    ],
)
def test_stage(line, stage):
    assert enginelog.stage(line) == stage
