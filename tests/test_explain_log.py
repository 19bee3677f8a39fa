"""`vllm-fit explain-log`: real wordings of vLLM 0.6 to 0.33 (tests/logs), success and failure, and hostile text."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner.errors import InputError
from planner.logs import Explanation, default_store, explain, explanation_text, pyrepr, read_log, save
from planner.logs.failures import outcome
from planner.logs.known import FAILURES, PLACES
from planner.logs.reader import read
from planner.logs.remedies import LEVERS
from planner.logs.store import row_of
from planner.logs.text import HEAD_BYTES, TAIL_BYTES, decode, normalised
from planner.logs.wordings import FIGURES
from planner.units import GIB

LOGS = Path(__file__).parent / "logs"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
H100 = "NVIDIA H100 SXM5 80GB"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def text_of(name: str) -> str:
    return read_log(LOGS / f"{name}.log")


def explained(name: str, **overrides: Any) -> Explanation:
    return explain(text_of(name), overrides=overrides)


# --- excerpts of public threads and logs ---------------------------------------------------------------------------

THREADS = [json.loads(line) for line in (LOGS / "threads.jsonl").read_text(encoding="utf-8").splitlines()]
"""vLLM's own lines as public issues have them: what ended each launch ("started" where nothing did), and figures."""


@pytest.mark.parametrize("thread", THREADS, ids=lambda thread: f"{thread['expected']}-{thread['source'][-40:]}")
def test_excerpts_of_threads(thread: dict[str, Any]) -> None:
    facts, log = read("\n".join(thread["lines"]) + "\n")
    found = outcome(facts, log)
    assert (found.diagnosis.code if found.diagnosis else found.word) == thread["expected"]
    figures = thread.get("figures", {})
    assert {name: facts.value(name) for name in figures} == figures


def test_many_kinds_of_threads() -> None:
    assert len(THREADS) >= 40
    assert len({thread["expected"] for thread in THREADS}) >= 15


# --- what is read --------------------------------------------------------------------------------------------------

