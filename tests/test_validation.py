"""`vllm-fit validate`: a prediction beside what a real engine measured, to the byte and to the token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner import cli
from planner.engine.launch import platform_supports_engine
from planner.engine.measure import KvCache, Load, Measurement, RankWeights
from planner.errors import InputError
from planner.memory.budget import Estimate
from planner.planning.validation import CPU_KV_CACHE_BYTES, compare, for_device, validate
from planner.request import prepare

SMALL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def predicted() -> Estimate:
    return for_device(prepare({"model": SMALL, "gpu": "cpu"}), "cpu").estimate()


def measured(estimate: Estimate, extra_weights: int = 0, tokens: int | None = None) -> Measurement:
    kv = estimate.kv_cache
    assert kv is not None
    weights = estimate.stages[0].parameter_bytes + extra_weights
    return Measurement(
        startup_s=1,
        weights=(RankWeights(rank=0, loaded=weights, loaded_buffers=0, resident=0, model_loading=None),),
        kv_cache=KvCache(
            block_size=kv.block_size,
            num_blocks=kv.num_blocks,
            tokens=kv.tokens if tokens is None else tokens,
            max_concurrency=round(kv.max_concurrency, 2),
            available_kv_bytes=CPU_KV_CACHE_BYTES,
            groups=(),
        ),
        peak_activation_bytes=None,
        cuda_graph_bytes=None,
        loads=(),
        engine={},
    )


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


def test_what_would_not_start_is_not_launched():
    inputs = for_device(prepare({"model": "Qwen/Qwen3-8B", "gpu": "cpu", "kv_cache_memory_bytes": 1 << 20}), "cpu")
    with pytest.raises(InputError, match="not launched, it would not start"):
        validate(inputs, "cpu", ())


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
    code, out, err = run(capsys, "validate", str(plan), *words)
    assert code == 0, err
    result = json.loads(out)
    assert result["agrees"]
    rows = {row["name"]: row for row in result["comparisons"]}
    assert rows["weights, rank 0"]["measured"] == rows["weights, rank 0"]["predicted"] == 270_079_072
    assert rows["KV cache size"]["measured"] == rows["KV cache size"]["predicted"]
    load = result["measurement"]["loads"][0]
    assert load["output_tokens_per_s"] > 0
    assert load["load"]["concurrency"] == Load(concurrency=2, input_len=16, output_len=8).concurrency
