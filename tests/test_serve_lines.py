"""Plans through vLLM's own argument parser and config validation, for the card in question, without an engine."""

from __future__ import annotations

import ast
import importlib.util
import random
import shlex
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.asking import facts_of
from planner.engine.ask_vllm.client import VllmProcess
from planner.hardware.catalogue import find_gpu
from planner.planning.goal import Goal
from planner.planning.ladder import fit
from planner.planning.outputs import FORMS, Launch, launch_of, write
from planner.planning.plan import Plan
from planner.request import Inputs, prepare
from tools.serve_lines import matrix, question, verdicts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("ask_vllm"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM is installed"),
]
SAMPLE = 24
"""Plans of each card; tools/serve_lines.py asks all of them."""
GOALS = Namespace(every=1, concurrency=24, max_model_len=8192, vllm_version="0.32.0")


@pytest.mark.parametrize("gpu", ["T4", "H100", "MI300X"])
def test_vllm_takes_the_serve_line_of_every_plan(gpu: str):
    cells = random.Random(f"plans on {gpu}").sample(range(1080), 3 * SAMPLE)
    plans = [plan for index, plan in enumerate(matrix(gpu, GOALS)) if index in cells and plan.met][:SAMPLE]
    with VllmProcess(facts_of(find_gpu(gpu)), architectures=[]) as vllm:
        found = list(verdicts(plans, vllm))
    assert [(one.plan.serve_command, one.problem) for one in found if one.problem] == []
    assert sum(one.not_asked is None for one in found) > 0.8 * len(found) > 10


LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
NASTY = {"a": 'it\'s "$HOME" $(LWS_GROUP_SIZE) `id` # no: yes\n'}
NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}
PLANS: list[tuple[dict[str, Any], Goal]] = [
    ({"model": LLAMA_8B, "max_model_len": 131072, "hf_overrides": NASTY}, Goal(concurrency=5)),
    ({"model": LLAMA_8B, "enable_prefix_caching": False, "max_model_len": 8192}, Goal(gpus=4, engines=2)),
    ({"model": "meta-llama/Llama-3.1-405B-Instruct"}, Goal(gpus=16)),
    ({"model": "Qwen/Qwen3-30B-A3B", "data_parallel_size": 4, "enable_expert_parallel": True}, Goal(gpus=8)),
    ({"model": LLAMA_8B, "speculative_config": NGRAM, "enable_lora": True}, Goal()),
]


@pytest.fixture(scope="module")
def h100() -> Iterator[VllmProcess]:
    with VllmProcess(facts_of(find_gpu("H100")), architectures=[]) as vllm:
        yield vllm


@pytest.mark.parametrize("form", FORMS)
def test_vllm_reads_every_form_as_it_was_meant(form: str, h100: VllmProcess, tmp_path: Path):
    read = 0
    for request, goal in PLANS:
        plan = fit(prepare({**request, "gpu": "H100", "vllm_version": "0.32.0"}), goal)
        assert plan.met
        launch = launch_of(plan.inputs, plan.engines)
        if (form == "compose" and launch.nodes > 1) or (form == "python" and launch.engine.data_parallel_size > 1):
            continue  # neither can be written
        answer = h100.ask(question(plan.inputs, READERS[form](launch, tmp_path)), timeout_s=300)
        assert "error" not in answer, (form, answer["error"])
        assert answer["model"] == plan.inputs.model_source
        meant = dict(plan.inputs.args)
        assert {name: _unfilled(answer["args"][name], meant[name]) for name in meant} == meant
        read += 1
    assert read >= len(PLANS) - 1


def _unfilled(value: Any, meant: Any) -> Any:
    """A JSON object without what vLLM has filled in."""
    return {key: value[key] for key in meant} if isinstance(meant, dict) and isinstance(value, dict) else value


def _serve(launch: Launch, folder: Path) -> dict[str, Any]:
    return {"serve": shlex.split(write(launch, "serve"), comments=True)[2:]}


def _config_file(launch: Launch, folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    path.write_text(write(launch, "yaml"))
    return {"serve": ["--config", str(path)]}


def _compose(launch: Launch, folder: Path) -> dict[str, Any]:
    service = next(iter(yaml.safe_load(write(launch, "compose"))["services"].values()))
    return {"serve": [word.replace("$$", "$") for word in service["command"]]}


def _kubernetes(launch: Launch, folder: Path) -> dict[str, Any]:
    spec = next(yaml.safe_load_all(write(launch, "kubernetes")))["spec"]
    if launch.nodes == 1:
        words = spec["template"]["spec"]["containers"][0]["args"]
    else:
        leader = spec["leaderWorkerTemplate"]["leaderTemplate"]["spec"]["containers"][0]["command"][2]
        words = shlex.split(leader.partition("&& ")[2])[2:]
    return {"serve": [word.replace("$$", "$") for word in words]}


def _python(launch: Launch, folder: Path) -> dict[str, Any]:
    call = ast.parse(write(launch, "python")).body[-1]
    assert isinstance(call, ast.Assign)
    assert isinstance(call.value, ast.Call)
    return {"llm": {word.arg: ast.literal_eval(word.value) for word in call.value.keywords if word.arg}}


READERS: dict[str, Callable[[Launch, Path], dict[str, Any]]] = {
    "serve": _serve,
    "yaml": _config_file,
    "compose": _compose,
    "kubernetes": _kubernetes,
    "python": _python,
}


def test_vllms_refusal_is_seen(h100: VllmProcess):
    """So that a check which lets everything through would be noticed."""
    inputs: Inputs = prepare({"model": LLAMA_8B, "gpu": "H100"})
    plan: Plan = fit(inputs, Goal())
    for words in (["--max-model-len", "131073"], ["--frob"], ["--kv-cache-dtype", "fp7"]):
        answer = h100.ask(question(plan.inputs, {"serve": [LLAMA_8B, *words]}), timeout_s=300)
        assert answer["error"]["kind"] == "refused"
        assert words[0].lstrip("-").replace("-", "_") in answer["error"]["message"].replace("-", "_")
