"""Every form of a plan, parsed back by what reads it."""

from __future__ import annotations

import ast
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_configs
from planner.engine.args import EngineArgs, parse_flags
from planner.errors import InputError
from planner.planning.goal import Goal
from planner.planning.ladder import fit
from planner.planning.outputs import FORMS, Launch, launch_of, launch_of_plan, write
from planner.request import prepare

LLAMA_8B, LLAMA_405B = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-405B-Instruct"
NASTY: dict[str, Any] = {
    "hf_overrides": {"x": 'it\'s "$HOME" $(LWS_GROUP_SIZE) `id` # no: yes\n'},
    "enable_prefix_caching": False,
}


def launch(model: str = LLAMA_8B, gpu: str = "H100", engines: int = 1, **args: Any) -> Launch:
    return launch_of(prepare({"model": model, "gpu": gpu, **args}), engines)


def from_words(words: list[str], model: str = LLAMA_8B) -> dict[str, Any]:
    """Engine arguments of `vllm serve MODEL …` without its first two words."""
    args, rest = parse_flags(words)
    assert rest == [model]
    return dict(args)


MULTI = launch(
    LLAMA_405B, tensor_parallel_size=8, pipeline_parallel_size=2, distributed_executor_backend="ray", max_model_len=8192
)
VISIBLE = st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp"])
TEXT = st.text(VISIBLE, min_size=1).filter(lambda t: not t.startswith("-"))


@settings(max_examples=100, deadline=None)
@given(TEXT, st.integers(1, 131072), st.booleans(), st.dictionaries(TEXT, TEXT, max_size=3))
def test_every_form_reads_back(name: str, length: int, flag: bool, overrides: dict[str, str]):
    args: dict[str, Any] = {"max_model_len": length, "enforce_eager": flag, "hf_overrides": overrides, "revision": name}
    one = launch_of(replace(prepare({"model": LLAMA_8B, "gpu": "H100"}), args=EngineArgs(args)))
    expected = dict(one.args)
    assert from_words(shlex.split(write(one, "serve"))[2:]) == expected
    deployment = next(yaml.safe_load_all(write(one, "kubernetes")))
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    words = [word.replace("$$", "$") for word in container["args"]]
    assert from_words(words) == expected
    service = next(iter(yaml.safe_load(write(one, "compose"))["services"].values()))
    assert service["entrypoint"] == ["vllm", "serve"], "older images begin with another command"
    assert from_words([word.replace("$$", "$") for word in service["command"]]) == expected
    assert python_arguments(write(one, "python")).items() >= expected.items()


def python_arguments(code: str) -> dict[str, Any]:
    call = ast.parse(code).body[-1]
    assert isinstance(call, ast.Assign)
    assert isinstance(call.value, ast.Call)
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.value.keywords if keyword.arg}


def test_the_config_file_has_flags_as_keys():
    values = yaml.safe_load(write(launch(max_model_len=8192, **NASTY), "yaml"))
    assert values == {
        "model": LLAMA_8B,
        "max-model-len": 8192,
        "hf-overrides": NASTY["hf_overrides"],
        "no-enable-prefix-caching": True,
    }


def test_the_llm_class_takes_no_data_parallel_ranks():
    """vLLM raises for them: they "may hang" in a single process."""
    with pytest.raises(InputError, match="data_parallel_size"):
        write(launch(data_parallel_size=2), "python")
    assert "--data-parallel-size 2" in write(launch(data_parallel_size=2), "serve")


def test_python_writes_out_the_servers_batch_sizes():
    """The LLM class would take 16,384 batched tokens where the server takes 8,192."""
    assert python_arguments(write(launch(), "python"))["max_num_batched_tokens"] == 8192