FACTS: dict[str, dict[str, Any]] = {
    "v0.6.4_h100_started": {
        "version": "0.6.4.post1",
        "model": LLAMA,
        "backend": "FLASH_ATTN",
        "usage": "server",
        "engine": None,
        "args": {"max_model_len": 8192},
        "device_total_gib": 79.22,
        "torch_peak_gib": 16.23,
        "non_torch_gib": 0.62,
        "available_kv_gib": 54.45,
        "gpu_memory_utilization": 0.9,
        "model_loading_gib": 14.9888,
        "num_gpu_blocks": 27876,
        "max_concurrency": 54.45,
        "max_concurrency_len": 8192,
        "cudagraph_gib": 0.25,
    },
    "v0.6.6_tp2_started": {
        "version": "0.6.6.post1",
        "model": "Qwen/Qwen2.5-14B-Instruct",
        "usage": "server",
        "args": {"max_model_len": 8192, "tensor_parallel_size": 2, "gpu_memory_utilization": 0.95, "max_num_seqs": 64},
        "device_total_gib": 23.55,
        "gpu_memory_utilization": 0.95,
        "requested_gib": 22.37,
        "model_loading_gib": 13.93,
        "non_torch_gib": 0.40,
        "activation_peak_gib": 1.44,
        "available_kv_gib": 6.60,
        "num_gpu_blocks": 4505,
        "max_concurrency": 8.80,
        "cudagraph_gib": 0.22,
    },
    "v0.6.6_max_seq_len": {
        "version": "0.6.6",
        "args": {},
        "max_num_batched_tokens": 2048,
        "requested_gib": 21.17,
        "non_torch_gib": 0.09,
        "activation_peak_gib": 1.20,
        "available_kv_gib": 4.89,
        "num_gpu_blocks": 2503,
        "est_max_model_len": 40048,
        "error_max_model_len": 131072,
    },
    "v0.7.3_ray_oom_capture": {
        "version": "0.7.3",
        "engine": "V0",
        "num_gpu_blocks": 7340,
        "max_concurrency": 14.34,
        "available_kv_gib": 8.96,
        "args": {"max_model_len": 8192, "tensor_parallel_size": 4, "gpu_memory_utilization": 0.98},
    },
    "v0.8.5_kv_too_small": {
        "version": "0.8.5.post1",
        "engine": "V1",
        "backend": "FLASH_ATTN",
        "max_num_batched_tokens": 2048,
        "model_loading_gib": 14.9889,
        "kv_needed_gib": 16.0,
        "error_available_kv_gib": 5.34,
        "error_max_model_len": 131072,
    },
    "v0.8.5_sampler_oom": {
        "kv_cache_tokens": 92160,
        "max_concurrency": 5.63,
        "model_loading_gib": 9.0703,
        "cudagraph_gib": 0.55,
    },
    "v0.9.2_docker_started": {
        "version": "0.9.2",
        "model": "Qwen/Qwen3-8B",
        "available_kv_gib": 21.18,
        "kv_cache_tokens": 154240,
        "max_concurrency": 4.71,
        "max_concurrency_len": 32768,
        "cudagraph_gib": 0.31,
        "non_torch_gib": 0.09,
        "free_gib_on_start": 43.95,
        "max_model_len": 32768,
    },
    "v0.9.2_free_memory": {
        "free_gib_on_start": 29.41,
        "device_total_gib": 44.39,
        "gpu_memory_utilization": 0.9,
        "requested_gib": 39.95,
    },
    "v0.10.2_offline_started": {
        "version": "0.10.2",
        "usage": "offline",
        "architecture": "LlamaForCausalLM",
        "max_num_batched_tokens": 16384,
        "args": {"max_model_len": 4096},
        "free_gib_on_start": 78.66,
        "device_total_gib": 79.19,
        "requested_gib": 71.27,
        "model_loading_gib": 14.99,
        "activation_peak_gib": 4.76,
        "non_torch_gib": 0.1,
        "cudagraph_gib": 0.67,
        "available_kv_gib": 51.42,
        "kv_cache_tokens": 421200,
        "max_concurrency": 102.83,
    },
    "v0.11.0_tp2_started": {
        "version": "0.11.0",
        "gpu": "NVIDIA H100 80GB HBM3",
        "available_kv_gib": 34.48,
        "kv_cache_tokens": 282448,
        "non_torch_gib": 0.54,
        "cudagraph_gib": 0.82,
        "model_loading_gib": 30.59,
        "max_concurrency": 17.65,
    },
    "v0.11.2_no_cache_blocks_colours": {
        "version": "0.11.2",
        "backend": "FLASH_ATTN",
        "available_kv_gib": -3.45,
        "model_loading_gib": 61.0333,
    },
    "v0.14.0_auto_fit_started": {
        "max_model_len": 39392,
        "available_kv_gib": 4.81,
        "kv_cache_tokens": 39392,
        "max_concurrency": 1.0,
        "backend": "FLASH_ATTN",
    },
    "v0.17.0_oom_loading": {"version": "0.17.0", "model": "Qwen/Qwen3-32B"},
    "v0.19.0_crlf_started": {
        "version": "0.19.0",
        "backend": "FLASHINFER",
        "cudagraph_estimate_gib": 0.26,
        "cudagraph_gib": 0.19,
        "available_kv_gib": 13.86,
        "kv_cache_tokens": 201824,
    },
    "v0.21.0_started": {
        "version": "0.21.0",
        "backend": "TRITON_ATTN",
        "cudagraph_estimate_gib": 1.26,
        "cudagraph_gib": 0.98,
        "available_kv_gib": 41.99,
        "kv_cache_tokens": 404212,
        "activation_peak_gib": 4.74,
        "requested_gib": 71.26,
        "gpu_memory_utilization": 0.9,
    },
    "v0.24.0_json_kv_too_small": {
        "version": "0.24.0",
        "available_kv_gib": 4.41,
        "kv_needed_gib": 5.62,
        "est_max_model_len": 32112,
    },
    "v0.27.0_tp4_ep_started": {
        "gpu": "NVIDIA L40S",
        "available_kv_gib": 22.06,
        "activation_peak_gib": 2.34,
        "non_torch_gib": 0.95,
        "cudagraph_estimate_gib": 0.99,
        "kv_cache_tokens": 964864,
    },
    "v0.28.0_one_line_started": {
        "version": "0.28.0",
        "consumed_gib": 15.26,
        "activation_and_graphs_gib": 1.44,
        "cudagraph_gib": 0.23,
        "available_kv_gib": 56.21,
        "kv_cache_tokens": 460496,
        "max_concurrency": 3.51,
        "max_concurrency_len": 131072,
    },
    "v0.33.0_started": {
        "version": "0.33.0",
        "model": "Qwen/Qwen3-8B",
        "usage": "server",
        "consumed_gib": 15.71,
        "activation_peak_gib": 1.51,
        "activation_and_graphs_gib": 1.81,
        "cudagraph_estimate_gib": 0.41,
        "cudagraph_gib": 0.31,
        "available_kv_gib": 55.33,
        "kv_cache_tokens": 805744,
        "free_gib_on_start": 78.68,
        "max_num_batched_tokens": 8192,
    },
    "v0.15.1_three_launches_last_started": {"launches": 3, "max_concurrency_len": 32768, "kv_cache_tokens": 34144},
    "v0.21.0_truncated": {"stage": "profiling", "model_loading_gib": 15.27},
    "v0.8.5_no_kernel_5090": {"gpu": "NVIDIA GeForce RTX 5090"},
    "v0.6.3_bfloat16_t4": {"gpu": "Tesla T4", "version": "0.6.3.post1"},
}


@pytest.mark.parametrize("name", FACTS)
def test_figures_are_read(name: str) -> None:
    facts, _ = read(text_of(name))
    told = {
        "version": facts.version,
        "engine": facts.engine,
        "model": facts.model,
        "backend": facts.backend,
        "usage": facts.usage,
        "architecture": facts.architecture,
        "launches": facts.launches,
        "stage": facts.stage,
        "gpu": facts.gpu_names[0] if facts.gpu_names else None,
    }
    for key, wanted in FACTS[name].items():
        if key == "args":
            assert {name: value for name, value in facts.args.items() if name not in _ALWAYS} == wanted
        elif key in told:
            assert told[key] == wanted, key
        else:
            assert facts.value(key) == pytest.approx(wanted), key


_ALWAYS = ("model", "model_tag", "guided_decoding_backend", "disable_log_stats")


def test_every_fixture_is_looked_at() -> None:
    assert {path.stem for path in LOGS.glob("*.log")} == set(FACTS) | set(DIAGNOSES) | set(STARTED)
    assert len(list(LOGS.glob("*.log"))) >= 50


