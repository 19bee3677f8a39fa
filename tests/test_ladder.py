"""The ladder: legal, sufficient, minimal, or a no that names what binds."""

from __future__ import annotations

import json
import math
import random
import shlex
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import hf_configs
from planner import cli
from planner.engine.args import parse_flags
from planner.errors import InputError
from planner.hardware.catalogue import find_gpu
from planner.planning.alternatives import alternatives
from planner.planning.change import request_of
from planner.planning.goal import Goal
from planner.planning.ladder import fit
from planner.planning.plan import Plan
from planner.planning.prices import read_prices
from planner.planning.recommend import recommend
from planner.planning.replicas import fit_with_replicas
from planner.planning.speed_goal import speed_of
from planner.planning.suggestions import suggestions
from planner.planning.variants import quantized_variants
from planner.request import Inputs, prepare
from planner.units import GIB
from tools.ladder_matrix import CARDS, COUNTS, check, problems

LLAMA_70B = "meta-llama/Llama-3.1-70B-Instruct"
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
AWQ_8B = "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4"


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


def test_rungs_can_be_forbidden_and_reordered():
    inputs = prepare({"model": LLAMA_8B, "gpu": "4090", "max_model_len": 131072})
    assert taken(fit(inputs, Goal(), forbid=("kv-cache-dtype",)))[0] != "kv-cache-dtype fp8"
    assert taken(fit(inputs, Goal(), order=("quantization",)))[0] == "quantization"
    with pytest.raises(InputError, match="unknown rung frob"):
        fit(inputs, Goal(), forbid=("frob",))


def test_requests_shorter_than_the_context_need_less():
    """120 requests of 4,000 tokens at 6,144 of context: the blocks of 4,000 tokens are what counts."""
    inputs = prepare({"model": AWQ_8B, "gpu": "L40S", "max_model_len": 6144, "tensor_parallel_size": 1})
    whole, short = Goal(concurrency=60), Goal(concurrency=60, input_len=3000, output_len=1000)
    assert fit(inputs, whole).steps
    assert fit(inputs, short).steps == ()
    assert not fit(inputs, Goal(concurrency=1, input_len=6000, output_len=1000)).met
    with pytest.raises(InputError, match="input_len"):
        fit(inputs, Goal(input_len=10**6))


def test_a_margin_is_left_over():
    inputs = prepare({"model": LLAMA_8B, "gpu": "L4", "max_model_len": 16384})
    tight = fit(inputs, Goal())
    careful = fit(inputs, Goal(margin_bytes=2 * GIB))
    assert tight.steps == ()
    assert careful.met
    assert careful.steps


def test_the_largest_context_that_fits_is_taken():
    plan = fit(prepare({"model": LLAMA_8B, "gpu": "L4"}), Goal(), forbid=("kv-cache-dtype", "quantization", "batches"))
    assert taken(plan) == ["smaller context"]
    length = plan.inputs.args["max_model_len"]
    one_more = plan.inputs.args.with_(max_model_len=length + 1)
    assert not plan.inputs.estimate(one_more).fits


def test_a_gentler_change_takes_the_place_of_a_dearer_one():
    """4 bits are the best that quantization can do at full context; with a shorter one, 8 bits are enough."""
    plan = plan_for("microsoft/phi-4", "L4", gpus=4, concurrency=32)
    outcomes = [(step.rung, step.outcome) for step in plan.steps]
    assert ("quantization", "taken") in outcomes
    assert ("quantization", "softened") in outcomes
    assert "--quantization fp8" in plan.serve_command


def test_what_a_later_rung_makes_needless_is_taken_back():
    plan = plan_for(LLAMA_70B, "H100", gpus=2)
    assert ("kv-cache-dtype fp8", "taken back") in [(step.rung, step.outcome) for step in plan.steps]
    assert "kv_cache_dtype" not in plan.inputs.args


def test_many_requests_need_as_many_sequences():
    plan = plan_for("Qwen/Qwen2.5-0.5B-Instruct", "L40S", concurrency=400, max_model_len=1024)
    assert plan.met
    assert plan.inputs.args["max_num_seqs"] == 400


