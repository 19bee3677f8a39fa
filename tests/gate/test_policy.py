"""vllm-fit.yaml: read, checked, and what it makes of a launch."""

from __future__ import annotations

import datetime
import re
import textwrap
from pathlib import Path

import jsonschema
import pytest

from planner.errors import InputError
from planner.gate import policy
from planner.gate.limits import breaches, goal_of, too_few_gpus
from planner.gate.policy import Rules
from planner.gate.yaml_nodes import documents, plain
from planner.request import prepare

POLICY = """\
defaults:
  gpu: H100
  vllm-version: 0.11.0
  models: {/models/llama: meta-llama/Llama-3.1-8B-Instruct}
require:
  concurrency: 4
  context: 8192
  headroom-gib: 1
allow:
  gpus: [H100, L40S]
  vllm-versions: [">=0.10,<0.13"]
too-close-to-call: fail
overrides:
  - paths: [staging/, "!staging/prod.yaml"]
    defaults: {gpu: L4}
    require: {concurrency: 1}
    unknown: warn
ignore:
  - paths: ["old/*.sh"]
    model: Qwen/Qwen3-32B
    codes: [policy_context]
    reason: moves to the new cluster
    until: 2027-01-31
"""


def _load(tmp_path: Path, text: str) -> policy.Policy:
    path = tmp_path / "vllm-fit.yaml"
    path.write_text(text, encoding="utf-8")
    return policy.load(path)


def test_a_policy_gives_the_rules_of_a_path(tmp_path):
    read = _load(tmp_path, POLICY)
    rules = read.rules_for(tmp_path / "prod" / "a.yaml")
    assert rules == Rules(
        gpu="H100",
        vllm_version="0.11.0",
        models={"/models/llama": "meta-llama/Llama-3.1-8B-Instruct"},
        min_concurrency=4,
        min_context=8192,
        min_headroom_gib=1,
        allowed_gpus=("H100", "L40S"),
        allowed_versions=(">=0.10,<0.13",),
        too_close_to_call="fail",
    )
    staging = read.rules_for(tmp_path / "staging" / "deep" / "a.yaml")
    assert (staging.gpu, staging.min_concurrency, staging.min_context, staging.unknown) == ("L4", 1, 8192, "warn")
    assert read.rules_for(tmp_path / "staging" / "prod.yaml").gpu == "H100"


def test_an_ignore_covers_its_model_and_codes(tmp_path):
    rules = _load(tmp_path, POLICY).rules_for(tmp_path / "old" / "run.sh")
    found = rules.ignore_of("Qwen/Qwen3-32B", frozenset({"policy_context"}))
    assert found is not None
    assert (found.reason, found.until) == ("moves to the new cluster", datetime.date(2027, 1, 31))
    assert rules.ignore_of("Qwen/Qwen3-32B", frozenset({"policy_context", "policy_gpu"})) is None
    assert rules.ignore_of("Qwen/Qwen3-8B", frozenset({"policy_context"})) is None
    assert _load(tmp_path, POLICY).rules_for(tmp_path / "new" / "run.sh").ignores == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("require:\n  concurency: 4", ":2: require: unknown key concurency; did you mean concurrency?"),
        ("requires: {}", ":1: unknown key requires; did you mean require?"),
        ("require:\n  concurrency: four", ':2: require.concurrency: "four": must be a number'),
        ("\nrequire:\n\n  context: 8k", ':4: require.context: "8k": must be a whole number'),
        ("- a", ":1: a list: must be a mapping"),
        ("too-close-to-call: maybe", ':1: too-close-to-call: "maybe": must be one of pass, warn, fail'),
        ("require: {ttft-ms: 500}", ":1: require: 'workload' is a dependency of 'ttft-ms'"),
        ("ignore:\n- paths: [a]\n  reason: because", ":2: ignore.0: 'until' is a required property"),
        ("ignore:\n- {paths: [a], reason: because, until: 2027-02-30}", ':2: until = "2027-02-30": no such day'),
        ("ignore:\n- {paths: [a], reason: because, until: tomorrow}", ":2: ignore.0.until: 'tomorrow' does not match"),
        ("defaults: {gpu: H1000}", ": unknown GPU H1000"),
        ("allow: {gpus: [nope]}", ": unknown GPU nope"),
        ("allow: {vllm-versions: [abc]}", ': allow.vllm-versions: "abc": not a version'),
        ("overrides: [{paths: [x], defaults: {vllm-version: '0.1.0'}}]", ": vllm_version 0.1.0: older than"),
        ("a: 1\n---\nb: 2", ":3: a policy is one document"),
        ("a: [", ":2: not YAML"),
    ],
)
def test_a_wrong_policy_is_one_line_that_says_where(tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        _load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'vllm-fit.yaml'}{message}")
    assert "\n" not in str(caught.value)


def test_the_schema_is_one_and_takes_the_example():
    jsonschema.Draft202012Validator.check_schema(policy.schema())
    jsonschema.validate(plain(documents(POLICY, "policy")[0]), policy.schema())


def test_the_policy_in_the_documentation_is_one(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "gate.md").read_text(encoding="utf-8")
    example = re.search(r"\n(    defaults:.*?\n)\n(?=\S)", page, re.DOTALL)
    assert example is not None
    read = _load(tmp_path, textwrap.dedent(example[1]))
    rules = read.rules_for(tmp_path / "staging" / "a.yaml")
    assert (rules.gpu, rules.min_concurrency, rules.tpot_ms, rules.output_len) == ("L4", 1, 50, 300)
    assert [entry.reason for entry in read.ignores] == ["moves to the new cluster"]


