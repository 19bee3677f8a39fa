"""The rest of the card: peak activation from first principles, graphs, what is outside the budget, the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from planner.errors import InputError
from planner.hardware.catalogue import find_gpu
from planner.memory import activation, overhead
from planner.memory.budget import Estimate
from planner.request import prepare
from planner.units import GIB, MIB

LLAMA, QWEN, GPT_OSS = "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-0.6B", "openai/gpt-oss-120b"
VISION = "nvidia/Qwen3.6-35B-A3B-NVFP4"


def estimated(model: str = LLAMA, gpu: str = "H100-SXM-80GB", **asked: Any) -> Estimate:
    return prepare({"model": model, "gpu": gpu, **asked}).estimate()


def peak(**asked: Any) -> float:
    beside = estimated(**asked).overhead
    assert beside is not None
    return beside.activation_peak / GIB


@pytest.mark.parametrize(
    ("asked", "measured"),
    [
        ({"vllm_version": "0.19.0"}, 1.89),
        ({"vllm_version": "0.19.0", "dtype": "float32"}, 2.21),
        ({"vllm_version": "0.11.0"}, 4.76),
        ({"model": "google/gemma-2-27b-it", "vllm_version": "0.19.0"}, 3.66),
        ({"model": "Qwen/Qwen3-14B", "vllm_version": "0.17.0"}, 2.23),
        ({"model": "openai/gpt-oss-20b", "vllm_version": "0.19.0"}, 2.87),
        ({"model": "codellama/CodeLlama-7b-hf", "vllm_version": "0.19.0"}, 0.77),
        ({"model": "mistralai/Mixtral-8x7B-Instruct-v0.1", "vllm_version": "0.19.0", "tensor_parallel_size": 2}, 1.21),
        ({"vllm_version": "0.19.0", "pipeline_parallel_size": 2}, 1.89),
    ],
)
def test_peak_activation_of_measured_launches(asked: Mapping[str, Any], measured: float):
    assert peak(**asked) == pytest.approx(measured, abs=0.02)


def test_a_stage_that_does_not_sample_passes_its_hidden_states_on():
    stages = estimated(vllm_version="0.19.0", pipeline_parallel_size=2).overheads
    assert stages[0].activation_peak / GIB == pytest.approx(1.10, abs=0.02)


def test_v0_on_an_old_card_profiles_the_whole_context():
    """Printed by 0.8.5 on a V100: 4.35 GiB."""
    assert peak(model="Qwen/Qwen2.5-7B-Instruct", gpu="V100-32GB", vllm_version="0.8.5") == pytest.approx(
        4.35, abs=0.06
    )


def test_the_sampler_is_smaller_in_the_second_runner_until_it_is_warmed_up_in_the_profile_run():
    """0.28 prints 0.15 GiB for Qwen3-4B on a 24 GB card."""
    rows = {v: peak(model="Qwen/Qwen3-4B", gpu="RTX 4090", vllm_version=v) for v in ("0.25.0", "0.28.0", "0.33.0")}
    assert rows["0.28.0"] == pytest.approx(0.15, abs=0.01)
    assert rows["0.28.0"] < rows["0.33.0"]


# --- the vision tower ------------------------------------------------------------------------------------------------


def vision(**asked: Any) -> Any:
    inputs = prepare({"model": VISION, "gpu": "RTX 5090", "vllm_version": "0.24.0", **asked})
    engine = inputs.estimate().engine
    assert engine is not None
    return activation.encoder_run(inputs.model, engine)


def test_the_tower_computes_one_image_of_16384_tokens():
    run = vision(max_num_batched_tokens=8192, max_num_seqs=1)
    assert run.peak / GIB == pytest.approx(1.8, abs=0.1)
    assert run.kept == 2 * (16_384 * 2048 + 65_536 * 1536)


@pytest.mark.parametrize(
    "asked",
    [
        {"skip_mm_profiling": True},
        {"language_model_only": True},
        {"limit_mm_per_prompt": {"image": 0, "video": 0}},
        {"vllm_version": "0.6.6"},
    ],
)
def test_the_tower_does_not_run(asked: Mapping[str, Any]):
    assert vision(**asked).peak == 0


def test_the_second_runner_runs_the_tower_since_0_27():
    inputs = prepare({"model": "google/gemma-3-4b-it", "gpu": "H100-SXM-80GB", "vllm_version": "0.26.0"})
    before = inputs.estimate().engine
    after = (
        prepare({"model": "google/gemma-3-4b-it", "gpu": "H100-SXM-80GB", "vllm_version": "0.27.0"}).estimate().engine
    )
    assert before is not None
    assert after is not None
    assert before.use_v2_model_runner
    assert not activation.runs_encoder(inputs.model, before)
    assert activation.runs_encoder(inputs.model, after)


def test_smaller_images_take_less():
    small = vision(mm_processor_kwargs={"max_pixels": 1024 * 1024}, max_num_batched_tokens=1024)
    assert small.peak < vision(max_num_batched_tokens=1024).peak / 8


def test_several_images_are_computed_at_once_when_the_budget_holds_them():
    inputs = prepare({"model": "google/gemma-3-4b-it", "gpu": "H100-SXM-80GB", "vllm_version": "0.19.0"})
    engine = inputs.estimate().engine
    assert engine is not None
    kept = activation.encoder_run(inputs.model, engine).kept
    assert kept == 2 * 32 * (256 * 2560 + 4096 * 588)


def test_a_qwen2_video_grows_with_the_context():
    model = "Qwen/Qwen2.5-VL-7B-Instruct"
    facts = prepare({"model": model, "gpu": "H100-SXM-80GB"}).model.encoder
    assert facts is not None
    long = facts.item(
        version=prepare({"model": model, "gpu": "H100"}).version, max_model_len=128_000, options={}, videos=True
    )
    assert long.tokens == 114_688


# --- experts, non-torch, graphs --------------------------------------------------------------------------------------


def test_the_experts_workspace_stays_since_0_14():
    asked = {"model": "Qwen/Qwen3-30B-A3B", "max_num_seqs": 1024}
    inputs = [prepare({"gpu": "H100-SXM-80GB", "vllm_version": v, **asked}) for v in ("0.13.0", "0.14.0")]
    peaks = [each.estimate().overheads[0].activation_peak for each in inputs]
    engine = inputs[1].estimate().engine
    assert engine is not None
    assert peaks[1] - peaks[0] == activation.moe_workspace(inputs[1].model, engine)


@pytest.mark.parametrize(
    ("asked", "link"),
    [
        ({"vllm_version": "0.19.0"}, "none"),
        ({"vllm_version": "0.19.0", "tensor_parallel_size": 2}, "fused"),
        ({"vllm_version": "0.16.0", "tensor_parallel_size": 2}, "nccl"),
        ({"vllm_version": "0.19.0", "tensor_parallel_size": 2, "gpu": "A100-80GB"}, "nccl"),
        ({"vllm_version": "0.22.0", "tensor_parallel_size": 2, "gpu": "T4"}, "pcie"),
        ({"vllm_version": "0.6.4", "tensor_parallel_size": 8}, "all8"),
        ({"vllm_version": "0.19.0", "pipeline_parallel_size": 2}, "stages"),
    ],
)
def test_what_ranks_share_decides_non_torch_memory(asked: Mapping[str, Any], link: str):
    engine = estimated(**asked).engine
    assert engine is not None
    assert overhead.link_of(engine) == link


@pytest.mark.parametrize(
    ("version", "inside"), [("0.19.0", False), ("0.20.0", True), ("0.28.0", False), ("0.29.0", True)]
)
def test_whether_graphs_come_off_the_kv_cache(version: str, inside: bool):
    with_graphs = estimated(vllm_version=version)
    beside = with_graphs.overhead
    assert beside is not None
    assert beside.graphs_in_budget is inside
    assert (beside.outside_budget >= beside.cuda_graph) is not inside


def test_flashinfer_allocates_its_workspace_after_profiling():
    beside = estimated(gpu="B200").overhead
    assert beside is not None
    assert beside.later == 394 * MIB


def test_unified_memory_is_charged_for_what_the_host_does():
    spark, card = estimated(QWEN, "GB10"), estimated(QWEN, "RTX 4090")
    assert spark.overhead is not None
    assert card.overhead is not None
    assert spark.overhead.non_torch > card.overhead.non_torch + GIB
    assert spark.available_range is not None
    low, high = spark.available_range
    assert high - low > 4 * GIB


# --- the verdict -----------------------------------------------------------------------------------------------------


def test_graphs_that_the_card_cannot_hold_are_a_failure():
    result = estimated("Qwen/Qwen3-4B", "RTX 4090", vllm_version="0.28.0", gpu_memory_utilization=0.96)
    assert [reason.code for reason in result.reasons] == ["oom_graph_capture"]


def test_trouble_under_load_is_a_warning():
    result = estimated(LLAMA, "A100-SXM4-40GB", vllm_version="0.19.0", gpu_memory_utilization=0.965)
    assert result.fits
    assert any("once a full batch comes" in warning for warning in result.warnings)


def test_nothing_is_missing_at_the_default_share():
    result = estimated(LLAMA, vllm_version="0.33.0")
    assert result.verdict == "fits"
    assert not any("once a full batch comes" in warning for warning in result.warnings)


def test_a_launch_near_its_limit_is_too_close_to_call():
    longest = estimated(LLAMA, "RTX 4090", vllm_version="0.19.0", max_model_len=1024)
    assert longest.kv_cache is not None
    near = longest.kv_cache.max_model_len_that_fits or 131_072
    most = longest.ranks[0].available_kv_bytes // (128 * 1024) - 64
    result = estimated(LLAMA, "RTX 4090", vllm_version="0.19.0", max_model_len=min(most, 131_072))
    assert near >= 1024
    assert result.fits
    assert result.verdict.startswith("too close to call, because")
    assert result.to_dict()["verdict"] == result.verdict


def test_other_processes_leave_too_little_whatever_the_range():
    result = estimated(QWEN, gpu_memory_used_gib=60)
    assert result.verdict == "does not fit"


def test_a_refused_launch_does_not_fit():
    assert estimated(LLAMA, tensor_parallel_size=3).verdict == "does not fit"


# --- offloading ------------------------------------------------------------------------------------------------------


def test_whole_parameters_leave_until_the_limit_is_passed():
    result = estimated(LLAMA, "RTX 4090", cpu_offload_gb=4, max_model_len=8192)
    assert 4 * GIB <= result.offloaded_bytes < 4 * GIB + 120 * MIB


def test_no_more_than_the_layers_can_leave():
    """Embedding, norm and head stay: 2 x 128,256 x 4,096 values and 4,096 more."""
    result = estimated(LLAMA, "RTX 4090", cpu_offload_gb=100, max_model_len=8192)
    stays = result.ranks[0].weights_bytes - result.offloaded_bytes
    assert 2 * 2 * 128_256 * 4096 <= stays < 2 * 2 * 128_256 * 4096 + 64 * MIB


def test_groups_of_layers_leave_but_for_what_is_prefetched():
    result = estimated(LLAMA, offload_group_size=4, offload_num_in_group=1, offload_prefetch_step=1)
    layer = result.offloaded_bytes / 7
    assert layer == pytest.approx(2 * (3 * 4096 * 14336 + 2 * 4096 * 4096 + 2 * 4096 * 1024), rel=0.001)


def test_host_memory_costs_the_card_nothing():
    plain = estimated(LLAMA, "RTX 4090", vllm_version="0.17.0", max_model_len=8192)
    more = estimated(LLAMA, "RTX 4090", vllm_version="0.17.0", max_model_len=8192, kv_offloading_size=8, swap_space=4)
    assert plain.ranks == more.ranks


# --- slices of a card ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("H100 MIG 1g.10gb", 9.75),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.20gb", 19.62),
        ("H100 MIG 3g.40gb", 39.50),
        ("h100-mig-7g.80gb", 79.25),
    ],
)
def test_a_mig_slice_has_its_share_of_the_card(name: str, gib: float):
    """As `nvidia-smi mig -lgip` prints it for an H100."""
    assert find_gpu(name).known_memory() / GIB == pytest.approx(gib, abs=0.12)


def test_a_mig_slice_has_its_share_of_the_speed():
    whole, half = find_gpu("H100"), find_gpu("H100 MIG 3g.40gb")
    assert half.bandwidth_gbs == pytest.approx((whole.bandwidth_gbs or 0) / 2)
    assert half.tflops["bf16"] == pytest.approx(whole.tflops["bf16"] * 3 / 7)
    assert half.compute_capability == whole.compute_capability
    assert half.nvlink_gbs is None


@pytest.mark.parametrize("name", ["H100 MIG 7g.10gb", "L40S MIG 3g.24gb", "4090 MIG 3g.12gb", "5090 MIG 1g.8gb"])
def test_a_slice_that_no_card_has_is_an_error(name: str):
    with pytest.raises(InputError, match=r"has no MIG slice \dg\.\d+gb"):
        find_gpu(name)


def test_a_slice_is_a_card_for_an_estimate():
    result = estimated(QWEN, "H100 MIG 1g.10gb", max_model_len=8192)
    assert result.fits
    assert result.engine is not None
    assert result.engine.max_num_seqs == 256