def test_several_nodes_are_joined_by_ray():
    plan = plan_for("meta-llama/Llama-3.1-405B-Instruct", "H100", gpus=16, max_model_len=16384)
    assert plan.met
    assert plan.base.args["tensor_parallel_size"] == 8
    plan = fit(plan.base, plan.goal, forbid=("kv-cache-dtype", "quantization"))
    assert plan.inputs.args["pipeline_parallel_size"] == 2
    assert plan.inputs.args["distributed_executor_backend"] == "ray"


def test_two_engines_serve_many_sessions_better_than_two_ranks():
    goal = Goal(gpus=2, concurrency=120, input_len=3000, output_len=1000)
    plan = fit_with_replicas(prepare({"model": AWQ_8B, "gpu": "L40S", "max_model_len": 6144}), goal)
    assert plan.met
    assert plan.engines == 2
    assert "tensor_parallel_size" not in plan.inputs.args
    assert {(split.engines, split.met) for split in plan.splits} == {(1, True), (2, True)}


def test_one_request_is_faster_on_all_cards():
    plan = fit_with_replicas(prepare({"model": AWQ_8B, "gpu": "L40S", "max_model_len": 6144}), Goal(gpus=2))
    assert (plan.engines, plan.inputs.args["tensor_parallel_size"]) == (1, 2)


def test_awq_on_v100_is_refused_and_gptq_offered():
    plan = plan_for("Qwen/Qwen2.5-7B-Instruct-AWQ", "V100-32GB-PCIe", max_model_len=8192)
    assert plan.start.status == "refused"
    assert plan.met
    assert "GPTQ" in plan.changes[0].summary
    kept = fit(plan.base, Goal(), keep=frozenset({"quantization"}))
    assert not kept.met
    assert kept.binding is not None
    assert kept.binding.code == "quantization_needs_capability"


def test_a_tensor_parallel_size_that_is_kept_is_not_enlarged_at_the_start():
    plan = fit(prepare({"model": LLAMA_8B, "gpu": "H100"}), Goal(gpus=4), keep=frozenset({"tensor_parallel_size"}))
    assert plan.met
    assert "tensor_parallel_size" not in plan.inputs.args


def test_suggestions_keep_the_goal():
    inputs = prepare({"model": LLAMA_8B, "gpu": "H100", "max_model_len": 8192, "enforce_eager": True})
    found = suggestions(inputs, Goal(), inputs.estimate())
    assert {"--gpu-memory-utilization 0.95", "without --enforce-eager"} <= {one.flag for one in found}
    by_flag = {one.flag: one for one in found}
    more = by_flag["--gpu-memory-utilization 0.95"]
    assert more.after.concurrency > 1.03 * more.before.concurrency
    graphs = by_flag["without --enforce-eager"]
    assert (graphs.after.output_tokens_per_s or 0) > (graphs.before.output_tokens_per_s or 0) > 0


@pytest.mark.parametrize(
    ("request_", "flag"),
    [
        ({"model": LLAMA_8B, "gpu": "4090", "max_model_len": 8192}, "--gpu-memory-utilization"),  # a display is on it
        ({"model": LLAMA_8B, "gpu": "H100", "gpu_memory_used_gib": 2}, "--gpu-memory-utilization"),
        ({"model": "Qwen/Qwen3-32B", "gpu": "H100", "max_model_len": 16000}, "--max-num-seqs"),  # shorter requests come
    ],
)
def test_what_could_do_harm_is_not_suggested(request_: dict[str, Any], flag: str):
    inputs = prepare(request_)
    estimate = inputs.estimate()
    assert estimate.fits
    assert not [one.flag for one in suggestions(inputs, Goal(), estimate) if one.flag.startswith(flag)]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(hf_configs.names()), st.sampled_from(CARDS), st.sampled_from([None, 2000]))