def test_every_rule_of_the_schema_is_read():
    """A key that editors offer and the gate passes over would be worse than none."""

    def places(part, path=()):
        part = policy.schema()["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        if "properties" not in part:
            yield path
        for key, value in part.get("properties", {}).items():
            yield from places(value, (*path, key))

    top = {key: value for key, value in policy.schema()["properties"].items() if key not in ("overrides", "ignore")}
    assert set(places({"properties": top})) == set(policy._FIELDS)


def test_the_nearest_policy_counts_up_to_the_root_of_the_repository(tmp_path):
    (tmp_path / "vllm-fit.yaml").write_text("{}")
    inner = tmp_path / "repository" / "deploy"
    inner.mkdir(parents=True)
    assert policy.find(inner) == tmp_path / "vllm-fit.yaml"
    (tmp_path / "repository" / ".git").mkdir()
    assert policy.find(inner) is None
    (tmp_path / "repository" / ".vllm-fit.yml").write_text("{}")
    assert policy.find(inner) == tmp_path / "repository" / ".vllm-fit.yml"


@pytest.mark.parametrize(
    ("rules", "more", "codes"),
    [
        (Rules(), {}, []),
        (Rules(allowed_gpus=("H100",)), {}, ["policy_gpu"]),
        (Rules(allowed_gpus=("H100", "A100")), {}, []),
        (Rules(allowed_gpus=("A100",)), {"gpu": "A100-80GB MIG 3g.40gb"}, []),
        (Rules(allowed_quantizations=("fp8",)), {}, ["policy_quantization"]),
        (Rules(allowed_quantizations=("none", "awq")), {}, []),
        (Rules(allowed_quantizations=("awq",)), {"model": "Qwen/Qwen2.5-7B-Instruct-AWQ"}, []),
        (Rules(allowed_versions=("0.11",)), {"vllm_version": "0.11.2"}, []),
        (Rules(allowed_versions=("0.11.1", ">=0.12")), {"vllm_version": "0.11.2"}, ["policy_version"]),
        (Rules(min_context=32768), {}, []),
        (Rules(min_context=32769), {"max_model_len": 32768}, ["policy_context"]),
        (Rules(min_concurrency=8), {"max_model_len": 32768}, []),
        (Rules(min_concurrency=200), {"max_model_len": 32768}, ["policy_concurrency"]),
        (Rules(min_concurrency=8), {"max_num_seqs": 4}, ["policy_concurrency"]),
        (Rules(min_headroom_gib=1), {"max_model_len": 8192}, []),
        (Rules(min_headroom_gib=70), {"max_model_len": 8192}, ["policy_headroom"]),
    ],
)
def test_rules_are_held_against_an_estimate(rules, more, codes):
    inputs = prepare({"model": "Qwen/Qwen2.5-7B-Instruct", "gpu": "A100-80GB", **more})
    estimate = inputs.estimate()
    assert estimate.fits
    assert [breach.reason.code for breach in breaches(rules, inputs, estimate)] == codes


def test_limits_on_speed_are_for_the_workload_given():
    rules = Rules(concurrency=64, input_len=2000, output_len=500, ttft_ms=1, tpot_ms=10_000)
    inputs = prepare({"model": "Qwen/Qwen2.5-7B-Instruct", "gpu": "A100-80GB", "workload": rules.workload})
    (breach,) = breaches(rules, inputs, inputs.estimate())
    assert breach.reason.code == "policy_ttft"
    assert "64 requests at once, the limit is 1 ms" in breach.reason.message


def test_a_policy_is_a_goal_for_the_ladder():
    goal = goal_of(Rules(min_concurrency=4, min_context=8192, min_headroom_gib=0.5), 2)
    assert (goal.gpus, goal.concurrency, goal.request_len, goal.margin_bytes) == (2, 4, 8192, 1 << 29)


@pytest.mark.parametrize(
    ("args", "gpus", "expected"),
    [
        ({"tensor_parallel_size": 4}, 4, None),
        ({"tensor_parallel_size": 4}, None, None),
        ({}, 0, "fail: no GPU is given, the launch needs 1"),
        ({"tensor_parallel_size": 4}, 2, "fail: 2 GPUs are given, tensor_parallel_size 4 needs 4"),
        (
            {"tensor_parallel_size": 8, "pipeline_parallel_size": 2},
            8,
            "fail: 8 GPUs are given, tensor_parallel_size 8 x pipeline_parallel_size 2 needs 16",
        ),
        ({"tensor_parallel_size": 8, "pipeline_parallel_size": 2, "nnodes": 2}, 8, None),
        ({"data_parallel_size": 16, "data_parallel_size_local": 8}, 8, None),
        ({"data_parallel_size": 16, "data_parallel_size_local": 8}, 4, "fail: 4 GPUs are given, data_parallel_size 8"),
        (
            {"tensor_parallel_size": 16, "distributed_executor_backend": "ray"},
            8,
            "warn: 8 GPUs are given, tensor_parallel_size 16 needs 16; the others must come from other machines",
        ),
    ],
)
def test_fewer_cards_than_ranks(args, gpus, expected):
    breach = too_few_gpus(args, gpus)
    if expected is None:
        assert breach is None
    else:
        assert breach is not None
        assert f"{breach.severity}: {breach.reason.message}".startswith(expected)