def test_the_smallest_cache_and_its_rank_are_taken() -> None:
    facts, _ = read(text_of("v0.6.6_tp2_started"))
    figure = facts.figures["available_kv_gib"]
    assert (figure.value, figure.process, figure.ranks) == (6.60, None, 2)
    assert facts.figures["non_torch_gib"].process is None
    ranks, _ = read(text_of("v0.11.0_tp2_started"))
    assert ranks.figures["available_kv_gib"].process == "Worker_TP0"
    assert ranks.figures["available_kv_gib"].ranks == 2


# --- why it failed -------------------------------------------------------------------------------------------------

DIAGNOSES: dict[str, tuple[str, dict[str, str]]] = {
    "v0.6.6_max_seq_len": ("kv_too_small_for_one_request", {"length": "131072", "tokens": "40048"}),
    "v0.7.3_ray_oom_capture": ("oom_graph_capture", {"tried": "2.00 MiB", "free": "448.00 KiB"}),
    "v0.8.5_kv_too_small": ("kv_too_small_for_one_request", {"needed": "16.00", "available": "5.34"}),
    "v0.8.5_sampler_oom": ("oom_sampler_warmup", {"requests": "1024"}),
    "v0.9.2_free_memory": ("free_memory_below_requested", {"free": "29.41", "total": "44.39", "requested": "39.95"}),
    "v0.11.2_no_cache_blocks_colours": ("no_cache_blocks", {}),
    "v0.12.0_memory_profiling": ("memory_profiling_error", {"before": "42.94", "after": "50.17"}),
    "v0.17.0_oom_loading": ("oom_loading", {"tried": "250.00 MiB", "where": "loading weights"}),
    "v0.18.0_oom_profile": ("oom_profile_run", {"tried": "1.75 GiB"}),
    "v0.24.0_json_kv_too_small": ("kv_too_small_for_one_request", {"length": "40960"}),
    "v0.29.0_no_cache_blocks": ("no_cache_blocks", {}),
    "v0.33.0_kv_too_small": ("kv_too_small_for_one_request", {"needed": "16.0", "available": "4.9"}),
    "v0.10.1_oom_runtime": ("oom_runtime", {"tried": "298.00 MiB"}),
    "v0.6.5_killed": ("killed_host_oom", {}),
    "v0.18.1_kubernetes_oomkilled": ("killed_host_oom", {}),
    "v0.11.0_architecture": ("architecture_unknown", {"what": "'Qwen4ForCausalLM'"}),
    "v0.8.5_no_implementation": ("architecture_unknown", {"what": "Qwen3_5ForConditionalGeneration"}),
    "v0.6.3_not_inspected": ("architecture_not_inspected", {"what": "LlamaForCausalLM"}),
    "v0.16.0_model_type": ("model_type_unknown", {"what": "qwen3_5"}),
    "v0.9.1_trust_remote_code": ("trust_remote_code", {}),
    "v0.12.0_tokenizer": ("no_tokenizer", {}),
    "v0.19.1_chat_template": ("no_chat_template", {}),
    "v0.16.0_gated": ("gated_model", {"what": LLAMA}),
    "v0.16.0_not_found": ("model_not_found", {"what": "meta-lama/Llama-3.1-8B"}),
    "v0.13.0_no_network": ("no_network", {}),
    "v0.9.0_driver_too_old": ("driver_too_old", {"what": "11040"}),
    "v0.15.0_driver_803": ("driver_mismatch", {}),
    "v0.8.5_no_kernel_5090": ("no_kernel_for_gpu", {}),
    "v0.10.0_heads": ("heads_not_divisible", {"heads": "28", "tp": "8"}),
    "v0.12.0_block_not_divisible": ("shard_not_divisible", {}),
    "v0.11.0_derived_max_len": ("max_model_len_too_large", {"given": "131072", "derived": "40960"}),
    "v0.10.2_quantization_capability": ("quantization_needs_capability", {"what": "awq", "needed": "75", "have": "70"}),
    "v0.6.3_bfloat16_t4": ("bfloat16_needs_ampere", {"what": "Tesla T4"}),
    "v0.14.1_world_size": ("not_enough_gpus", {"wanted": "8", "have": "4"}),
    "v0.17.1_placement_group": ("not_enough_gpus", {"wanted": "16.0"}),
    "v0.7.3_ray_waiting": ("waiting_for_gpus", {}),
    "v0.11.0_shm": ("shared_memory_too_small", {}),
    "v0.8.3_nccl": ("nccl_error", {}),
    "v0.10.0_port": ("port_in_use", {}),
    "v0.11.0_nvcc": ("compiler_missing", {"what": "nvcc"}),
    "v0.8.2_c_compiler": ("compiler_missing", {}),
    "v0.16.0_ninja": ("kernel_compilation", {}),
    "v0.10.2_permission": ("permission_denied", {"what": "/.cache"}),
    "v0.9.2_freeze_support": ("main_guard", {}),
    "v0.15.1_unknown_error": ("unknown", {}),
}
STARTED = (
    "v0.6.4_h100_started",
    "v0.6.6_tp2_started",
    "v0.9.2_docker_started",
    "v0.10.2_offline_started",
    "v0.11.0_tp2_started",
    "v0.14.0_auto_fit_started",
    "v0.19.0_crlf_started",
    "v0.21.0_started",
    "v0.27.0_tp4_ep_started",
    "v0.28.0_one_line_started",
    "v0.32.0_cpu_started",
    "v0.33.0_started",
    "v0.15.1_three_launches_last_started",
)


