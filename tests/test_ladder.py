"""The ladder: legal, sufficient, minimal, or a no that names what binds."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import cli
from planner.engine.args import parse_flags
from planner.errors import InputError
from planner.planning.ladder import Goal, Plan, fit
from planner.request import prepare

LLAMA_70B = "meta-llama/Llama-3.1-70B-Instruct"
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"


def plan_for(model: str, gpu: str, gpus: int = 1, concurrency: float = 1, **args: object) -> Plan:
    return fit(prepare({"model": model, "gpu": gpu, **args}), Goal(gpus=gpus, concurrency=concurrency))


def taken(plan: Plan) -> list[str]:
    back = {step.summary for step in plan.steps if step.outcome == "taken back"}
    return [step.rung for step in plan.steps if step.outcome == "taken" and step.summary not in back]


def test_what_fits_needs_no_rung():
    plan = plan_for(LLAMA_70B, "L40S", gpus=4, max_model_len=8192)
    assert plan.met
    assert plan.steps == ()
    assert "--tensor-parallel-size 4" in plan.serve_command


def test_more_users_take_the_first_rung_only():
    plan = plan_for(LLAMA_70B, "L40S", gpus=4, concurrency=12, max_model_len=8192)
    assert plan.met
    assert taken(plan) == ["kv-cache-dtype fp8"]
    assert plan.steps[0].after.tokens == pytest.approx(2 * plan.steps[0].before.tokens, rel=0.001)


def test_a_long_context_on_a_small_card_needs_a_rung():
    """Others multiply parameters by bytes and accept it (docs/field: Llama-3.1-8B at 131,072 on 24 GiB)."""
    plan = plan_for(LLAMA_8B, "4090", max_model_len=131072)
    assert not plan.start.fits
    assert plan.met
    assert taken(plan)


def test_an_unneeded_rung_is_taken_back():
    plan = plan_for(LLAMA_70B, "L40S", gpus=4, concurrency=30, max_model_len=8192)
    assert plan.met
    assert [step.outcome for step in plan.steps if step.rung == "kv-cache-dtype fp8"] == ["taken", "taken back"]
    assert "kv_cache_dtype" not in plan.inputs.args


def test_pinned_flags_stay():
    inputs = prepare({"model": LLAMA_70B, "gpu": "L40S", "max_model_len": 8192})
    plan = fit(inputs, Goal(gpus=4, concurrency=12), frozenset({"kv_cache_dtype"}))
    assert "kv_cache_dtype" not in plan.inputs.args
    assert plan.steps[0].outcome == "skipped"
    assert "kept as given" in plan.steps[0].why


def test_a_no_names_the_constraint():
    plan = plan_for("deepseek-ai/DeepSeek-V3", "L4", max_model_len=4096)
    assert not plan.met
    assert plan.binding is not None
    assert plan.to_dict()["serve"] is None


def test_impossible_goals_are_wrong_input():
    inputs = prepare({"model": LLAMA_8B, "gpu": "H100"})
    with pytest.raises(InputError, match="gpus"):
        fit(inputs, Goal(gpus=0))
    with pytest.raises(InputError, match="concurrency"):
        fit(inputs, Goal(concurrency=-1))


def test_the_serve_line_reads_back():
    plan = plan_for(LLAMA_70B, "L40S", gpus=4, concurrency=12, max_model_len=8192)
    args, rest = parse_flags(shlex.split(plan.serve_command)[2:])
    assert rest == [LLAMA_70B]
    assert dict(args) == dict(plan.inputs.args)


def test_a_plan_file_holds_the_request_it_came_from(tmp_path: Path):
    path = tmp_path / "plan.json"
    words = ["fit", LLAMA_8B, "--gpu", "L4", "--max-model-len", "16384", "-o", str(path)]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0
    saved = json.loads(path.read_text())
    again = prepare(saved["request"]).estimate()
    assert again.fits
    assert again.to_dict() == saved["estimate"]


GOALS = st.tuples(
    st.sampled_from([LLAMA_8B, LLAMA_70B, "Qwen/Qwen3-32B", "Qwen/Qwen2.5-7B-Instruct-AWQ", "microsoft/phi-4"]),
    st.sampled_from(["T4", "L4", "4090", "A100-40", "L40S", "H100", "B200"]),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 3, 20]),
    st.sampled_from([2048, 8192, 16384]),
)


@settings(max_examples=40, deadline=None)
@given(GOALS)
def test_every_plan_is_legal_enough_and_minimal(goal: tuple[str, str, int, int, int]):
    model, gpu, gpus, concurrency, length = goal
    plan = plan_for(model, gpu, gpus=gpus, concurrency=concurrency, max_model_len=length)
    if not plan.met:
        assert plan.binding is not None
        return
    assert plan.estimate.fits
    assert plan.estimate.engine is not None
    assert plan.estimate.engine.gpus_per_replica <= gpus
    assert plan.estimate.kv_cache is not None
    assert plan.estimate.kv_cache.max_concurrency >= concurrency
    for index in range(len(plan.changes)):
        inputs = plan.base
        for i, change in enumerate(plan.changes):
            if i != index:
                inputs = change.apply(inputs)
        assert not plan.goal.met(inputs.estimate()), f"{plan.changes[index].summary} is not needed"
