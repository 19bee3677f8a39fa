"""Cards as clusters name them."""

from __future__ import annotations

import pytest

from planner.gate.containers import on_cpu
from planner.gate.gpus import INSTANCES, card_of_label, card_of_resource, combined
from planner.hardware.catalogue import find_gpu


@pytest.mark.parametrize(
    ("label", "value", "card"),
    [
        ("nvidia.com/gpu.product", "NVIDIA-A100-SXM4-80GB", "NVIDIA A100 80GB SXM4"),
        ("nvidia.com/gpu.product", "NVIDIA-A100-SXM4-40GB-SHARED", "NVIDIA A100 40GB SXM4"),
        ("nvidia.com/gpu.product", "NVIDIA-A100-80GB-PCIe", "NVIDIA A100 80GB PCIe"),
        ("nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3", "NVIDIA H100 SXM5 80GB"),
        ("nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3-MIG-3g.40gb", "NVIDIA H100 SXM5 80GB MIG 3g.40gb"),
        ("nvidia.com/gpu.product", "NVIDIA-H100-NVL", "NVIDIA H100 NVL 94GB"),
        ("nvidia.com/gpu.product", "NVIDIA-L40S", "NVIDIA L40S"),
        ("nvidia.com/gpu.product", "Tesla-T4", "NVIDIA T4"),
        ("nvidia.com/gpu.product", "Tesla-V100-SXM2-16GB", "NVIDIA V100 16GB SXM2"),
        ("cloud.google.com/gke-accelerator", "nvidia-tesla-a100", "NVIDIA A100 40GB SXM4"),
        ("cloud.google.com/gke-accelerator", "nvidia-a100-80gb", "NVIDIA A100 80GB SXM4"),
        ("cloud.google.com/gke-accelerator", "nvidia-h100-mega-80gb", "NVIDIA H100 SXM5 80GB"),
        ("cloud.google.com/gke-accelerator", "nvidia-l4", "NVIDIA L4"),
        ("gpu.nvidia.com/class", "A100_NVLINK_80GB", "NVIDIA A100 80GB SXM4"),
        ("gpu.nvidia.com/model", "H200", "NVIDIA H200 SXM 141GB"),
        ("karpenter.k8s.aws/instance-gpu-name", "l40s", "NVIDIA L40S"),
        ("node.kubernetes.io/instance-type", "p4d.24xlarge", "NVIDIA A100 40GB SXM4"),
        ("node.kubernetes.io/instance-type", "g5.12xlarge", "NVIDIA A10G"),
        ("node.kubernetes.io/instance-type", "Standard_NC24ads_A100_v4", "NVIDIA A100 80GB PCIe"),
        ("amd.com/gpu.product-name", "AMD_Instinct_MI300X_OAM", "AMD Instinct MI300X"),
    ],
)
def test_labels(label, value, card):
    named = card_of_label(label, value)
    assert named is not None
    assert find_gpu(named).name == card


def test_what_is_no_card():
    assert card_of_label("kubernetes.io/arch", "amd64") is None
    assert card_of_label("node.kubernetes.io/instance-type", "m5.large") is None
    assert card_of_label("k8s.amazonaws.com/accelerator", "nvidia-a100") == "", "40 or 80 GB: not decided"


def test_resources():
    assert card_of_resource("nvidia.com/gpu") == ""
    assert card_of_resource("nvidia.com/mig-3g.40gb") == "MIG 3g.40gb"
    assert card_of_resource("memory") is None


def test_a_slice_is_of_the_card_given():
    assert combined("MIG 3g.40gb", "H100") == "H100 MIG 3g.40gb"
    assert combined("MIG 3g.40gb", None) is None
    assert combined("L4", "H100") == "L4"
    assert combined(None, "H100") == "H100"
    assert find_gpu("H100 MIG 3g.40gb").name == "NVIDIA H100 SXM5 80GB MIG 3g.40gb"


def test_images_of_vllm_for_cpus():
    assert on_cpu("vllm/vllm-openai-cpu:v0.30.0")
    assert on_cpu("public.ecr.aws/q9t5s3a7/vllm-cpu-release-repo:v0.11.0")
    assert on_cpu("public.ecr.aws/q9t5s3a7/vllm-arm64-cpu-release-repo:v0.11.0")
    assert not on_cpu("vllm/vllm-openai:v0.30.0")


def test_every_machine_type_has_a_card_of_the_catalogue():
    for _, card in INSTANCES:
        assert find_gpu(card).vendor in ("nvidia", "amd")