def test_suggestions_are_what_an_estimate_of_them_says(model: str, gpu: str, length: int | None):
    """Each reaches the goal, warns of nothing new, and leaves room for what is outside the budget."""
    goal = Goal(input_len=length)
    if length and prepare({"model": model, "gpu": gpu}).model.max_position < 4096:
        return
    inputs = prepare({"model": model, "gpu": gpu, **({"max_model_len": 4096} if length else {})})
    estimate = inputs.estimate()
    for one in suggestions(inputs, goal, estimate):
        words = [] if one.flag.startswith("without") else one.flag.split()
        changed = {**request_of(inputs), **dict(parse_flags(words)[0])}
        after = prepare(changed).estimate()
        assert goal.met(after)
        assert len(after.warnings) <= len(estimate.warnings)
        if one.flag.startswith("--gpu-memory-utilization"):
            left = (1 - changed["gpu_memory_utilization"]) * inputs.gpu.known_memory()
            assert left >= after.outside_budget_bytes


def test_no_alternative_is_beaten_by_another():
    inputs = prepare({"model": LLAMA_8B, "gpu": "L40S", "max_model_len": 8192})
    found = alternatives(inputs, Goal(gpus=4, concurrency=64, input_len=3000, output_len=500))
    assert len(found) > 2
    for one in found:
        assert one.estimate.fits
        assert not [
            other
            for other in found
            if other.gpus <= one.gpus
            and other.cost <= one.cost
            and other.concurrency > one.concurrency
            and other.output_tokens_per_s > one.output_tokens_per_s
        ]
    # The most requests at once and the most tokens/s are reached in different ways.
    most = {max(found, key=lambda o: o.concurrency).engines, max(found, key=lambda o: o.output_tokens_per_s).engines}
    assert len(most) == 2


def test_alternatives_count_the_cards_of_every_pipeline_stage():
    inputs = prepare({"model": LLAMA_8B, "gpu": "H100", "max_model_len": 8192, "pipeline_parallel_size": 2})
    found = alternatives(inputs, Goal(gpus=4))
    assert {one.gpus for one in found} == {2, 4}
    for one in found:
        assert one.gpus == one.engines * 2 * one.inputs.args.get("tensor_parallel_size", 1)


def test_alternatives_say_which_meet_the_limits_on_speed():
    inputs = prepare({"model": LLAMA_8B, "gpu": "L40S", "max_model_len": 6144})
    found = alternatives(inputs, Goal(gpus=2, concurrency=40, input_len=3500, output_len=500, tpot_ms=40))
    for one in found:
        assert one.speed is not None
        assert one.meets_goal == (one.concurrency >= 40 and one.speed.point.tpot_ms <= 40)
    assert {one.meets_goal for one in found} == {True, False}


def test_recommendations_reach_the_goal_cheapest_first(tmp_path: Path):
    prices = tmp_path / "prices.csv"
    prices.write_text("gpu,price\nH100,3\nL40S,1\n")
    cards = [find_gpu(name) for name in ("H100", "L40S", "L4")]
    inputs = prepare({"model": "Qwen/Qwen3-32B", "gpu": "H100", "max_model_len": 16384})
    found = recommend(inputs, Goal(concurrency=16), cards, read_prices(prices))
    assert {one.gpu.name for one in found} == {card.name for card in cards}
    known = [one.price_per_hour for one in found if one.price_per_hour is not None]
    assert known == sorted(known)
    assert all(one.plan.met for one in found)
    for wrong, words in (("H100,free\n", "price"), ("H100,3\nH100 SXM,2\n", "two prices, 3 and 2")):
        prices.write_text(wrong)
        with pytest.raises(InputError, match=words):
            read_prices(prices)


def test_recommendations_are_for_the_card_and_the_flags_given(capsys: pytest.CaptureFixture[str]):
    def recommended(*words: str) -> list[dict[str, Any]]:
        assert run("recommend", LLAMA_8B, "--format", "json", "--max-model-len", "8192", *words) == 0
        return list(json.loads(capsys.readouterr().out))

    (two,) = recommended("--gpu", "H100", "--tensor-parallel-size", "2")
    assert (two["gpus"], two["split"]) == (2, "one engine, TP 2")
    whole, half = recommended("--gpu", "H100")[0], recommended("--gpu", "H100", "--gpu-memory-gib", "40")[0]
    assert half["concurrency"] < whole["concurrency"] / 2