def test_several_engines_get_cards_of_their_own():
    services = yaml.safe_load(write(launch(gpu="L40S", engines=2, tensor_parallel_size=2), "compose"))["services"]
    devices = [s["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for s in services.values()]
    assert devices == [["0", "1"], ["2", "3"]]
    assert len({tuple(service["ports"]) for service in services.values()}) == 2
    deployment = next(yaml.safe_load_all(write(launch(engines=3), "kubernetes")))
    assert deployment["spec"]["replicas"] == 3


def test_several_nodes_are_a_leader_worker_set():
    workload, service = yaml.safe_load_all(write(MULTI, "kubernetes"))
    template = workload["spec"]["leaderWorkerTemplate"]
    assert (workload["kind"], template["size"]) == ("LeaderWorkerSet", 2)
    leader = template["leaderTemplate"]["spec"]["containers"][0]
    assert leader["resources"]["limits"] == {"nvidia.com/gpu": 8}
    words = shlex.split(leader["command"][2])
    assert from_words(words[words.index("serve") + 1 :], LLAMA_405B) == dict(MULTI.args)
    assert service["spec"]["selector"]["role"] == "leader"
    with pytest.raises(InputError, match="needs 2"):
        write(MULTI, "compose")


@pytest.mark.parametrize("place", ["models/qwen", "./models/qwen", "models/qwen/config.json"])
def test_containers_get_the_folder_of_a_local_model(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A path in a container must be absolute, and the folder be mounted there."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models" / "qwen"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(hf_configs.path("Qwen/Qwen3-8B").read_bytes())
    one = launch(place)
    (service,) = yaml.safe_load(write(one, "compose"))["services"].values()
    mount = service["volumes"][1]
    assert (mount["source"], mount["target"], service["command"][0]) == (str(folder), "/model", "/model")
    pod = next(yaml.safe_load_all(write(one, "kubernetes")))["spec"]["template"]["spec"]
    assert pod["volumes"][-1]["hostPath"]["path"] == str(folder)
    assert pod["containers"][0]["volumeMounts"][-1]["mountPath"] == pod["containers"][0]["args"][0] == "/model"


def test_each_node_has_whole_tensor_parallel_groups():
    """Twelve cards are 4 + 4 + 4 on nodes of four, and 8 + 4 on nodes of eight, never 6 + 6."""
    inputs = prepare({"model": LLAMA_405B, "gpu": "H100", "tensor_parallel_size": 4, "pipeline_parallel_size": 3})
    for per_node, nodes, each in ((4, 3, 4), (8, 2, 8)):
        template = next(yaml.safe_load_all(write(launch_of(inputs, 1, per_node), "kubernetes")))["spec"][
            "leaderWorkerTemplate"
        ]
        container = template["workerTemplate"]["spec"]["containers"][0]
        assert (template["size"], container["resources"]["limits"]) == (nodes, {"nvidia.com/gpu": each})
    saved = {"plan": 1, "request": {"model": LLAMA_405B, "gpu": "H100", "tensor_parallel_size": 8}}
    assert launch_of_plan({**saved, "goal": {"gpus_per_node": 4}}, "plan.json").nodes == 2


def test_engines_of_one_compose_file_share_a_machine():
    with pytest.raises(InputError, match="needs 2"):
        write(launch(gpu="L40S", engines=3, tensor_parallel_size=4), "compose")


def test_a_cpu_engine_asks_for_no_gpu():
    one = launch(gpu="cpu", kv_cache_memory_bytes=2 << 30, max_model_len=4096)
    for form in ("compose", "kubernetes"):
        text = write(one, form)
        assert "vllm/vllm-openai-cpu:v0.33.0" in text
        assert "nvidia" not in text


def test_cards_without_an_image_of_vllm_are_told_so():
    with pytest.raises(InputError, match="no container image for Intel Gaudi 3"):
        write(launch(gpu="Gaudi 3"), "kubernetes")
    assert "/dev/kfd" not in write(launch(gpu="Arc Pro B60", max_model_len=4096), "compose")


def test_amds_cards_have_their_own_image_and_devices():
    text = write(launch(gpu="MI300X"), "compose")
    assert "vllm/vllm-openai-rocm:v0.33.0" in text
    assert "/dev/kfd" in text
    assert "amd.com/gpu" in write(launch(gpu="MI300X"), "kubernetes")


def test_a_checkpoint_to_be_made_is_said_in_every_form():
    for form in FORMS:
        assert write(launch(what_if_quantization="awq"), form).startswith("# make a checkpoint of")


@pytest.mark.parametrize("place", ["config.json", "./config.json", "models/qwen/config.json"])
def test_a_config_file_is_served_by_its_folder(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """vLLM takes a folder, never the file in it."""
    monkeypatch.chdir(tmp_path)
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    Path(place).write_bytes(hf_configs.path("Qwen/Qwen3-8B").read_bytes())
    model = launch(place).model
    assert (Path(model).is_dir(), Path(model, "config.json").is_file()) == (True, True)
    assert fit(prepare({"model": place, "gpu": "H100"}), Goal()).serve_command == f"vllm serve {model}"


@pytest.mark.parametrize("plan", [{}, {"plan": 1}, {"plan": 1, "request": {}, "met": False}, {"plan": 1, "request": 3}])
def test_what_is_no_plan_is_wrong_input(plan: dict[str, Any]):
    with pytest.raises(InputError):
        launch_of_plan(plan, "plan.json")
