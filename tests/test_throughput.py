"""The speed model: what it must reach on measurements it has not seen, what must hold whatever the constants."""

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.calibration import serving
from planner.calibration.serving_fit import FOLDS, Predictor, batch_of, fit_constants, fold_of, prior
from planner.calibration.serving_rows import FILES, cases
from planner.errors import InputError
from planner.hardware import cpu_speed
from planner.planning.sweep import Grid, request_of_row, sweep
from planner.planning.throughput import Speed, Throughput, curve, knee, predict, speed_of
from planner.planning.throughput.rates import constants_file
from planner.planning.throughput.steady import Load, at_rate, steady
from planner.planning.throughput.step import distinct_share, step_time
from planner.planning.throughput.table import COLUMNS
from planner.planning.throughput.work import stacked, work_of
from planner.request import answer, prepare
from planner.text_report import throughput_text
from planner.workload import Workload

LLAMA = {"model": "meta-llama/Llama-3.1-8B-Instruct", "gpu": "H100-SXM-80GB", "max_model_len": 16384}


def _predicted(request: dict[str, Any], **workload: Any) -> Throughput:
    inputs = prepare(request)
    found = predict(inputs, inputs.estimate(), Workload(**workload))
    assert found is not None
    return found


# --- accuracy --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged():
    return serving.judge(cases()[0], constants_file()["folds"])


def test_errors_on_sources_left_out_of_the_fit_meet_the_targets(judged):
    found = serving.headline(judged)
    for name, (what, limit) in serving.TARGETS.items():
        assert found[name] <= limit, f"{what}: {found[name]:.1%}, at most {limit:.0%} is wanted"


def test_errors_have_not_worsened(judged):
    for name, error in serving.headline(judged).items():
        assert error <= serving.REACHED[name], name


def test_the_constants_file_states_the_errors_that_its_folds_have(judged):
    for name, error in serving.headline(judged).items():
        assert constants_file()["errors"][name] == pytest.approx(error, abs=0.005)


def test_ranks_of_output_tokens_within_a_model_and_card(judged):
    ranks = serving.kendalls(judged)
    assert len(ranks) == 10
    assert min(ranks.values()) >= serving.KENDALL_TARGET, ranks
    assert min(serving.kendalls(row for row in judged if not row.case.disturbed).values()) >= 0.91


def test_no_source_of_serving_is_far_off(judged):
    for source in {row.case.source for row in judged if row.case.file == FILES[0]}:
        rows = [row for row in judged if row.case.source == source]
        assert serving.median_error(serving.of(rows, figure="tpot")) < 0.23, source
        assert serving.median_error(serving.of(rows, figure="ttft")) < 0.43, source


def test_the_page_states_these_errors(judged):
    page = (Path(__file__).parent.parent / "docs" / "accuracy-serving.md").read_text(encoding="utf-8")
    for name, (what, _) in serving.TARGETS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| {what} |"))
        stated = float(row.split("|")[2].strip().rstrip("%")) / 100
        assert stated == pytest.approx(serving.headline(judged)[name], abs=0.01), "run fit-constants --serving --write"


def test_each_source_is_in_one_fold_and_the_fold_does_not_know_it():
    found, _ = cases()
    folds = fold_of(found)
    assert set(folds.values()) == set(range(FOLDS))
    (fold,) = {folds[case.source] for case in found if "GB10" in case.card}  # it has one publisher
    assert "bandwidth@unified" not in constants_file()["folds"][fold]


def test_a_fit_recovers_constants_from_its_own_predictions():
    found, _ = cases()
    some = [case for case in found if case.source == "meta-llama/Llama-3.1-70B on h100_sxm"][:20]
    names = batch_of(some).names
    truth = {name: prior(name)[0] * (1.2 if name == "kv_bandwidth" else 1.0) for name in names}
    figures = Predictor(batch_of(some)).figures(np.array([truth[name] for name in names]))
    made = [
        replace(case, measured={"tpot": float(figures["tpot"][i]), "ttft": float(figures["ttft"][i])})
        for i, case in enumerate(some)
    ]
    fitted = fit_constants(made)
    again = Predictor(batch_of(made)).figures(np.array([fitted[name] for name in names]))
    assert np.median(np.abs(again["tpot"] / figures["tpot"] - 1)) < 0.01


