"""The catalogue of cards: names people type, the memory vLLM sees, and how it is known."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from planner.errors import InputError
from planner.hardware.catalogue import SEEN_GIB_ERROR, all_gpus, find_gpu, seen_gib, with_memory
from planner.units import GIB


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("l40s", "NVIDIA L40S"),
        ("L40", "NVIDIA L40"),
        ("H100", "NVIDIA H100 SXM5 80GB"),
        ("h100-sxm-80gb", "NVIDIA H100 SXM5 80GB"),
        ("H100-SXM-80GB", "NVIDIA H100 SXM5 80GB"),
        ("h100_sxm", "NVIDIA H100 SXM5 80GB"),
        ("H100-80GB", "NVIDIA H100 SXM5 80GB"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM5 80GB"),
        ("NVIDIA-H100-80GB-HBM3", "NVIDIA H100 SXM5 80GB"),
        ("NVIDIA-H100-80GB-HBM3-SHARED", "NVIDIA H100 SXM5 80GB"),
        ("NVIDIA H100 PCIe", "NVIDIA H100 PCIe 80GB"),
        ("NVIDIA H100 NVL", "NVIDIA H100 NVL 94GB"),
        ("h200", "NVIDIA H200 SXM 141GB"),
        ("NVIDIA H200 NVL", "NVIDIA H200 NVL 141GB"),
        ("NVIDIA GH200 480GB", "NVIDIA GH200 96GB"),
        ("4090", "NVIDIA GeForce RTX 4090"),
        ("rtx 4090", "NVIDIA GeForce RTX 4090"),
        ("RTX-4090", "NVIDIA GeForce RTX 4090"),
        ("rtx4090", "NVIDIA GeForce RTX 4090"),
        ("NVIDIA-GeForce-RTX-4090", "NVIDIA GeForce RTX 4090"),
        ("3060", "NVIDIA GeForce RTX 3060 12GB"),
        ("3060 Ti", "NVIDIA GeForce RTX 3060 Ti"),
        ("a100-40", "NVIDIA A100 40GB SXM4"),
        ("A100 40 GB", "NVIDIA A100 40GB SXM4"),
        ("A100-80GB", "NVIDIA A100 80GB SXM4"),
        ("A100", "NVIDIA A100 80GB SXM4"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB SXM4"),
        ("NVIDIA A100-PCIE-40GB", "NVIDIA A100 40GB PCIe"),
        ("NVIDIA A100 80GB PCIe", "NVIDIA A100 80GB PCIe"),
        ("Tesla V100-SXM2-32GB", "NVIDIA V100 32GB SXM2"),
        ("t4", "NVIDIA T4"),
        ("Tesla T4", "NVIDIA T4"),
        ("Tesla-T4", "NVIDIA T4"),
        ("L4", "NVIDIA L4"),
        ("A6000", "NVIDIA RTX A6000"),
        ("RTX 6000 Ada", "NVIDIA RTX 6000 Ada Generation"),
        ("Quadro RTX 6000", "NVIDIA Quadro RTX 6000"),
        ("RTX PRO 6000", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"),
        ("b200", "NVIDIA B200 SXM"),
        ("gb10", "NVIDIA GB10 (DGX Spark)"),
        ("dgx spark", "NVIDIA GB10 (DGX Spark)"),
        ("mi300x", "AMD Instinct MI300X"),
        ("AMD Instinct MI300X", "AMD Instinct MI300X"),
        ("7900xtx", "AMD Radeon RX 7900 XTX"),
        ("Gaudi 3", "Intel Gaudi 3 (HL-325L OAM)"),
        ("cpu", "CPU"),
    ],
)
def test_names_people_type(typed: str, name: str) -> None:
    assert find_gpu(typed).name == name


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("H1000", "did you mean NVIDIA H100"),
        ("L40SS", "did you mean NVIDIA L40S"),
        ("RTX 6000", "NVIDIA RTX 6000 Ada Generation"),
        ("80GB", "could be one of"),
        ("quantum", "unknown GPU quantum"),
        ("", "unknown GPU (empty)"),
        ("nvidia", "unknown GPU nvidia"),
        ("\x1b[2J", r"unknown GPU \x1b[2J"),
        ("x" * 100_000, "unknown GPU"),
    ],
)
def test_names_that_are_none_or_several(typed: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        find_gpu(typed)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 700


@given(st.text(max_size=30))
def test_any_text_is_a_card_or_an_input_error(text: str) -> None:
    try:
        find_gpu(text)
    except InputError as error:
        message = str(error)
    else:
        return
    assert message.isprintable()


def test_every_card_is_found_by_its_own_name() -> None:
    names = [gpu.name for gpu in all_gpus()]
    assert len(set(names)) == len(names) > 60
    for gpu in all_gpus():
        assert find_gpu(gpu.name) is gpu


def test_the_memory_is_what_vllm_sees_not_what_is_on_the_box() -> None:
    for gpu in all_gpus():
        if gpu.memory_bytes is None:
            assert gpu.memory_basis == "unknown"
            continue
        assert gpu.reported_mib is None or gpu.memory_bytes <= gpu.reported_mib * 2**20 + 0.005 * GIB, gpu.name
        if gpu.memory_basis == "measured":
            seen = [gib for gib, system in gpu.measured_gib if system.startswith("Linux")]
            assert round(gpu.memory_bytes / GIB, 2) in seen, gpu.name
    h100 = find_gpu("H100")
    assert (round(h100.known_memory() / GIB, 2), h100.memory_basis) == (79.19, "measured")


def test_the_rule_for_cards_that_nobody_measured() -> None:
    """Its stated error is the largest on the cards that somebody did."""
    errors = []
    for gpu in all_gpus():
        if gpu.memory_basis == "measured" and gpu.reported_mib and gpu.vendor in ("nvidia", "amd"):
            predicted = seen_gib(gpu.reported_mib, gpu.vendor)
            assert predicted is not None
            errors.append(abs(predicted - gpu.known_memory() / GIB))
    assert len(errors) > 30
    assert max(errors) <= SEEN_GIB_ERROR
    assert sorted(errors)[len(errors) // 2] <= 0.06
    b200 = find_gpu("b200")
    assert b200.memory_basis == "derived"
    assert str(SEEN_GIB_ERROR) in b200.memory_note


def test_unknown_memory_has_to_be_given() -> None:
    for name in ("GH200-144GB", "cpu"):
        gpu = find_gpu(name)
        with pytest.raises(InputError, match="--gpu-memory-gib"):
            gpu.known_memory()
        given_gpu = with_memory(gpu, 100)
        assert (given_gpu.known_memory(), given_gpu.memory_basis) == (100 * GIB, "given")
    assert with_memory(find_gpu("H100"), 79.25).known_memory() == round(79.25 * GIB)


@pytest.mark.parametrize("gib", [0, -1, 1e9, float("nan"), float("inf"), True, "80", None, 10**400])
def test_memory_that_is_none(gib: object) -> None:
    with pytest.raises(InputError, match="gpu_memory_gib"):
        with_memory(find_gpu("H100"), gib)  # type: ignore[arg-type]


def test_compute_capability_as_vllm_compares_it() -> None:
    wanted = {"H100": 90, "L40S": 89, "A100": 80, "T4": 75, "B300": 103, "GB10": 121, "mi300x": None, "cpu": None}
    assert {name: find_gpu(name).capability for name in wanted} == wanted
    assert find_gpu("mi300x").compute_capability == "gfx942"


def test_kinds_and_rates() -> None:
    kinds = {"H100": "cuda", "MI300X": "rocm", "Gaudi 3": "hpu", "Arc Pro B60": "xpu", "cpu": "cpu"}
    assert {name: find_gpu(name).kind for name in kinds} == kinds
    h100 = find_gpu("H100")
    assert (h100.bandwidth_gbs, h100.nvlink_gbs, h100.tflops["bf16"], h100.tflops["fp16"]) == (3350, 900, 989, 989)
    assert find_gpu("V100").tflops == {"fp16": 125}, "no bf16 on Volta"
    assert find_gpu("GB10").unified
    assert find_gpu("L40S").nvlink_gbs is None