@pytest.mark.parametrize("name", DIAGNOSES)
def test_diagnosis(name: str) -> None:
    code, details = DIAGNOSES[name]
    result = explained(name)
    diagnosis = result.diagnosis
    assert diagnosis is not None
    assert diagnosis.code == code
    assert details.items() <= diagnosis.details.items()
    assert diagnosis.cause.endswith(".")
    assert diagnosis.fix
    assert "?" not in diagnosis.cause
    assert diagnosis.sentence
    line = " ".join(normalised(text_of(name)).split("\n")[diagnosis.line - 1].split())
    assert diagnosis.sentence[:12] in line or code == "unknown"


@pytest.mark.parametrize("name", STARTED)
def test_a_start_is_no_failure(name: str) -> None:
    facts, log = read(text_of(name))
    result = outcome(facts, log)
    assert result.word == "started"
    assert result.diagnosis is None


def test_every_failure_of_the_table_has_a_log() -> None:
    shown = {code for code, _ in DIAGNOSES.values()} | {thread["expected"] for thread in THREADS}
    known = {failure.code for failure in FAILURES} | {place.code for place in PLACES}
    assert known - shown == {
        # Worded in one sentence of one version, checked below.
        "cannot_auto_fit",
        "no_weights",
        "gpu_hardware",
        "quantization_unknown",
        "lora_rank",
        "unknown_flag",
        "disk_full",
        "broken_installation",
        "oom_kv_cache",
        "oom_warmup",
    }


SENTENCES = {
    "ValueError: Cannot auto-fit max_model_len: not enough GPU memory available to serve even a single token. Try "
    "increasing `gpu_memory_utilization`.": "cannot_auto_fit",
    "RuntimeError: Cannot find any model weights with `/models/x`": "no_weights",
    "RuntimeError: No CUDA GPUs are available": "no_gpu",
    "RuntimeError: Failed to infer device type": "no_gpu",
    "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered": "gpu_hardware",
    "ValueError: Unknown quantization method: exl3. Must be one of ['awq', 'fp8'].": "quantization_unknown",
    "ValueError: Quantization method specified in the model config (gptq) does not match the quantization method "
    "specified in the `quantization` argument (awq).": "quantization_unknown",
    "ValueError: LoRA rank 32 is greater than max_lora_rank 16.": "lora_rank",
    "vllm: error: unrecognized arguments: --swap-space 4": "unknown_flag",
    "OSError: [Errno 28] No space left on device": "disk_full",
    "ImportError: /opt/vllm/_C.abi3.so: undefined symbol: _ZN3c104cuda9SetDeviceEi": "broken_installation",
    "ModuleNotFoundError: No module named 'flash_attn'": "broken_installation",
    "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB. GPU 0 has a total capacty of 23.65 "
    "GiB of which 98.25 MiB is free.": "oom_loading",
    "RuntimeError: CUDA error: out of memory": "oom_loading",
    "RuntimeError: NCCL error: remote process exited or there was a network error": "nccl_error",
    "[rank1]: torch.distributed.DistBackendError: Duplicate GPU detected : rank 1 and rank 0 both on CUDA device": (
        "nccl_error"
    ),
    "Fatal Python error: Bus error": "shared_memory_too_small",
    "RuntimeError: unable to open shared memory object </torch_77> in read-write mode": "shared_memory_too_small",
    "RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the "
    "'spawn' start method": "main_guard",
    "ERROR:    [Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use": (
        "port_in_use"
    ),
    "ValueError: The number of required GPUs exceeds the total number of available GPUs in the placement group.": (
        "not_enough_gpus"
    ),
    "OSError: Can't load tokenizer for 'org/x'. If you were trying to load it from": "no_tokenizer",
    "ERROR 03-31 15:45 [core.py:340] ChildProcessError: worker died (-9)": "killed_host_oom",
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_single_sentences(sentence: str) -> None:
    facts, log = read(f"INFO [api_server.py:1] vLLM API server version 0.11.0\n{_TRACEBACK}\n{sentence}\n")
    diagnosis = outcome(facts, log).diagnosis
    assert diagnosis is not None
    assert diagnosis.code == SENTENCES[sentence]


_TRACEBACK = "Traceback (most recent call last):"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ("in _initialize_kv_caches\nin initialize_from_config\nin _allocate_kv_cache_tensors", "oom_kv_cache"),
        ("in _initialize_kv_caches\nin determine_available_memory\nin profile_run\nin forward", "oom_profile_run"),
        ("in determine_available_memory\nin profile_cudagraph_memory\nin _dummy_run", "oom_graph_capture"),
        ("in compile_or_warm_up_model\nin capture_model", "oom_graph_capture"),
        ("in compile_or_warm_up_model\nin kernel_warmup", "oom_warmup"),
        ("in load_model\nin get_model\nin create_weights", "oom_loading"),
        ("in determine_num_available_blocks\nin profile_run\nin execute_model", "oom_profile_run"),
        ("in run_busy_loop\nin execute_model", "oom_runtime"),
    ],
)
def test_where_the_memory_ran_out(frames: str, code: str) -> None:
    called = "\n".join(f'  File "/opt/vllm/x.py", line 1, {frame}' for frame in frames.split("\n"))
    error = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 MiB."
    facts, log = read(f"Initializing a V1 LLM engine (v0.12.0)\n{_TRACEBACK}\n{called}\n{error}\n")
    diagnosis = outcome(facts, log).diagnosis
    assert diagnosis is not None
    assert diagnosis.code == code