def test_kendall():
    assert serving.kendall([(1, 10), (2, 20), (3, 30)]) == 1
    assert serving.kendall([(3, 10), (2, 20), (1, 30)]) == -1
    assert serving.kendall([(1, 1), (2, 3), (3, 2)]) == pytest.approx(1 / 3)


# --- physics ---------------------------------------------------------------------------------------------------------


def test_one_request_is_never_faster_than_reading_its_weights():
    for gpu, gbs in (("L40S", 864), ("H100-SXM-80GB", 3350), ("A100 80GB SXM4", 2039)):
        result = _predicted({**LLAMA, "gpu": gpu}, concurrency=1, input_len=128, output_len=128)
        assert result.point.tpot_ms > 15.0e9 / (gbs * 1e9) * 1e3
        assert result.point.tpot_ms < 2.2 * 15.0e9 / (gbs * 1e9) * 1e3


def test_more_requests_give_more_tokens_and_each_waits_longer():
    inputs = prepare(LLAMA)
    points = curve(speed_of(inputs, inputs.estimate(), Workload()), Workload())
    for fewer, more in pairwise(points):
        assert more.output_tokens_per_s > 0.97 * fewer.output_tokens_per_s
        assert more.tpot_ms >= 0.999 * fewer.tpot_ms
        assert more.ttft_ms >= 0.999 * fewer.ttft_ms
    assert points[0].concurrency < knee(points).concurrency < points[-1].concurrency


def test_little_s_law_holds():
    result = _predicted(LLAMA, concurrency=32, input_len=1000, output_len=200).point
    seconds = (result.ttft_ms + 199 * result.tpot_ms) / 1e3
    assert 32 / seconds == pytest.approx(result.requests_per_s, rel=0.02)


def test_requests_beyond_the_kv_cache_queue():
    small = {**LLAMA, "gpu": "L40S", "gpu_memory_utilization": 0.5}
    result = _predicted(small, concurrency=256, input_len=4000, output_len=200)
    assert result.point.running < 100
    assert result.point.queued_ms > 0.5 * result.point.ttft_ms
    assert "the KV cache lets" in result.bound_by
    few = _predicted({**LLAMA, "max_num_seqs": 4}, concurrency=16)
    assert few.point.running == 4
    assert "--max-num-seqs lets 4" in few.bound_by


def test_a_drafts_layers_take_room_from_requests():
    alone = {"model": "Qwen/Qwen3-32B", "gpu": "H200", "max_model_len": 8192}
    draft = {"method": "draft_model", "model": "Qwen/Qwen3-4B", "num_speculative_tokens": 3}
    for request in (alone, {**alone, "speculative_config": draft}):
        found = _predicted({**request, "max_num_seqs": 1024}, concurrency=1024, input_len=1000, output_len=400)
        estimate = prepare(request).estimate()
        assert estimate.kv_cache is not None
        assert found.point.running == pytest.approx(estimate.kv_cache.concurrency_at(1200), rel=0.01)


def test_a_prefix_that_is_cached_saves_its_prefill():
    cold = _predicted(LLAMA, concurrency=8, input_len=8000, output_len=100)
    warm = _predicted(LLAMA, concurrency=8, input_len=8000, output_len=100, prefix_hit_rate=0.9)
    assert warm.point.ttft_ms < 0.5 * cold.point.ttft_ms
    assert warm.point.output_tokens_per_s > cold.point.output_tokens_per_s


def test_a_request_rate_is_served_or_said_to_be_too_much():
    light = _predicted(LLAMA, request_rate=2.0, input_len=500, output_len=100)
    assert light.sustained
    assert light.point.requests_per_s == pytest.approx(2.0, rel=0.1)
    heavy = _predicted(LLAMA, request_rate=500.0, input_len=500, output_len=100)
    assert not heavy.sustained
    assert "more than the engine serves" in heavy.bound_by


