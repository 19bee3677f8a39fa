"""`vllm-fit validate`: a prediction beside what a real engine measured, to the byte and to the token."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from planner.engine.launch import platform_supports_engine, printed
from planner.engine.measure import Load
from planner.memory.budget import Estimate
from planner.request import prepare
from planner.validate.compare import compare
from planner.validate.trial import CPU_KV_CACHE_BYTES, for_device
from tests.command_line import run
from tests.validate_case import SMALL, measured


def predicted() -> Estimate:
    return for_device(prepare({"model": SMALL, "gpu": "cpu"}), "cpu").estimate()


def test_a_cpu_engine_gets_a_kv_cache_of_its_own_and_exact_figures():
    estimate = predicted()
    assert estimate.kv_cache is not None
    assert estimate.kv_cache.block_size == 128
    assert estimate.basis["kv_cache"] == "exact"
    # 30 layers of 3 KV heads of 64, keys and values in bf16, 128 tokens a block
    assert estimate.kv_cache.bytes_per_block == 30 * 3 * 64 * 2 * 2 * 128
    assert estimate.kv_cache.num_blocks == CPU_KV_CACHE_BYTES // estimate.kv_cache.bytes_per_block


def test_equal_figures_agree_and_a_missing_byte_does_not():
    estimate = predicted()
    assert all(row.difference == 0 for row in compare(estimate, measured(estimate)))
    rows = {row.name: row for row in compare(estimate, measured(estimate, extra_weights=1))}
    assert rows["weights, rank 0"].difference == 1
    assert rows["weights, rank 0"].exact


def test_what_a_gpu_engine_prints_stands_beside_its_prediction():
    """The figures of a real log, next to the prediction of the launch that it is of."""
    log = (Path(__file__).parent / "logs" / "v0.33.0_started.log").read_text()
    estimate = prepare(
        {"model": "Qwen/Qwen3-8B", "gpu": "L4", "vllm_version": "0.33.0", "max_model_len": 4096}
    ).estimate()
    rows = {row.name: row for row in compare(estimate, replace(measured(estimate), printed=printed(log)))}
    assert {"model loading", "available KV cache memory", "CUDA graphs"} <= set(rows)
    assert rows["model loading"].unit == "GiB"
    assert not any(row.exact for name, row in rows.items() if row.unit == "GiB")
    assert rows["KV cache size"].exact is (estimate.basis["kv_cache"] == "exact")


def test_what_would_not_start_is_not_launched(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    words = ("validate", "Qwen/Qwen3-8B", "--device", "cpu", "--kv-cache-memory-bytes", str(1 << 20))
    code, _, err = run(capsys, *words, "--store", str(tmp_path / "history.sqlite"))
    assert code == 2
    assert "not launched, it would not start" in err


def test_a_file_that_is_no_plan_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    path = tmp_path / "plan.json"
    path.write_text('{"plan": 1}')
    code, _, err = run(capsys, "validate", str(path))
    assert code == 2
    assert "no request" in err


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.xdist_group("engine")
@pytest.mark.skipif(not platform_supports_engine("cpu"), reason="no CPU build of vLLM here")
def test_the_real_engine_meets_the_prediction(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Through the command line and a plan file, as a person does it."""
    plan = tmp_path / "plan.json"
    code, _, _ = run(capsys, "fit", SMALL, "--gpu", "L4", "--max-model-len", "2048", "-o", str(plan))
    assert code == 0
    words = ("--device", "cpu", "--concurrency", "2", "--input-len", "16", "--output-len", "8", "--format", "json")
    code, out, err = run(capsys, "validate", str(plan), *words, "--store", str(tmp_path / "history.sqlite"))
    assert code == 0, err
    result = json.loads(out)
    assert result["agrees"]
    rows = {row["name"]: row for row in result["comparisons"]}
    assert rows["weights, rank 0"]["measured"] == rows["weights, rank 0"]["predicted"] == 270_079_072
    assert rows["KV cache size"]["measured"] == rows["KV cache size"]["predicted"]
    load = result["measurement"]["loads"][0]
    assert load["output_tokens_per_s"] > 0
    assert load["load"] == Load(concurrency=2, input_len=16, output_len=8).to_dict() | {"requests": None}
    assert len(load["rounds"]) == 3
    assert 0 < load["ttft_ms"]["p50"] <= load["ttft_ms"]["p90"] < load["e2e_ms"]["p99"]
    assert load["preemptions"] == 0
    engine = result["measurement"]["engine"]
    assert (engine["device"], engine["load_format"], engine["attention_backend"]) == ("cpu", "dummy", "CPU_ATTN")
    assert engine["max_num_seqs"] == result["estimate"]["engine"]["max_num_seqs"]