def test_the_first_real_error_is_named_not_its_echo() -> None:
    diagnosis = explained("v0.15.1_unknown_error").diagnosis
    assert diagnosis is not None
    assert diagnosis.sentence.startswith("RuntimeError: The size of tensor a (4096)")
    assert diagnosis.process == "EngineCore_DP0"


def test_a_request_that_fails_is_not_a_failed_launch() -> None:
    result = explained("v0.19.1_chat_template", gpu="H100-SXM-80GB")
    assert result.outcome.word == "started"
    assert "What went wrong" in explanation_text(result)


def test_a_failure_after_the_start_is_found_and_what_came_before_it_is_not() -> None:
    before = text_of("v0.33.0_started").replace("INFO 11-18 09:00:12", "ERROR NCCL error: survived 09:00:12", 1)
    facts, log = read(before)
    assert outcome(facts, log).diagnosis is None
    after = before + "(EngineCore pid=88) ERROR EngineCore encountered a fatal error.\nRuntimeError: NCCL error: gone\n"
    facts, log = read(after)
    diagnosis = outcome(facts, log).diagnosis
    assert diagnosis is not None
    assert diagnosis.sentence.endswith("NCCL error: gone")


# --- beside the prediction -----------------------------------------------------------------------------------------


def row(result: Explanation, name: str) -> tuple[Any, Any]:
    found = next(comparison for comparison in result.comparisons if comparison.name == name)
    return found.printed, found.predicted


def test_printed_beside_predicted() -> None:
    result = explained("v0.10.2_offline_started", gpu="H100-SXM-80GB")
    assert result.estimate is not None
    assert result.estimate.gpu.name == H100
    assert result.estimate.gpu.memory_bytes == round(79.19 * GIB)  # the log's total, not the catalogue's
    assert result.inputs is not None
    assert result.inputs.usage == "offline"
    for name, tolerance in (("model loading", 0.02), ("peak activation", 0.2), ("available KV cache memory", 0.5)):
        printed, predicted = row(result, name)
        assert predicted == pytest.approx(printed, abs=tolerance)
    printed, predicted = row(result, "KV cache size")
    assert predicted == pytest.approx(printed, rel=0.01)
    assert row(result, "attention backend") == ("FLASH_ATTN", "FLASH_ATTN")
    assert result.foreseen is True
    text = explanation_text(result)
    assert "it started" in text
    assert "51.42" in text


def test_a_cpu_engine() -> None:
    result = explained("v0.32.0_cpu_started")
    assert result.estimate is not None
    assert result.estimate.gpu.name == "CPU"
    printed, predicted = row(result, "KV cache size")
    assert predicted == pytest.approx(printed, rel=0.001)
    assert result.foreseen is True


def test_the_card_is_read_from_the_log_where_it_is_named() -> None:
    result = explained("v0.11.0_tp2_started")
    assert result.estimate is not None
    assert result.estimate.gpu.name == H100
    assert result.asked.request["tensor_parallel_size"] == 2
    assert "kv_transfer_config" in result.asked.request


@pytest.mark.parametrize("name", STARTED)
def test_what_is_missing_is_asked_for(name: str) -> None:
    facts, _ = read(text_of(name))
    if facts.gpu_names:
        return
    with pytest.raises(InputError, match="which card it is: pass --gpu"):
        explained(name)


def test_a_total_that_fits_several_cards_names_them() -> None:
    with pytest.raises(InputError, match=r"79\.19 GiB in the log fit .*H100 SXM5"):
        explained("v0.10.2_offline_started")


def test_without_a_prediction_a_failure_is_still_explained() -> None:
    result = explained("v0.24.0_json_kv_too_small")
    assert result.estimate is None
    assert result.not_predicted is not None
    assert "--gpu" in result.not_predicted
    text = explanation_text(result)
    assert "One request of full length (40960 tokens)" in text
    assert "no prediction: " in text


def test_a_log_without_head_says_all_that_is_missing() -> None:
    lines = "INFO [gpu_worker.py:298] Available KV cache memory: 4.41 GiB\n"
    with pytest.raises(InputError) as caught:
        explain(lines, overrides={})
    for flag in ("--model", "--gpu", "--vllm-version"):
        assert flag in str(caught.value)
    result = explain(lines, overrides={"model": "Qwen/Qwen3-8B", "gpu": "4090", "vllm_version": "0.12.0"})
    assert row(result, "available KV cache memory")[0] == 4.41


def test_overrides_win() -> None:
    result = explained("v0.21.0_truncated", gpu="L40S", vllm_version="0.19.0", max_model_len=2048, gpu_memory_gib=40.0)
    assert result.estimate is not None
    assert result.estimate.engine is not None
    assert str(result.estimate.engine.vllm_version) == "0.19.0"
    assert result.estimate.engine.max_model_len == 2048
    assert result.estimate.gpu.memory_bytes == 40 * GIB
    assert result.outcome.word == "unknown"


