"""From a candidate to what is started: which weights, which flags, how much room, and what the machine shows of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from planner.engine.launch import LaunchSpec
from planner.engine.memory_watch import MemoryWatch
from planner.engine.tokenizer import write_tokenizer
from planner.engine.version import parse_version
from planner.engine.workplace import room_needed
from planner.model.source import load_config
from planner.request import prepare
from planner.validate import trial as trials
from planner.validate.trial import Options, checkpoint_folder, for_device, trial_of
from tests.command_line import run as cli_run
from tests.validate_case import SMALL, trial


def cached(folder: Path, monkeypatch: pytest.MonkeyPatch, *, complete: bool) -> Path:
    """Hugging Face's cache with a snapshot of the model."""
    from safetensors.numpy import save_file

    repository = folder / "models--HuggingFaceTB--SmolLM2-135M-Instruct"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text(json.dumps(load_config(SMALL).values))
    files = {"model.embed_tokens.weight": "model-1.safetensors", "model.norm.weight": "model-2.safetensors"}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    for name, file in list(files.items())[: 2 if complete else 1]:
        save_file({name: np.zeros(4, np.float32)}, snapshot / file)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return snapshot


def test_a_complete_checkpoint_of_the_cache_is_loaded(tmp_path, monkeypatch):
    snapshot = cached(tmp_path, monkeypatch, complete=True)
    assert checkpoint_folder(load_config(SMALL)) == snapshot
    one = trial()
    assert one.spec is not None
    assert (one.spec.model_path, one.spec.config) == (snapshot, None)
    assert one.weights == f"the checkpoint in {snapshot}"
    dummy = trial(load_format="dummy")
    assert "dummy weights" in dummy.weights


def test_one_that_is_still_downloading_is_not(tmp_path, monkeypatch):
    cached(tmp_path, monkeypatch, complete=False)
    assert checkpoint_folder(load_config(SMALL)) is None
    one = trial()
    assert one.spec is not None
    assert one.spec.model_path is None
    assert "dummy weights" in one.weights


def test_recurrent_states_are_float32_where_the_cpu_has_bf16_instructions(monkeypatch):
    granite = prepare({"model": "ibm-granite/granite-4.0-h-tiny", "gpu": "cpu"})
    monkeypatch.setattr(trials, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    assert for_device(granite, "cpu").args["mamba_ssm_cache_dtype"] == "float32"
    assert "mamba_ssm_cache_dtype" not in for_device(prepare({"model": SMALL, "gpu": "cpu"}), "cpu").args
    monkeypatch.setattr(trials, "cpu_flags", lambda: frozenset({"avx2"}))
    assert "mamba_ssm_cache_dtype" not in for_device(granite, "cpu").args


def test_a_plan_for_gpus_keeps_its_flags_on_a_cpu_but_for_gpu_memory():
    request = {"model": SMALL, "gpu": "H100", "gpu_memory_utilization": 0.8, "max_num_seqs": 7, "usage": "server"}
    inputs = for_device(prepare(request), "cpu")
    assert dict(inputs.args) == {"max_num_seqs": 7, "kv_cache_memory_bytes": 1 << 30}
    assert inputs.usage == "server"
    assert inputs.gpu.kind == "cpu"


def test_the_goal_of_a_plan_is_its_load_on_a_gpu_and_a_small_one_is_on_a_cpu():
    goal = {"concurrency": 30.0, "engines": 2, "input_len": 500, "output_len": 100}
    inputs = prepare({"model": SMALL, "gpu": "L4"})
    on_gpu = trial_of("one", inputs, Options(device="cuda", soak_minutes=1), goal)
    assert on_gpu.spec is not None
    assert on_gpu.spec.soak is not None
    (load,) = on_gpu.loads
    assert (load.concurrency, load.input_len, load.output_len) == (15, 500, 100)
    assert on_gpu.spec.soak.concurrency == 30
    assert on_gpu.gpus == 1
    (small,) = trial(goal=goal).loads
    assert (small.concurrency, small.input_len) == (4, 64)


def test_a_what_if_is_not_launched():
    inputs = prepare({"model": SMALL, "gpu": "L4", "what_if_quantization": "awq"})
    one = trial_of("one", inputs, Options(device="cuda"))
    assert one.spec is None
    assert one.obstacle is not None
    assert "must be made before" in one.obstacle


def test_a_plan_brings_its_own_options(capsys, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"plan": 1, "request": {"model": SMALL, "gpu": "L4"}}))
    for option, value in (("--gpu", "H100"), ("--what-if-quantization", "awq"), ("--gpu-memory-gib", "3")):
        code, _, err = cli_run(capsys, "validate", str(path), "--device", "cpu", "--dry-run", option, value)
        assert (code, err) == (2, f"vllm-fit: unexpected {option}: a plan brings its own\n")
    assert cli_run(capsys, "validate", str(path), "--device", "cpu", "--dry-run", "--vllm-version", "0.30.0")[0] == 0