def test_sequences_are_suggested_for_each_rank():
    """Four ranks hold 2,100 of these requests, each 525 of them."""
    launch = {"model": "Qwen/Qwen3-0.6B", "gpu": "L4", "max_model_len": 2048, "max_num_batched_tokens": 8192}
    one, four = (prepare({**launch, "data_parallel_size": ranks}) for ranks in (1, 4))
    goal = Goal(gpus=4, input_len=100, output_len=100)

    def flags(inputs: Inputs) -> list[str]:
        return [found.flag for found in suggestions(inputs, goal, inputs.estimate()) if "seqs" in found.flag]

    assert flags(four) == flags(one) != []


def test_two_nodes_are_recommended_where_one_does_not_do():
    inputs = prepare({"model": "deepseek-ai/DeepSeek-V3", "gpu": "H100", "max_model_len": 8192})
    (one,) = recommend(inputs, Goal(), [find_gpu("H100")], forbid=("quantization",))
    assert one.gpus == 16
    assert one.plan.inputs.args["distributed_executor_backend"] == "ray"


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plan = str(tmp_path / "plan.json")
    base = [LLAMA_8B, "--gpu", "L40S", "--max-model-len", "8192"]
    assert run("fit", *base, "--gpus", "2", "--concurrency", "64", "--alternatives", "-o", plan) == 0
    assert "Alternatives" in capsys.readouterr().out
    assert run("fit", *base, "-o", "-") == 0
    assert json.loads(capsys.readouterr().out)["met"]
    assert run("commands", plan, "--format", "kubernetes", "-o", "-") == 0
    assert "replicas: 2" in capsys.readouterr().out
    assert run("recommend", LLAMA_8B, "--gpu", "L4,H100", "--max-model-len", "8192", "--format", "json") == 0
    assert {one["gpus"] for one in json.loads(capsys.readouterr().out)} == {1}
    assert run("sweep", LLAMA_8B, "--gpu", "L4,H100", "--max-model-len", "1024:4096:1024", "-o", "-") == 0
    assert len(capsys.readouterr().out.splitlines()) == 9