def test_a_version_newer_than_known_is_predicted_as_the_newest() -> None:
    text = text_of("v0.33.0_started").replace("0.33.0", "0.41.2rc1")
    result = explain(text, overrides={"gpu": "H100-SXM-80GB"})
    assert any("newer than" in note for note in result.asked.notes)
    assert result.estimate is not None


def test_a_development_build_asks_for_its_release() -> None:
    text = text_of("v0.33.0_started").replace("0.33.0", "0.1.dev1+gabcdef")
    with pytest.raises(InputError, match="--vllm-version"):
        explain(text, overrides={"gpu": "H100-SXM-80GB"})


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/models/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("/root/.cache/huggingface/hub/models--Qwen--Qwen3-8B/snapshots/abc123", "Qwen/Qwen3-8B"),
    ],
)
def test_a_folder_is_known_by_its_name(path: str, model: str) -> None:
    result = explain(text_of("v0.33.0_started").replace("Qwen/Qwen3-8B", path), overrides={"gpu": "H100-SXM-80GB"})
    assert result.asked.request["model"] == model


def test_vllm_refused_for_memory_others_hold_and_so_does_the_prediction() -> None:
    result = explained("v0.9.2_free_memory", gpu="L40S")
    assert result.estimate is not None
    assert result.estimate.reasons[0].code == "free_memory_below_requested"
    assert result.foreseen is True
    assert result.remedies[0].command == "--gpu-memory-utilization 0.66"


# --- what fixes it -------------------------------------------------------------------------------------------------


def commands(result: Explanation) -> list[str]:
    return [remedy.command for remedy in result.remedies]


def test_the_longest_request_that_fits_comes_from_the_printed_memory() -> None:
    result = explained("v0.33.0_kv_too_small", gpu="4090")
    assert result.foreseen is True
    shorter = result.remedies[0]
    length = shorter.flags["max_model_len"]
    assert 39_900 <= length <= 40_112  # vLLM itself: 40,112
    assert shorter.tokens is not None
    assert shorter.tokens >= length
    assert all(remedy.max_concurrency is None or remedy.max_concurrency >= 1 for remedy in result.remedies)


def test_0_8_prints_no_length_and_gets_one() -> None:
    result = explained("v0.8.5_kv_too_small", gpu="4090")
    assert result.remedies[0].flags["max_model_len"] == pytest.approx(5.34 * GIB / (131072), rel=0.01)


def test_no_room_at_all_needs_a_larger_share_or_more_cards() -> None:
    result = explained("v0.11.2_no_cache_blocks_colours", gpu="H100-SXM-80GB")
    assert "--tensor-parallel-size 2" in commands(result)
    share = result.remedies[0].flags["gpu_memory_utilization"]
    assert 0.85 < share < 0.97
    assert "--kv-cache-dtype fp8" not in commands(result)  # it had that already


def test_weights_that_do_not_fit_are_spread() -> None:
    assert commands(explained("v0.17.0_oom_loading", gpu="L40S"))[0] == "--tensor-parallel-size 2"


def test_the_sampler_is_given_fewer_requests() -> None:
    assert commands(explained("v0.8.5_sampler_oom", gpu="4090"))[0] == "--max-num-seqs 256"


def test_graphs_get_room_beside_the_share() -> None:
    result = explained("v0.7.3_ray_oom_capture", gpu="L40S")
    assert result.remedies[0].flags["gpu_memory_utilization"] < 0.98
    assert "--enforce-eager" in commands(result)


def test_where_no_single_flag_is_enough_the_ladder_is_climbed() -> None:
    text = (
        text_of("v0.17.0_oom_loading")
        .replace("44.39 GiB", "23.53 GiB")
        .replace("Qwen/Qwen3-32B", LLAMA[:-9].replace("8B", "70B") + "-Instruct")
    )
    result = explain(text, overrides={"gpu": "4090", "tensor_parallel_size": 8, "max_model_len": 131072})
    assert result.remedies == () or result.remedies[0].flags


def test_levers_and_failures_agree() -> None:
    known = {failure.code for failure in FAILURES if failure.about == "memory"} | {place.code for place in PLACES}
    assert set(LEVERS) <= known
    assert known - set(LEVERS) == {"memory_profiling_error", "killed_host_oom"}


# --- the answer as data --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*STARTED, *DIAGNOSES])
def test_to_dict_is_json_and_text_is_printable(name: str) -> None:
    result = explained(name, gpu="cpu" if "cpu" in name else "H100-SXM-80GB")
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert told["outcome"] in ("started", "failed")
    assert set(told) == {
        "outcome",
        "foreseen",
        "diagnosis",
        "remedies",
        "comparisons",
        "log",
        "request",
        "notes",
        "not_predicted",
        "estimate",
    }
    text = explanation_text(result)
    assert all(character.isprintable() for line in text.split("\n") for character in line)


def test_a_log_cannot_drive_the_terminal() -> None:
    text = (
        "vLLM API server version 0.11.0\n"
        "non-default args: {'model': 'a\\x1b]0;owned\\x07b', 'gpu_memory_utilization': 0.9}\n"
        "Traceback (most recent call last):\nValueError: \x9b31mred \u202e reversed\n"
    )
    result = explain(text, overrides={})
    for told in (explanation_text(result), str(result.not_predicted)):
        assert not any(character in told for character in "\x1b\x07\x9b\u202e")