def test_experts_touched():
    assert distinct_share(8 / 256, 1) == pytest.approx(8 / 256)
    assert distinct_share(8 / 256, 64) == pytest.approx(0.868, abs=0.001)
    assert distinct_share(1.0, 1) == pytest.approx(1.0)


def test_a_mixture_of_experts_computes_with_its_active_parameters():
    inputs = prepare({"model": "Qwen/Qwen3-30B-A3B", "gpu": "H100-SXM-80GB", "max_model_len": 8192})
    work, kernels = work_of(inputs.estimate(), None)
    active = work.attention_flops + work.mlp_flops + work.expert_flops + work.head_flops
    assert active == pytest.approx(2 * 3.0e9, rel=0.05)
    assert work.expert_bytes == pytest.approx(2 * 29.0e9, rel=0.02)
    assert kernels.experts == "bf16"


def test_weights_in_host_memory_are_read_over_pcie():
    launch = {"model": "meta-llama/Llama-3.1-70B-Instruct", "gpu": "H100-SXM-80GB", "max_model_len": 4096}
    inputs = prepare({**launch, "cpu_offload_gb": 80})
    estimate = inputs.estimate()
    found = predict(inputs, estimate, Workload(concurrency=4))
    assert found is not None
    assert found.point.tpot_ms > 1e3 * estimate.offloaded_bytes / 64e9  # PCIe 5.0 x16
    assert found.decode_shares["weights"] > 0.95
    assert found.speed.basis == "assumed"
    assert "host memory" in found.notes[0]


def test_windows_limit_what_is_read():
    inputs = prepare({"model": "openai/gpt-oss-20b", "gpu": "H100-SXM-80GB", "max_model_len": 8192})
    work, kernels = work_of(inputs.estimate(), inputs.quantization)
    assert work.window == 128
    assert work.kv_window == work.kv_full == 12 * 2 * 8 * 64 * 2
    assert (kernels.attention, kernels.experts) == ("bf16", "fp4_triton")


@pytest.mark.parametrize(
    ("request_", "mlp"),
    [
        ({"model": "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", "gpu": "H100-SXM-80GB"}, "fp8"),
        ({"model": "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", "gpu": "A100 80GB SXM4"}, "fp8_weight"),
        ({"model": "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", "gpu": "L40S"}, "int4_weight"),
        ({"model": "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", "gpu": "L40S"}, "int8"),
        ({"model": "RedHatAI/Llama-3.1-8B-Instruct-NVFP4", "gpu": "B200"}, "fp4"),
    ],
)
def test_kernels(request_, mlp):
    inputs = prepare({**request_, "max_model_len": 4096})
    assert work_of(inputs.estimate(), inputs.quantization)[1].mlp == mlp


def test_tensor_parallelism_costs_collectives_more_over_pcie():
    one = _predicted({**LLAMA, "gpu": "L40S"}, concurrency=1)
    four = _predicted({**LLAMA, "gpu": "L40S", "tensor_parallel_size": 4}, concurrency=1)
    assert one.decode_shares["communication"] == 0
    assert four.decode_shares["communication"] > 0.05
    assert one.point.tpot_ms / 4 < four.point.tpot_ms < one.point.tpot_ms


def test_several_launches_are_computed_at_once():
    speed, other = _speed(0), _speed(1)
    assert list(np.asarray(stacked([speed.work, other.work]).layers)) == [speed.work.layers, other.work.layers]


# --- what must hold for any load and launch ---------------------------------------------------------------------------

LAUNCHES = (
    LLAMA,
    {**LLAMA, "gpu": "L40S", "gpu_memory_utilization": 0.6},
    {"model": "Qwen/Qwen3-30B-A3B", "gpu": "H200-SXM", "tensor_parallel_size": 2, "max_model_len": 32768},
    {"model": "deepseek-ai/DeepSeek-V2-Lite", "gpu": "A100 80GB SXM4", "max_model_len": 32768},
    {"model": "openai/gpt-oss-20b", "gpu": "H100-SXM-80GB", "max_model_len": 32768},
    {
        "model": "Qwen/Qwen3-235B-A22B-FP8",
        "gpu": "H200-SXM",
        "data_parallel_size": 4,
        "tensor_parallel_size": 2,
        "enable_expert_parallel": True,
        "max_model_len": 32768,
    },
)