@pytest.mark.parametrize(
    "words",
    [
        ["estimate", "--parameters", "8B", "--hidden-size", "²", "--gpu", "L4"],
        ["estimate", "--parameters", "8B", "--hidden-size", "9" * 5000, "--gpu", "L4"],
        ["estimate", "--batch", "-", "--gpu", "L4"],
        ["fit", LLAMA_8B, "--gpu", "H100", "--keep", "frob"],
        ["fit", LLAMA_8B, "--gpu", "H100", "--forbid", "frob"],
        ["fit", LLAMA_8B, "--gpu", "H100", "--gpus", "4", "--engines", "3"],
        ["fit", LLAMA_8B, "--gpu", "H100", "--margin-gib", "-1"],
        ["fit", LLAMA_8B, "--gpu", "H100", "--gpus", "1", "--tensor-parallel-size", "2"],
        ["sweep", LLAMA_8B, "--gpu", "H100", "--max-model-len", "0"],
        ["sweep", LLAMA_8B, "--gpu", "H100", "-o", "x.txt"],
        ["fit", LLAMA_8B, "--gpu", "H100", "--engines", "0"],
        ["recommend", LLAMA_8B, "--prices", "nowhere.json"],
        ["recommend", LLAMA_8B, "--gpu", "L4,H100", "--gpu-memory-gib", "20"],
        ["commands", "nowhere.json"],
    ],
)
def test_wrong_words_are_one_line(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    return int(ended.value.code or 0)


GOALS = st.builds(
    Goal,
    gpus=st.sampled_from([1, 2, 3, 4, 6, 8, 16]),
    concurrency=st.sampled_from([1, 3, 20, 300]),
    input_len=st.sampled_from([None, 500, 4000]),
    output_len=st.sampled_from([None, 100]),
    margin_bytes=st.sampled_from([0, GIB]),
    gpus_per_node=st.sampled_from([4, 8]),
    ttft_ms=st.sampled_from([None, None, 200.0, 2000.0]),
    tpot_ms=st.sampled_from([None, None, 8.0, 40.0]),
    output_tokens_per_s=st.sampled_from([None, None, 100.0, 3000.0]),
)
ARGS = st.fixed_dictionaries(
    {},
    optional={
        "max_model_len": st.sampled_from([8192, 16384]),
        "tensor_parallel_size": st.sampled_from([1, 2]),
        "vllm_version": st.sampled_from(["0.9.2", "0.15.1", "0.24.0", "0.31.0"]),
    },
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(hf_configs.names()), st.sampled_from(CARDS), GOALS, ARGS)
def test_every_plan_is_legal_sufficient_and_minimal(model: str, gpu: str, goal: Goal, args: dict[str, Any]):
    try:
        plan = fit(prepare({"model": model, "gpu": gpu, **args}), goal)
    except InputError as error:
        assert "input_len" in str(error) or "speed cannot be predicted" in str(error)  # noqa: PT017
        return
    assert list(problems(plan)) == []
    if plan.met and goal.wants_speed:
        speed = speed_of(plan.inputs, plan.goal, plan.estimate)
        assert speed is not None
        assert speed.point.ttft_ms <= (goal.ttft_ms or math.inf)
        assert speed.point.tpot_ms <= (goal.tpot_ms or math.inf)
        assert speed.point.output_tokens_per_s >= (goal.output_tokens_per_s or 0)


COMBINATIONS = st.fixed_dictionaries(
    {},
    optional={
        "kv_cache_dtype": st.just("fp8"),
        "tensor_parallel_size": st.sampled_from([1, 2, 4, 8]),
        "pipeline_parallel_size": st.sampled_from([1, 2, 4]),
        "max_num_batched_tokens": st.sampled_from([512, 2048]),
        "max_num_seqs": st.sampled_from([64, 320]),
        "cpu_offload_gb": st.sampled_from([4, 10]),
    },
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(hf_configs.names()),
    st.sampled_from(CARDS),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 3, 20, 60]),
    st.sampled_from([None, 8192, 32768]),
    st.randoms(use_true_random=False),
    COMBINATIONS,
)
def test_a_no_means_that_no_combination_of_changes_would_do(
    model: str, gpu: str, gpus: int, concurrency: int, length: int | None, chance: random.Random, args: dict[str, Any]
):
    inputs = prepare({"model": model, "gpu": gpu, "max_model_len": length})
    goal = Goal(gpus=gpus, concurrency=concurrency)
    assume(args.get("tensor_parallel_size", 1) * args.get("pipeline_parallel_size", 1) <= gpus)
    variant = chance.choice([None, *quantized_variants(inputs)])
    changed = inputs if variant is None else variant.apply(inputs)
    changed = replace(changed, args=changed.args.with_(**args))
    if goal.met(changed.estimate()):
        plan = fit(inputs, goal)
        assert plan.met
        dearest = max(variant.cost if variant else 0, "kv_cache_dtype" in args, 4 * ("cpu_offload_gb" in args))
        # Smaller batches cost nothing but time, and come after the rungs of the cache and the weights all the same.
        assert plan.cost <= dearest or {"max_num_batched_tokens", "max_num_seqs"} & set(args)


@pytest.mark.parametrize(
    ("model", "smaller"),
    [
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", {"Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4"}),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", set()),
        ("moonshotai/Kimi-K2.5", set()),
    ],
)
def test_smaller_forms_are_smaller(model: str, smaller: set[str]):
    """By the bits that the checkpoint itself has, not by those that its method usually has."""
    assert {found.model for found in quantized_variants(prepare({"model": model, "gpu": "B200"}))} == smaller