# --- arguments read back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values", "unread"),
    [
        ("{'a': 1, 'b': 'x, y', 'c': [1, 2.5], 'd': None}", {"a": 1, "b": "x, y", "c": [1, 2.5], "d": None}, []),
        ("{'f': <LoadFormat.AUTO: 'auto'>, 'm': <Mode.FULL: (2, 1)>}", {"f": "auto", "m": "FULL"}, []),
        ("{'k': KVConfig(role='both', n=2), 'p': PosixPath('/x')}", {"k": {"role": "both", "n": 2}, "p": "/x"}, []),
        ("{'f': <function f at 0x7f>, 'z': True}", {"z": True}, ["f"]),
        (
            "{'q': \"it's\", 'e': 'a\\'b', 's': {1, 2}, 'x': {'y': {'z': []}}}",
            {"q": "it's", "e": "a'b", "s": [1, 2], "x": {"y": {"z": []}}},
            [],
        ),
        ("{'cut': 'off", {}, ["cut"]),
        ("{'inf': 1e999, 'n': -3, 'd': torch.bfloat16}", {"n": -3, "d": "torch.bfloat16"}, ["inf"]),
        ("{", {}, []),
    ],
)
def test_python_printing(text: str, values: dict[str, Any], unread: list[str]) -> None:
    assert pyrepr.read_dict(text, 0) == (values, unread)


def test_keywords() -> None:
    line = 'model=\'a/b\', dtype=torch.bfloat16, q=None, c={"x":[1,2],"y":null}, name=a/b-c, load=LoadFormat.AUTO,'
    values, unread = pyrepr.read_keywords(line, 0)
    assert unread == []
    assert values == {
        "model": "a/b",
        "dtype": "torch.bfloat16",
        "q": None,
        "c": {"x": [1, 2], "y": None},
        "name": "a/b-c",
        "load": "LoadFormat.AUTO",
    }


@given(st.text(max_size=300))
def test_python_printing_of_anything(text: str) -> None:
    pyrepr.read_dict("{" + text, 0)
    pyrepr.read_keywords(text, 0)


def test_deep_nesting_is_no_trouble() -> None:
    assert pyrepr.read_dict("{'a': " + "[" * 100_000, 0) == ({}, ["a"])
    assert pyrepr.read_dict("{'a': " + "[1," * 100_000 + ", 'b': 2}", 0)[1] == ["a"]


# --- shapes of logs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    plain = (LOGS / "v0.9.2_free_memory.log").read_text(encoding="utf-8")
    path.write_bytes(plain.encode(encoding))
    facts, _ = read(read_log(path))
    assert facts.value("free_gib_on_start") == 29.41


@pytest.mark.parametrize("name", ["v0.11.0_tp2_started", "v0.6.6_tp2_started", "v0.33.0_kv_too_small"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda line: f"vllm-1  | {line}",
        lambda line: f"2026-06-20T08:00:00.123456789Z stdout F {line}",
        lambda line: f"\x1b[32m{line}\x1b[0m",
        lambda line: f"> {line}",
        lambda line: f"│ {line:<400} │",
        lambda line: json.dumps({"asctime": "06-20", "levelname": "INFO", "message": line}),
    ],
)
def test_prefixes_do_not_matter(name: str, wrap: Any) -> None:
    plain = text_of(name)
    wrapped = "\n".join(wrap(line) for line in plain.split("\n"))
    bare, dressed = read(plain)[0], read(wrapped)[0]
    assert {n: f.value for n, f in dressed.figures.items()} == {n: f.value for n, f in bare.figures.items()}
    assert dressed.args == bare.args
    assert dressed.version == bare.version
    ours, theirs = outcome(*read(plain)), outcome(*read(wrapped))
    assert ours.word == theirs.word
    assert (ours.diagnosis and ours.diagnosis.code) == (theirs.diagnosis and theirs.diagnosis.code)


def test_a_log_in_which_lines_were_lost_anywhere() -> None:
    lines = text_of("v0.27.0_tp4_ep_started").split("\n")
    for start in range(0, len(lines), 3):
        facts, log = read("\n".join(lines[start:]))
        outcome(facts, log)
        read("\n".join(lines[:start]))


def test_no_log_at_all() -> None:
    for text in ("", "\n\n", "hello", "def f(): pass", "\x00" * 100):
        with pytest.raises(InputError, match="no line of a vLLM start-up log"):
            explain(text, overrides={})


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read_log(tmp_path / "missing.log")
    with pytest.raises(InputError):
        read_log(tmp_path)


def test_of_a_huge_file_head_and_tail_are_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.log"
    with path.open("wb") as file:
        file.write(b"vLLM API server version 0.12.0\n")
        file.seek(HEAD_BYTES + TAIL_BYTES + (30 << 20))
        file.write(b"\nINFO Available KV cache memory: 4.41 GiB\n")
    text = read_log(path)
    assert len(text) <= HEAD_BYTES + TAIL_BYTES + 1
    facts, _ = read(text)
    assert (facts.version, facts.value("available_kv_gib")) == ("0.12.0", 4.41)


_UNITS = (
    "x", "( pid=1) ", "Error: ", "{'a': ", "non-default args: {", "args: Namespace(a=[", "\x1b[", "^[[", "[", "'", "\\",
    "9", "GiB KV cache is needed ", "a.", "out of memory", "/dev/shm/", "Traceback (most recent call last)\n", "\r",
    "{\n", '{"', '{"a":1}\n', "INFO vLLM API server version 0.9.0\n",
)  # fmt: skip


