"""What holds of every estimate, whatever the model, the card and the flags: on the whole catalogue, by hypothesis."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import hf_configs
from planner.engine.args import EngineArgs, parse_flags
from planner.planning.goal import Goal
from planner.planning.ladder import fit
from planner.planning.outputs import launch_of_plan, write
from planner.request import answer, answer_lines, prepare
from tests.command_line import run

CARDS = ("T4", "L4", "4090", "A100-40", "L40S", "H100", "H200", "B200", "MI300X")
MODELS = st.sampled_from(hf_configs.names())
ARGS = {
    "tensor_parallel_size": st.sampled_from([1, 2, 3, 4, 8]),
    "pipeline_parallel_size": st.sampled_from([1, 2, 3]),
    "data_parallel_size": st.sampled_from([1, 2]),
    "enable_expert_parallel": st.booleans(),
    "max_model_len": st.integers(1, 200_000),
    "max_num_seqs": st.integers(1, 2048),
    "max_num_batched_tokens": st.integers(1, 65_536),
    "kv_cache_dtype": st.sampled_from(["auto", "fp8"]),
    "quantization": st.sampled_from(["fp8"]),
    "dtype": st.sampled_from(["auto", "bfloat16", "float16"]),
    "enforce_eager": st.booleans(),
    "block_size": st.sampled_from([16, 32, 64]),
    "gpu_memory_utilization": st.floats(0.3, 0.98),
    "cpu_offload_gb": st.integers(0, 20),
    "enable_prefix_caching": st.booleans(),
    "hf_overrides": st.fixed_dictionaries({"max_position_embeddings": st.integers(2048, 8192)}),
    "speculative_config": st.fixed_dictionaries(
        {"method": st.just("ngram"), "num_speculative_tokens": st.integers(1, 8), "prompt_lookup_max": st.just(4)}
    ),
}
MORE = {
    "vllm_version": st.sampled_from(["0.9.2", "0.11.2", "0.15.1", "0.20.0", "0.26.0", "0.33.0"]),
    "usage": st.sampled_from(["server", "offline"]),
    "gpu_memory_used_gib": st.floats(0, 3),
}
REQUESTS = st.fixed_dictionaries({"model": MODELS, "gpu": st.sampled_from(CARDS)}, optional={**ARGS, **MORE})
lenient = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@lenient
@given(REQUESTS, st.floats(4, 300), st.floats(0.01, 100))
def test_more_memory_never_gives_fewer_tokens(request: dict[str, Any], memory: float, more: float) -> None:
    # From 70 GiB on, vLLM's own defaults are larger batches, which take more than one GiB more gives.
    batches = {"max_num_batched_tokens": 8192, "max_num_seqs": 256}
    before = answer({**batches, **request, "gpu_memory_gib": memory})
    after = answer({**batches, **request, "gpu_memory_gib": memory + more})
    assert (before["status"] == "refused") == (after["status"] == "refused")
    if before["status"] == "fits":
        assert after["status"] == "fits"
        if before["kv_cache"]:
            assert after["kv_cache"]["tokens"] >= before["kv_cache"]["tokens"]
            assert after["kv_cache"]["num_blocks"] >= before["kv_cache"]["num_blocks"]


@lenient
@given(REQUESTS, st.sampled_from([1, 2, 4]))
def test_larger_tp_never_puts_more_weights_on_a_rank(request: dict[str, Any], tp: int) -> None:
    few, many = (answer({**request, "tensor_parallel_size": size}) for size in (tp, 2 * tp))
    assume(few["status"] != "refused" and many["status"] != "refused")
    assert many["memory"]["weights_bytes"] <= few["memory"]["weights_bytes"]
    assert max(rank["weights_bytes"] for rank in many["ranks"]) <= max(rank["weights_bytes"] for rank in few["ranks"])


@lenient
@given(REQUESTS)
def test_the_parts_add_up(request: dict[str, Any]) -> None:
    found = answer(request)
    assume(found["status"] != "refused")
    memory, kv = found["memory"], found["kv_cache"]
    assert sum(found["weights"].values()) == memory["weights_bytes"]
    assert (memory["weights_bytes"], memory["available_kv_bytes"]) in [
        (rank["weights_bytes"], rank["available_kv_bytes"]) for rank in found["ranks"]
    ], "the memory told is that of one rank"
    assert all(isinstance(size, int) for name, size in memory.items() if name.endswith("_bytes") and size is not None)
    assert memory["requested_bytes"] <= memory["total_bytes"]
    if kv and found["status"] == "fits":
        assert kv["num_blocks"] * kv["bytes_per_block"] <= memory["available_kv_bytes"]
        assert memory["available_kv_bytes"] <= memory["requested_bytes"]
        assert kv["num_blocks"] == min(rank["num_blocks"] for rank in found["ranks"])
        assert kv["tokens"] > 0
        assert kv["max_concurrency"] > 0
    low, high = found["range"]["available_kv_bytes"]
    assert low <= high


@lenient
@given(REQUESTS)
def test_an_answer_is_json_and_says_why(request: dict[str, Any]) -> None:
    found = answer(request)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert bool(found["reasons"]) == (found["status"] != "fits")
    assert found["reasons"] == [] or all(reason["message"] and reason["code"] for reason in found["reasons"])


@settings(parent=lenient, max_examples=30)
@given(REQUESTS, st.integers(30_000, 120_000), st.floats(4, 80))
def test_the_longest_context_that_fits_does(request: dict[str, Any], length: int, memory: float) -> None:
    request = {**request, "gpu_memory_gib": memory}
    found = answer({**request, "max_model_len": length})
    assume([reason["code"] for reason in found["reasons"]] == ["kv_too_small_for_one_request"])
    longest = found["kv_cache"]["max_model_len_that_fits"]
    assume(longest > 0)
    fixed = {name: found["engine"][name] for name in ("max_num_batched_tokens", "max_num_seqs")}
    at = answer({**request, **fixed, "max_model_len": longest})
    assert "kv_too_small_for_one_request" not in [reason["code"] for reason in at["reasons"]]


@lenient
@given(st.lists(REQUESTS, min_size=1, max_size=4))
def test_a_batch_answers_as_one_call_does(requests: list[dict[str, Any]]) -> None:
    assert list(answer_lines(map(json.dumps, requests))) == [answer(request) for request in requests]


@settings(parent=lenient, max_examples=60, suppress_health_check=list(HealthCheck))
@given(REQUESTS)
def test_the_command_line_answers_as_python_does(capsys: pytest.CaptureFixture[str], request: dict[str, Any]) -> None:
    args = EngineArgs({name: value for name, value in request.items() if name in ARGS})
    options = [f"--{name.replace('_', '-')}={value}" for name, value in request.items() if name in (*MORE, "gpu")]
    code, out, err = run(capsys, "estimate", request["model"], *options, *args.to_flags(), "--format", "json")
    expected = answer(request)
    assert json.loads(out) == expected
    assert (code, err) == (0 if expected["status"] == "fits" else 1, "")


@settings(parent=lenient, max_examples=40)
@given(MODELS, st.sampled_from(CARDS), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 20]))
def test_a_plan_reads_back_from_every_form(model: str, gpu: str, gpus: int, concurrency: int) -> None:
    """JSON, the serve line, its YAML: each gives a launch that is estimated as the plan was."""
    inputs = prepare({"model": model, "gpu": gpu, "max_model_len": 2000})
    plan = fit(inputs, Goal(gpus=gpus, concurrency=concurrency))
    assume(plan.met)
    expected = plan.estimate.to_dict()
    saved = json.loads(json.dumps(plan.to_dict()))
    assert answer(saved["request"])["memory"] == expected["memory"]
    launch = launch_of_plan(saved, "plan.json")
    line = "".join(row for row in write(launch, "serve").splitlines() if not row.startswith("#"))
    args, _ = parse_flags(shlex.split(line)[3:])
    content = yaml.safe_load(write(launch, "yaml"))
    content.pop("model")
    from_yaml, _ = parse_flags([word for name, value in content.items() for word in _words(name, value)])
    for given_args in (args, from_yaml):
        again = answer({**saved["request"], **given_args})
        assert again["memory"] == expected["memory"]
        assert again["kv_cache"] == expected["kv_cache"]


def _words(name: str, value: Any) -> list[str]:
    """As vLLM's load_config_file makes flags of a YAML entry."""
    if value is True:
        return [f"--{name}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]


def test_nothing_depends_on_the_folder_it_runs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = {"model": "openai/gpt-oss-20b", "gpu": "H100"}
    here = answer(request)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai").mkdir()
    assert answer(request) == here
    assert [path.name for path in tmp_path.iterdir()] == ["openai"]