def test_the_version_to_predict_for_may_be_named():
    inputs = prepare({"model": SMALL, "gpu": "cpu"})
    assert for_device(inputs, "cpu").version == trials.installed_vllm()
    assert str(for_device(inputs, "cpu", version=parse_version("0.30.0")).version) == "0.30.0"


def test_a_cpu_whose_kv_cache_is_too_small_says_which_flag_decides():
    one = trial_of("one", for_device(prepare({"model": "Qwen/Qwen3-0.6B", "gpu": "cpu"}), "cpu"), Options(device="cpu"))
    assert one.obstacle is not None
    assert one.obstacle.startswith("not launched, it would not start with --kv-cache-memory-bytes 1073741824: To serve")


def test_room_of_all_ranks():
    spec = LaunchSpec(
        config={},
        engine_args={"tensor_parallel_size": 2, "pipeline_parallel_size": 2},
        kv_cache_memory_bytes=1 << 30,
        expected_weights_bytes=3 << 30,
    )
    assert list(room_needed(spec).values()) == [6 << 30, 4 << 30, 6 << 30]


def test_dry_run_starts_nothing(capsys, tmp_path):
    words = ("--device", "cpu", "--serve", "--dry-run", "--tensor-parallel-size", "3", "--anyway")
    code, out, _ = cli_run(capsys, "validate", SMALL, *words, "--store", str(tmp_path / "history.sqlite"))
    assert code == 0
    assert "vllm serve HuggingFaceTB/SmolLM2-135M-Instruct --load-format dummy --tensor-parallel-size 3" in out
    assert "--host 127.0.0.1" in out
    assert "GiB are available" in out


def test_made_tokenizer_gives_prompts_of_the_length_asked_for(tmp_path):
    from transformers import AutoTokenizer

    (tmp_path / "config.json").write_text(json.dumps(load_config(SMALL).values))
    write_tokenizer(tmp_path, {"text_config": {"vocab_size": 500}})
    tokenizer: Any = AutoTokenizer.from_pretrained(str(tmp_path))
    ids = [7, 0, 499, 31, 7]
    assert tokenizer.encode(tokenizer.decode(ids)) == ids
    assert len(tokenizer) == 500


def test_used_memory_of_the_visible_gpus_alone(monkeypatch):
    """NVML is a stand-in: four GPUs of which the launch sees two, one named by its UUID."""
    used = {0: 10, 1: 11, 2: 12, "GPU-x": 13}
    nvml = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 4,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=used[handle]),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    spec = LaunchSpec(config={}, engine_args={}, device="cuda", environment={"CUDA_VISIBLE_DEVICES": "1,GPU-x"})
    watch = MemoryWatch(spec)
    used[1] = 100
    watch.mark("started", 0)
    used["GPU-x"] = 300
    watch.look(0, now=True)
    used["GPU-x"] = 200
    watch.look(0, now=True)
    event = watch.event()
    assert event["before"]["devices"] == (11, 13)
    assert event["started"]["devices"] == (100, 13)
    assert event["under_load"]["devices"] == (100, 300)