@cache
def _speed(number: int, **changed: Any) -> Speed:
    inputs = prepare({**LAUNCHES[number], **changed})
    return speed_of(inputs, inputs.estimate(), Workload(input_len=1000, output_len=200))


RATES = (
    "attention_bandwidth",
    "mlp_bandwidth",
    "expert_bandwidth",
    "kv_bandwidth",
    "mlp_flops",
    "expert_flops",
    "pair_flops",
    "link_bandwidth",
)
launches = st.sampled_from(range(len(LAUNCHES)))
lengths = st.integers(16, 8000)


@given(launches, lengths, st.integers(16, 4000), st.sampled_from((1, 2, 8, 30, 100, 400)))
@settings(max_examples=60, deadline=None)
def test_more_at_once_never_gives_fewer_tokens(number, prompt, output, fewer):
    speed, load = _speed(number), Workload(input_len=prompt, output_len=output)
    one, two = curve(speed, load, [fewer, 2 * fewer])
    # A step beyond the captured CUDA graphs is launched kernel by kernel, which can cost more than it brings.
    graphed = two.running / speed.replicas + prompt <= float(speed.rates.graph_tokens)
    assert two.output_tokens_per_s > (0.97 if graphed else 0.7) * one.output_tokens_per_s
    assert two.tpot_ms >= 0.99 * one.tpot_ms
    assert two.ttft_ms >= 0.99 * one.ttft_ms
    assert two.running <= 2 * fewer
    for point in (one, two):
        assert point.ttft_p90_ms >= point.ttft_ms
        assert point.tpot_p90_ms >= point.tpot_ms
        assert point.itl_p90_ms >= point.itl_p50_ms
        assert point.queued_ms <= point.ttft_ms


@given(launches, lengths, st.integers(1, 4000), st.floats(1, 2000), st.floats(0.01, 300))
@settings(max_examples=60, deadline=None)
def test_a_number_gives_what_an_array_gives(number, prompt, output, concurrency, request_rate):
    """Numbers are computed without numpy (elementwise.py)."""
    speed = _speed(number)
    parts = (speed.work, speed.rates, speed.limits)
    load = Load(concurrency=concurrency, input_len=float(prompt), output_len=float(output), cached=0.25)
    several = replace(load, concurrency=np.array([concurrency, 1.0]))
    alone, beside = steady(*parts, load), steady(*parts, several)
    for name in ("running", "ttft", "ttft_p90", "tpot", "tpot_p90", "requests_per_s", "mixed_share"):
        value = getattr(alone, name)
        assert isinstance(value, float)
        assert value == pytest.approx(np.broadcast_to(getattr(beside, name), (2,))[0], rel=1e-9)
    led_to = at_rate(*parts, load, request_rate).concurrency
    assert isinstance(led_to, float)
    found = np.asarray(at_rate(*parts, load, np.array([request_rate, np.nan])).concurrency)
    assert found == pytest.approx([led_to, concurrency], rel=1e-9)


@given(launches, lengths, st.integers(16, 2000), st.sampled_from((1, 4, 32, 200)))
@settings(max_examples=60, deadline=None)
def test_longer_prompts_are_never_faster(number, prompt, output, concurrency):
    speed = _speed(number)
    (short,) = curve(speed, Workload(input_len=prompt, output_len=output), [concurrency])
    (long,) = curve(speed, Workload(input_len=2 * prompt, output_len=output), [concurrency])
    assert long.output_tokens_per_s <= 1.01 * short.output_tokens_per_s
    assert long.ttft_ms >= 0.99 * short.ttft_ms