def test_what_did_not_help_is_tried_again():
    """A smaller KV cache is of no use until the weights fit; then it takes the place of dearer changes."""
    plan = fit(prepare({"model": "Qwen/Qwen3-32B", "gpu": "4090", "max_model_len": 16000}), Goal(gpus=2, concurrency=8))
    assert [(step.rung, step.outcome) for step in plan.steps] == [
        ("kv-cache-dtype fp8", "skipped"),
        ("quantization", "taken"),
        ("kv-cache-dtype fp8", "taken"),
        ("quantization", "softened"),
    ]
    assert plan.inputs.model_source == "Qwen/Qwen3-32B-AWQ"  # one that is there, rather than one to be made


def test_two_small_changes_come_before_a_dearer_one():
    """Weights in 8 bits need an 8-bit KV cache beside them, which did not help before: both cost less than 4 bits."""
    request = {"model": "mistralai/Mixtral-8x22B-Instruct-v0.1", "gpu": "L4", "max_model_len": 32768}
    plan = fit(prepare(request), Goal(gpus=8, concurrency=1))
    assert plan.met
    assert plan.cost == 1
    assert [(step.rung, step.outcome) for step in plan.steps] == [
        ("kv-cache-dtype fp8", "skipped"),
        ("quantization", "taken"),
        ("kv-cache-dtype fp8", "taken"),
        ("quantization", "softened"),
    ]


def test_stages_where_ranks_would_hold_the_same_kv_cache():
    """MLA's latent is not divided by tensor parallelism."""
    inputs = prepare({"model": "zai-org/GLM-4.7-Flash", "gpu": "T4", "max_model_len": 16384})
    plan = fit(inputs, Goal(gpus=4, concurrency=16))
    assert plan.met
    assert (plan.inputs.args["tensor_parallel_size"], plan.inputs.args["pipeline_parallel_size"]) == (2, 2)


@pytest.mark.slow
def test_the_catalogue_on_every_card():
    """Every 29th cell; tools/ladder_matrix.py runs all of them."""
    for model, gpu, gpus in list(product(hf_configs.names(), CARDS, COUNTS))[::29]:
        assert check({"model": model, "gpu": gpu}, Goal(gpus=gpus))[1] == [], (model, gpu, gpus)


def test_a_limit_on_the_predicted_speed_can_be_the_constraint():
    inputs = prepare({"model": LLAMA_8B, "gpu": "L4", "max_model_len": 8192})
    easy, hard = (Goal(input_len=1000, output_len=200, tpot_ms=limit) for limit in (500.0, 1.0))
    assert fit_with_replicas(inputs, easy).met
    missed = fit_with_replicas(inputs, hard)
    assert not missed.met
    assert missed.binding is not None
    assert missed.binding.code == "tpot"
    assert "median error" in missed.binding.message
    assert "bound by memory bandwidth" in missed.binding.message


def test_the_ladder_is_climbed_for_speed_too():
    """8B in bf16 reads 15 GiB a token at 864 GB/s; fewer bytes are the only way to less than 13 ms on one L40S."""
    inputs = prepare({"model": LLAMA_8B, "gpu": "L40S", "max_model_len": 8192})
    assert fit(inputs, Goal(input_len=1000, output_len=200)).steps == ()
    plan = fit(inputs, Goal(input_len=1000, output_len=200, tpot_ms=14.0))
    assert plan.met
    assert taken(plan) == ["quantization"]
    assert not fit(inputs, plan.goal, forbid=("quantization",)).met


def test_tokens_per_second_are_of_all_engines():
    inputs = prepare({"model": LLAMA_8B, "gpu": "L40S", "max_model_len": 8192})
    goal = Goal(gpus=2, engines=2, concurrency=64, input_len=500, output_len=200, output_tokens_per_s=1500)
    plan = fit(inputs, goal)
    speed = speed_of(plan.inputs, plan.goal, plan.estimate)
    assert speed is not None
    assert plan.steps == ()
    assert speed.point.output_tokens_per_s < 1500 < 2 * speed.point.output_tokens_per_s


def test_a_limit_that_cannot_be_predicted_is_wrong_input():
    with pytest.raises(InputError, match="speed cannot be predicted"):
        fit(prepare({"model": "BAAI/bge-large-en-v1.5", "gpu": "L4"}), Goal(ttft_ms=100.0))