@pytest.mark.parametrize("unit", _UNITS)
def test_two_megabytes_of_anything(unit: str) -> None:
    _is_read_within(30, unit, 2 << 20)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["x", "a.", "{'a': ", '{"', "non-default args: {", "INFO Error: KV cache size: \n"])
def test_fifty_megabytes_of_anything(unit: str) -> None:
    _is_read_within(120, unit, 50 << 20)


def _is_read_within(seconds: float, unit: str, size: int) -> None:
    text = unit * (size // len(unit))
    started = time.process_time()
    with contextlib.suppress(InputError):
        explain(text, overrides={})
    assert time.process_time() - started < seconds


# --- anything at all -----------------------------------------------------------------------------------------------

_PIECES = [line for path in sorted(LOGS.glob("*.log")) for line in decode(path.read_bytes()).split("\n") if line][::3]
_PIECES += [pattern.literal for pattern in FIGURES] + [sign.literal for failure in FAILURES for sign in failure.signs]
_OVERRIDES = {"model": LLAMA, "gpu": "H100-SXM-80GB", "vllm_version": "0.12.0"}


def _survives(text: str, overrides: dict[str, Any]) -> None:
    try:
        result = explain(text, overrides=overrides)
    except InputError:
        return
    json.dumps(result.to_dict(), allow_nan=False)
    explanation_text(result)


@given(st.text(max_size=500))
@settings(deadline=None, max_examples=60)
def test_any_text(text: str) -> None:
    _survives(text, {})
    _survives(text, _OVERRIDES)


@given(st.lists(st.one_of(st.sampled_from(_PIECES), st.text(max_size=20)), max_size=12))
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_any_lines_of_logs(lines: list[str]) -> None:
    _survives("\n".join(lines), _OVERRIDES)
    _survives(" ".join(lines), _OVERRIDES)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_NAMES = [
    "max_model_len",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "max_num_seqs",
    "max_num_batched_tokens",
    "block_size",
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "speculative_config",
    "compilation_config",
    "hf_overrides",
    "limit_mm_per_prompt",
    "cpu_offload_gb",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "num_gpu_blocks_override",
    "rope_scaling",
    "max_loras",
    "enable_lora",
    "attention_backend",
]


@given(st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=5), st.sampled_from(sorted(DIAGNOSES)))
@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
def test_any_arguments(args: dict[str, Any], name: str) -> None:
    head = f"vLLM API server version 0.12.0\nnon-default args: {args!r}\n"
    tail = "\n".join(text_of(name).split("\n")[-6:])
    _survives(head + tail, {"model": LLAMA, "gpu": "H100-SXM-80GB"})


# --- a person's own measurements -----------------------------------------------------------------------------------


def test_save_adds_a_row_like_the_measured_ones_once(tmp_path: Path) -> None:
    path = tmp_path / "data" / "launches.jsonl"
    result = explained("v0.28.0_one_line_started", gpu="H100-SXM-80GB")
    assert save(result, path) is True
    assert save(result, path) is False
    assert save(explained("v0.33.0_kv_too_small", gpu="4090"), path) is True
    first, second = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    assert first["measured"]["available_kv_gib"] == 56.21
    assert first["measured"]["activation_peak_gib"] == 1.44
    assert first["measured"]["kv_cache_tokens"] == 460496
    assert (first["model"], first["gpu"], first["vllm_version"], first["tp"]) == (LLAMA, H100, "0.28.0", 1)
    assert (first["outcome"], second["outcome"], second["error_kind"]) == (
        "starts",
        "fails",
        "kv_too_small_for_one_request",
    )
    repository = Path(__file__).parent.parent / "planner" / "measured" / "launches.jsonl"
    known = {key for line in repository.read_text(encoding="utf-8").splitlines() for key in json.loads(line)}
    assert set(first) - known == {"engine", "usage"}  # more than the public logs tell


def test_save_after_a_line_that_a_crash_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "launches.jsonl"
    path.write_bytes(b'{"id": "half')
    save(explained("v0.28.0_one_line_started", gpu="H100-SXM-80GB"), path)
    lines = path.read_bytes().split(b"\n")
    assert lines[0] == b'{"id": "half'
    assert json.loads(lines[1])["vllm_version"] == "0.28.0"


def _save_one(arguments: tuple[str, str]) -> bool:
    name, path = arguments
    return save(explained(name, gpu="H100-SXM-80GB"), Path(path))


def test_two_savers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "launches.jsonl"
    jobs = [(name, str(path)) for name in ("v0.28.0_one_line_started", "v0.33.0_started") for _ in range(3)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        added = pool.map(_save_one, jobs)
    assert sum(added) == 2
    assert len([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]) == 2


def test_nothing_to_save() -> None:
    with pytest.raises(InputError, match="not saved"):
        row_of(explained("v0.24.0_json_kv_too_small"))
    with pytest.raises(InputError, match="no figure"):
        row_of(explained("v0.10.0_port", gpu="L40S"))


def test_the_store_is_the_persons_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_store() == tmp_path / "vllm-fit" / "launches.jsonl"
    assert save(explained("v0.33.0_started", gpu="H100-SXM-80GB")) is True
    assert default_store().is_file()


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be written"):
        save(explained("v0.33.0_started", gpu="H100-SXM-80GB"), tmp_path / "file" / "x.jsonl")
