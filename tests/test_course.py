"""A run of requests step by step, and the steady state held against it."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.planning.throughput import Speed, predict, sent_together, speed_of
from planner.planning.throughput.course import Course, course
from planner.planning.throughput.predict import load_of
from planner.planning.throughput.steady import steady
from planner.planning.throughput.step import step_time
from planner.request import prepare
from planner.workload import Workload

LAUNCHES = (
    {"model": "meta-llama/Llama-3.1-8B-Instruct", "gpu": "H100-SXM-80GB", "max_model_len": 16384},
    {"model": "meta-llama/Llama-3.1-8B-Instruct", "gpu": "L40S", "max_model_len": 16384},
    {"model": "Qwen/Qwen3-30B-A3B", "gpu": "H200-SXM", "tensor_parallel_size": 2, "max_model_len": 32768},
    {"model": "openai/gpt-oss-20b", "gpu": "H100-SXM-80GB", "max_model_len": 32768},
)


def _speed(number: int, **more: object) -> Speed:
    inputs = prepare({**LAUNCHES[number], **more})
    return speed_of(inputs, inputs.estimate(), Workload(input_len=1000, output_len=200))


def _run(speed: Speed, lengths: list[tuple[int, int]], clients: int) -> Course:
    load = load_of(Workload(concurrency=clients), 1.0)
    return course(speed.work, speed.rates, speed.limits, load, lengths)


def test_one_client_waits_for_its_own_steps_only():
    speed = _speed(0)
    seen = _run(speed, [(1000, 11)] * 2, 1)
    alone = step_time(speed.work, speed.rates, decoding=0.0, context=0.0, chunk=1000.0, chunk_context=500.0).total
    token = step_time(speed.work, speed.rates, decoding=1.0, context=1006.0).total
    assert seen.ttft == pytest.approx([alone + speed.rates.first_token] * 2)
    assert seen.tpot == pytest.approx([token] * 2, rel=1e-3)
    assert seen.queued == (0.0, 0.0)
    assert seen.duration == pytest.approx(2 * (seen.ttft[0] + 10 * seen.tpot[0]))


def test_a_prompt_longer_than_a_step_takes_several():
    speed = _speed(0, max_num_batched_tokens=512)
    whole, parts = (_run(_speed(0, max_num_batched_tokens=n), [(2000, 1)], 1).ttft[0] for n in (8192, 512))
    assert whole < parts
    assert parts > speed.rates.first_token + 4 * float(
        step_time(speed.work, speed.rates, decoding=0.0, context=0.0, chunk=464.0, chunk_context=0.0).total
    )


def test_clients_that_start_together_stay_together():
    """As in a run of SmolLM or Qwen on the CPU engine: the first request goes alone, the others in one step."""
    speed = _speed(0)
    seen = _run(speed, [(1000, 100)] * 16, 8)
    alone = _run(speed, [(1000, 100)], 1)
    assert max(seen.ttft) > 4 * alone.ttft[0]
    assert sum(seen.ttft) / 16 > 3 * alone.ttft[0]
    inputs = prepare(LAUNCHES[0])
    steadily = predict(inputs, inputs.estimate(), Workload(concurrency=8, input_len=1000, output_len=100))
    assert steadily is not None
    together = sent_together(steadily, 16)
    assert together.point.ttft_ms == pytest.approx(1e3 * sum(seen.ttft) / 16)
    assert together.point.ttft_ms > 2 * steadily.point.ttft_ms
    assert together.point.itl_p50_ms <= together.point.tpot_ms <= together.point.tpot_p90_ms
    assert together.point.output_tokens_per_s == pytest.approx(steadily.point.output_tokens_per_s, rel=0.15)


def test_a_run_of_one_token_has_nothing_between_tokens():
    inputs = prepare(LAUNCHES[0])
    one = predict(inputs, inputs.estimate(), Workload(concurrency=4, output_len=1))
    assert one is not None
    assert sent_together(one, 8).point.tpot_ms == one.point.tpot_ms


def test_pipeline_stages_are_left_to_the_steady_state():
    inputs = prepare({**LAUNCHES[0], "pipeline_parallel_size": 2})
    found = predict(inputs, inputs.estimate(), Workload(concurrency=4))
    assert found is not None
    assert sent_together(found, 8) is found


def test_replicas_share_a_run():
    inputs = prepare({**LAUNCHES[0], "data_parallel_size": 2})
    two = predict(inputs, inputs.estimate(), Workload(concurrency=16))
    one = predict(prepare(LAUNCHES[0]), prepare(LAUNCHES[0]).estimate(), Workload(concurrency=8))
    assert one is not None
    assert two is not None
    halves, whole = sent_together(one, 16).point, sent_together(two, 32).point
    assert whole.output_tokens_per_s == pytest.approx(2 * halves.output_tokens_per_s)
    assert whole.ttft_ms == pytest.approx(halves.ttft_ms)


@given(
    st.integers(0, len(LAUNCHES) - 1),
    st.lists(st.tuples(st.integers(1, 20000), st.integers(1, 60)), min_size=1, max_size=25),
    st.integers(1, 12),
    st.integers(1, 8),
)
@settings(max_examples=60, deadline=None)
def test_every_request_is_served_once(number, lengths, clients, places):
    speed = _speed(number)
    speed = replace(speed, limits=replace(speed.limits, max_num_seqs=float(places)))
    seen = _run(speed, lengths, clients)
    assert len(seen.ttft) == len(seen.queued) == len(lengths)
    assert sum(count for _, count in seen.gaps) == sum(output - 1 for _, output in lengths)
    assert len(seen.tpot) == sum(output > 1 for _, output in lengths)
    assert all(0 <= queued < ttft for queued, ttft in zip(seen.queued, seen.ttft, strict=True))
    assert all(gap > 0 and count > 0 for gap, count in seen.gaps)
    assert seen.duration >= max(seen.ttft)
    # What clients wait for in all is at most their number times the whole run.
    assert sum(seen.ttft) + sum(gap * count for gap, count in seen.gaps) <= clients * seen.duration * (1 + 1e-9)


@pytest.mark.parametrize("number", range(len(LAUNCHES)))
@pytest.mark.parametrize("lengths", [(1000, 1000), (8000, 400), (1000, 100), (300, 40)])
@pytest.mark.parametrize("clients", [1, 4, 32, 128])
def test_the_steady_state_is_where_a_long_run_of_uneven_requests_settles(number, lengths, clients):
    """Without its start and its end, which a steady state has none of."""
    speed = _speed(number)
    rates = replace(speed.rates, crowd=0.0)
    load = load_of(Workload(concurrency=clients, input_len=lengths[0], output_len=lengths[1]), 1.0)
    numbers = random.Random(0)
    uneven = [tuple(round(numbers.uniform(0.6, 1.4) * mean) for mean in lengths) for _ in range(max(14 * clients, 40))]
    seen = course(speed.work, rates, speed.limits, load, uneven)
    found = steady(speed.work, rates, speed.limits, load)
    middle = slice(2 * clients, -clients) if clients > 1 else slice(None)
    tpot, ttft = np.array(seen.tpot)[middle], np.array(seen.ttft)[middle]
    assert found.tpot == pytest.approx(tpot.mean(), rel=0.2)
    assert found.ttft == pytest.approx(ttft.mean(), rel=0.3)
    assert found.tpot_p90 == pytest.approx(np.percentile(tpot, 90), rel=0.3)
    assert 0.5 < found.ttft_p90 / np.percentile(ttft, 90) < 2.5
