"""Which card a deployment file means: node labels, resource names and instance types, in the catalogue's terms.

A name that the catalogue knows is handed on as the file writes it; the tables hold only what it would read wrongly or
not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from planner.hardware.catalogue import Gpu, cards_called, find_gpu


def card_of_label(key: str, value: str) -> str | None:
    """The card that a node label promises, to be looked up in the catalogue; None for a label of something else.

    "" for a label that names a kind of which there are several sizes.
    """
    read = LABELS.get(key)
    return read(value.strip()) if read is not None else None


def card_of_resource(name: str) -> str | None:
    """What one unit of an extended resource is: "MIG 3g.40gb" for a slice, "" for a whole card; None: no GPU."""
    slice_name = re.fullmatch(r"nvidia\.com/mig-(\d+g\.\d+gb)(?:\.me)?", name)
    if slice_name:
        return f"MIG {slice_name[1]}"
    return "" if name in RESOURCES else None


def combined(named: str | None, default: str | None) -> str | None:
    """The card to look up, of what a file names and what the policy gives; a bare slice is one of the default card."""
    if named is not None and named.startswith("MIG "):
        return f"{default} {named}" if default is not None else None
    return named or default


def allowed_card(name: str) -> tuple[Gpu, ...]:
    """The cards that an entry of a policy's list stands for: "A100" for every A100. InputError for none."""
    found = cards_called(name)
    return found or (find_gpu(name),)


def is_allowed(gpu: Gpu, names: tuple[str, ...]) -> bool:
    """Whether a card, or the card that a slice is of, is in a policy's list."""
    whole = gpu.name.partition(" MIG ")[0]
    return any(card.name in (gpu.name, whole) for name in names for card in allowed_card(name))


RESOURCES = frozenset(
    "nvidia.com/gpu nvidia.com/gpu.shared nvidia.com/pgpu amd.com/gpu habana.ai/gaudi gpu.intel.com/i915 "
    "gpu.intel.com/xe".split()
)
"""Extended resources of which one is a GPU (time-sliced ones have the whole card's memory)."""

OTHER_ACCELERATORS = {
    "google.com/tpu": "a TPU",
    "aws.amazon.com/neuron": "AWS Neuron",
    "aws.amazon.com/neuroncore": "AWS Neuron",
    "huawei.com/ascend910": "an Ascend NPU",
    "huawei.com/Ascend910": "an Ascend NPU",
    "rebellions.ai/ATOM": "a Rebellions NPU",
}
"""Extended resources on which vLLM runs by a plugin whose memory is not known here."""


def _product(value: str) -> str | None:
    return value


def _google(value: str) -> str | None:
    return _GOOGLE.get(value, value)


_GOOGLE = {
    "nvidia-tesla-a100": "A100-SXM4-40GB",
    "nvidia-tesla-v100": "V100-SXM2-16GB",
    "nvidia-tesla-p100": "P100-PCIE-16GB",
    "nvidia-h100-mega-80gb": "H100-SXM5-80GB",
    "nvidia-rtx-pro-6000": "RTX PRO 6000 Blackwell Server Edition",
}
"""cloud.google.com/kubernetes-engine/docs/concepts/gpus: A2 has the 40 GB A100, a2-ultragpu is nvidia-a100-80gb."""


def _coreweave(value: str) -> str | None:
    """ "A100_NVLINK_80GB", "H100_NVLINK_80GB", "A40", "RTX_A6000", "H200"."""
    return re.sub(r"_?NVLINK_?", " SXM ", value).replace("_", " ").strip()


def _amazon(value: str) -> str | None:
    """ "nvidia-tesla-t4", "l40s"; "a100" is 40 GB in p4d and 80 GB in p4de."""
    plain = value.lower().removeprefix("nvidia-").removeprefix("tesla-")
    return "" if plain == "a100" else _AMAZON.get(plain, plain)


_AMAZON = {"v100": "V100-SXM2-16GB"}


def _amd(value: str) -> str | None:
    """ "AMD_Instinct_MI300X_OAM"."""
    return re.sub(r"_OAM\b", "", value).replace("_", " ")


def _instance(value: str) -> str | None:
    return next((card for pattern, card in INSTANCES if re.match(pattern, value)), None)


LABELS: Mapping[str, Callable[[str], str | None]] = {
    "nvidia.com/gpu.product": _product,
    "gpu.nvidia.com/model": _coreweave,
    "gpu.nvidia.com/class": _coreweave,
    "cloud.google.com/gke-accelerator": _google,
    "k8s.amazonaws.com/accelerator": _amazon,
    "karpenter.k8s.aws/instance-gpu-name": _amazon,
    "eks.amazonaws.com/instance-gpu-name": _amazon,
    "amd.com/gpu.product-name": _amd,
    "beta.amd.com/gpu.product-name": _amd,
    "node.kubernetes.io/instance-type": _instance,
    "beta.kubernetes.io/instance-type": _instance,
}
"""Node labels that say which card a node has."""

INSTANCES: tuple[tuple[str, str], ...] = (
    (r"p3dn\.", "V100-SXM2-32GB"),
    (r"p3\.", "V100-SXM2-16GB"),
    (r"p4d\.", "A100-SXM4-40GB"),
    (r"p4de\.", "A100-SXM4-80GB"),
    (r"p5\.", "H100-SXM5-80GB"),
    (r"p5en?\.", "H200"),
    (r"p6-b200\.", "B200"),
    (r"p6-b300\.", "B300"),
    (r"g4dn\.", "T4"),
    (r"g5\.", "A10G"),
    (r"g6e\.", "L40S"),
    (r"g6\.", "L4"),
    (r"a2-highgpu-|a2-megagpu-", "A100-SXM4-40GB"),
    (r"a2-ultragpu-", "A100-SXM4-80GB"),
    (r"a3-(highgpu|megagpu|edgegpu)-", "H100-SXM5-80GB"),
    (r"a3-ultragpu-", "H200"),
    (r"a4-highgpu-", "B200"),
    (r"g2-standard-", "L4"),
    (r"Standard_ND96asr_v4", "A100-SXM4-40GB"),
    (r"Standard_ND96amsr_A100_v4", "A100-SXM4-80GB"),
    (r"Standard_NC\d+ads_A100_v4", "A100-80GB-PCIe"),
    (r"Standard_NC\d+ad(i?)s_H100_v5", "H100 NVL"),
    (r"Standard_ND96isr_H100_v5", "H100-SXM5-80GB"),
    (r"Standard_ND96isr_H200_v5", "H200"),
    (r"Standard_ND96isr_MI300X_v5", "MI300X"),
    (r"Standard_NC\d+as_T4_v3", "T4"),
)
"""Machine types of the large clouds that have whole cards of one kind (aws.amazon.com/ec2/instance-types,
cloud.google.com/compute/docs/gpus, learn.microsoft.com/azure/virtual-machines/sizes/gpu-accelerated); the first that
matches."""