@given(launches, lengths, st.sampled_from((1, 8, 64)), st.sampled_from(RATES), st.floats(1.05, 3.0))
@settings(max_examples=60, deadline=None)
def test_a_faster_card_is_never_slower(number, prompt, concurrency, rate, factor):
    speed, load = _speed(number), Workload(input_len=prompt, output_len=200)
    faster = replace(speed, rates=replace(speed.rates, **{rate: factor * getattr(speed.rates, rate)}))
    (before,), (after,) = curve(speed, load, [concurrency]), curve(faster, load, [concurrency])
    assert after.output_tokens_per_s >= 0.999 * before.output_tokens_per_s


@given(launches, st.floats(0.0, 0.95), st.sampled_from((1, 16, 64)))
@settings(max_examples=30, deadline=None)
def test_a_cached_prefix_never_slows(number, hit, concurrency):
    speed, load = _speed(number), Workload(input_len=4000, output_len=200)
    (cold,), (warm,) = (
        curve(speed, load, [concurrency]),
        curve(speed, replace(load, prefix_hit_rate=hit), [concurrency]),
    )
    assert warm.ttft_ms <= 1.001 * cold.ttft_ms
    assert warm.output_tokens_per_s >= 0.999 * cold.output_tokens_per_s


def test_the_busiest_expert_parallel_rank_is_waited_for():
    together = {"model": "Qwen/Qwen3-30B-A3B", "gpu": "H200-SXM", "tensor_parallel_size": 4, "max_model_len": 8192}
    spread = {**together, "enable_expert_parallel": True}
    apart, dealt = (_predicted(request, concurrency=16) for request in (together, spread))
    assert 1.0 < dealt.point.tpot_ms / apart.point.tpot_ms < 1.3


def test_weight_only_experts_are_bound_by_unpacking_where_memory_is_fast():
    table = {gpu: _rates_of_int4(gpu) for gpu in ("B200", "A100 80GB SXM4", "RTX 5090")}
    assert table["B200"].expert_unpacking < 0.5 * table["B200"].expert_bandwidth
    assert table["RTX 5090"].expert_unpacking == float("inf")
    assert table["A100 80GB SXM4"].expert_unpacking < table["B200"].expert_unpacking


def _rates_of_int4(gpu: str):
    request = {"model": "Qwen/Qwen3-30B-A3B", "gpu": gpu, "what_if_quantization": "awq", "max_model_len": 4096}
    inputs = prepare(request)
    return speed_of(inputs, inputs.estimate(), Workload()).rates


MINIMAX = {"model": "MiniMaxAI/MiniMax-M2.5", "gpu": "H200-SXM", "tensor_parallel_size": 4, "max_model_len": 8192}


def test_norms_over_all_heads_are_reduced_over_the_ranks():
    """minimax_m2.py has one more all-reduce a layer than qwen3_moe.py, whose norms are per head."""
    counts = {}
    for name in (MINIMAX["model"], "Qwen/Qwen3-235B-A22B-FP8"):
        inputs = prepare({**MINIMAX, "model": name})
        counts[name] = speed_of(inputs, inputs.estimate(), Workload()).work.norm_reduces
    assert list(counts.values()) == [62.0, 0.0]


@pytest.mark.parametrize(
    ("more", "slow"),
    [
        ({"vllm_version": "0.14.0"}, False),
        ({"vllm_version": "0.16.0"}, True),
        ({"vllm_version": "0.16.0", "enable_expert_parallel": True}, False),
        ({"vllm_version": "0.16.0", "gpu": "B200"}, False),
        ({"vllm_version": "0.17.0"}, False),
        ({"vllm_version": "0.26.0", "moe_backend": "flashinfer_cutlass"}, True),
        ({"vllm_version": "0.26.0", "moe_backend": "triton"}, False),
    ],
)
def test_the_experts_backend_that_two_versions_took_on_hopper_is_slower(more, slow):
    inputs = prepare({**MINIMAX, **more})
    rates = speed_of(inputs, inputs.estimate(), Workload()).rates
    assert (rates.expert_backend > 0) == slow


def test_graphs_without_attention_cost_a_launch_in_every_layer():
    def rates(**more):
        inputs = prepare({**LLAMA, **more})
        return speed_of(inputs, inputs.estimate(), Workload()).rates

    both, pieces, decode = (
        rates(compilation_config={"cudagraph_mode": mode} if mode else None)
        for mode in (None, "PIECEWISE", "FULL_DECODE_ONLY")
    )
    assert both.decode_launch == decode.decode_launch == 0.0
    assert pieces.decode_launch == pieces.piecewise == both.piecewise > 0.0
    assert decode.piecewise == decode.launch > both.piecewise
    assert rates(vllm_version="0.10.2").decode_launch > 0.0
    assert rates(vllm_version="0.11.0").decode_launch == 0.0


def test_a_pipeline_needs_requests_to_fill_it():
    base = {"model": "meta-llama/Llama-3.1-70B-Instruct", "gpu": "A100 80GB SXM4", "max_model_len": 8192}
    pipe = {**base, "pipeline_parallel_size": 4}
    one, many = (_predicted(pipe, concurrency=n).point for n in (1, 64))
    whole = _predicted({**base, "tensor_parallel_size": 4}, concurrency=1).point
    assert one.tpot_ms > 2.5 * whole.tpot_ms  # stages work one after the other
    assert many.output_tokens_per_s > 15 * one.output_tokens_per_s


def test_sweep_columns_are_the_predictions():
    request = {
        "model": "Qwen/Qwen3-32B",
        "gpu": "H100",
        "workload": {"concurrency": 48, "input_len": 1500, "output_len": 300},
    }
    grid = Grid(
        gpu=("H100", "L40S"),
        tensor_parallel_size=(1, 2, 4),
        quantization=(None, "what-if:fp8"),
        kv_cache_dtype=(None, "fp8"),
        max_model_len=(4096, 16384),
        max_num_seqs=(8, 256),
    )
    table = sweep(request, grid)
    fitting = table[table.status == "fits"]
    assert 30 < len(fitting) < len(table)
    assert (table[table.status != "fits"].output_tokens_per_s == 0).all()
    for row in fitting.iloc[::7].to_dict("records"):
        alone = answer(request_of_row(request, {str(key): value for key, value in row.items()}))["throughput"]
        for name in COLUMNS:
            assert row[name] == pytest.approx(alone[name], rel=1e-3), (name, row)
    assert "ttft_ms" not in sweep({**request, "workload": None}, grid)


def test_a_request_that_is_too_long_and_a_draft_are_said():
    found = _predicted({**LLAMA, "max_model_len": 1024}, input_len=2000)
    assert "longer than max_model_len" in found.notes[0]
    drafted = {**LLAMA, "speculative_config": {"method": "ngram", "num_speculative_tokens": 3}}
    assert "speculative decoding" in _predicted(drafted).notes[0]
    assert not _predicted(LLAMA).notes


# --- answers ---------------------------------------------------------------------------------------------------------


def test_an_answer_has_throughput_when_a_workload_is_given():
    found = answer({**LLAMA, "workload": {"concurrency": 16, "price_per_gpu_hour": 2.0}})["throughput"]
    json.dumps(found)
    assert {"output_tokens_per_s", "total_tokens_per_s", "ttft_ms", "tpot_ms", "running", "bound_by"} <= set(found)
    assert found["running"] == 16
    assert sum(found["decode_shares"].values()) == pytest.approx(1, abs=0.01)
    per_hour = found["output_tokens_per_s"] * 3600 / 1e6
    assert found["cost_per_million_output_tokens"] == pytest.approx(2.0 / per_hour, rel=0.01)
    assert "throughput" not in answer(LLAMA)


def test_every_figure_says_how_far_off_it_may_be():
    found = answer({**LLAMA, "workload": {"concurrency": 16}})["throughput"]
    for name in ("output_tokens_per_s", "tpot_ms", "ttft_ms"):
        low, high = found["range"][name]
        assert low < high
        assert low < 1.3 * found[name]
        assert high > found[name] / 1.3
        assert 0 < found["error"][name] < 0.5
    rare = answer({**LLAMA, "gpu": "MI250", "workload": {"concurrency": 16}})["throughput"]
    assert rare["basis"] == "assumed"
    low, high = (edge / rare["tpot_ms"] for edge in rare["range"]["tpot_ms"])
    assert high / low > 1.5


def test_the_text_shows_the_ranges():
    inputs = prepare({**LLAMA, "workload": {"concurrency": 16, "price_per_gpu_hour": 2}})
    text = throughput_text(inputs, inputs.estimate())
    assert text.count(" to ") == 3
    assert "cost per million" in text


def test_a_cpu_is_predicted_from_what_was_measured():
    result = answer({**LLAMA, "gpu": "cpu", "kv_cache_memory_bytes": 1 << 33, "workload": {"concurrency": 1}})
    assert result["status"] == "fits"
    assert result["throughput"]["basis"] == "fitted"


@pytest.mark.parametrize(
    "workload",
    [{"request_rate": 0}, {"request_rate": "fast"}, {"prefix_hit_rate": 1.5}, {"concurrency": 1.5}, {"users": 3}],
)
def test_a_wrong_workload_names_its_key(workload):
    with pytest.raises(InputError, match="workload"):
        prepare({**LLAMA, "workload": workload})


def test_null_in_a_workload_is_as_if_not_given():
    nothing = dict.fromkeys(("concurrency", "input_len", "output_len", "request_rate", "prefix_hit_rate"))
    found = answer({**LLAMA, "workload": nothing})
    assert found["throughput"]["workload"] == Workload().to_dict()


def test_a_workload_travels_through_json():
    load = Workload(concurrency=3, request_rate=0.5, prefix_hit_rate=0.25)
    assert prepare({**LLAMA, "workload": load.to_dict()}).workload == load
    assert Workload().to_dict() == {"concurrency": 1, "input_len": 1024, "output_len": 256}


# --- CPU -------------------------------------------------------------------------------------------------------------


def test_on_a_cpu_reading_and_computing_take_from_one_core():
    def step(gpu, tokens):
        inputs = prepare({**LLAMA, "gpu": gpu, **({"kv_cache_memory_bytes": 1 << 33} if gpu == "cpu" else {})})
        speed = speed_of(inputs, inputs.estimate(), Workload())
        return (
            step_time(speed.work, replace(speed.rates, interference=of), decoding=tokens, context=500.0).total
            for of in (0.0, speed.rates.interference, 1.0)
        )

    hidden, found, both = step("cpu", 16.0)
    assert hidden < found == both < 1.5 * hidden
    hidden, found, both = step("H100", 16.0)
    assert hidden == found < both


def test_the_cpu_s_speed_is_measured_once_and_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu_speed.cpu_speed.cache_clear()
    assert cpu_speed.remembered() is None
    first = cpu_speed.cpu_speed()
    assert 0.5 < first.bandwidth_gbs < 3000
    for kernel in (first.linear, first.experts):
        assert 0.1 < kernel.gbs < 3000
        assert 0.001 < kernel.tflops < 500
    assert first.by_engine
    monkeypatch.setattr(cpu_speed, "measure", lambda: pytest.fail("it was measured again"))
    cpu_speed.cpu_speed.cache_clear()
    assert cpu_speed.cpu_speed() == first
    cpu_speed.cpu_speed.cache_clear()


def test_a_cpu_without_the_engine_is_measured_with_numpy(monkeypatch):
    monkeypatch.setattr(cpu_speed, "_KERNEL_SPEED", Path("missing.py"))
    speed = cpu_speed.measure()
    assert not speed.by_engine
    assert speed.linear == speed.experts
    assert 0.1 < speed.linear.gbs < 3000
    assert 0.001 < speed.linear.tflops < 500


def test_a_cpu_rank_keeps_a_core_free_for_the_scheduler():
    kernel = cpu_speed.KernelSpeed(gbs=20.0, tflops=0.2)
    speed = cpu_speed.CpuSpeed(bandwidth_gbs=100.0, linear=kernel, experts=kernel, cores=8, by_engine=True)
    assert speed.of_rank(1, kernel) == pytest.approx((100e9, 1.4e12))
    assert speed.of_rank(2, kernel) == pytest.approx((50e9, 0.6e12))
    assert replace(speed, cores=2).of_rank(1, kernel) == pytest.approx((20e9, 0.2e12))
