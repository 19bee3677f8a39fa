"""The accelerators the planner knows, by any name people type.

    find_gpu("l40s"), find_gpu("H100"), find_gpu("NVIDIA-H100-80GB-HBM3"), find_gpu("4090")

The data are in data/gpus.jsonl, one card a line; to add one, add a line. Where nothing is known, the value is None.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from planner.errors import InputError
from planner.hardware import mig
from planner.text import did_you_mean, nearest, printable
from planner.units import GIB, MIB

_DATA = Path(__file__).parent / "data" / "gpus.jsonl"

MemoryBasis = Literal["measured", "derived", "nominal", "given", "unknown"]
Vendor = Literal["nvidia", "amd", "intel", "cpu"]


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One device as vLLM sees it. Rates are the vendor's dense peaks; None is unknown."""

    name: str
    vendor: Vendor
    memory_bytes: int | None
    """The total that vLLM sees (cudaMemGetInfo), which is less than nvidia-smi and the box say."""
    memory_basis: MemoryBasis
    """measured: printed by vLLM or torch on this card. derived: from what nvidia-smi reports, by `seen_gib`.
    nominal: what the vendor's tool reports. given: by the user."""
    memory_note: str
    """How the total is known, for people: what stands behind the basis."""
    measured_gib: tuple[tuple[float, str], ...] = ()
    """Every total seen printed on this card, with the system it was on."""
    marketing_gb: int | None = None
    reported_mib: int | None = None
    """The total that nvidia-smi, rocm-smi or hl-smi prints."""
    compute_capability: str | None = None
    """ "9.0" for NVIDIA, "gfx942" for AMD, a codename for Intel."""
    bandwidth_gbs: float | None = None
    """Memory bandwidth in GB/s (10^9)."""
    tflops: Mapping[str, float] = field(default_factory=dict)
    """Dense TFLOPS (TOPS for int8) by "fp16", "bf16", "fp8", "int8", "fp4"; absent is unknown or not supported."""
    nvlink_gbs: float | None = None
    """Bandwidth to the other GPUs of the machine in GB/s (NVLink, Infinity Fabric); None: PCIe only, or unknown."""
    pcie_gen: int | None = None
    unified: bool = False
    """Whether the memory is the CPU's too, so that other programs take their part of it."""
    aliases: tuple[str, ...] = ()
    """Other names, besides every spelling of this one."""

    @cached_property
    def capability(self) -> int | None:
        """NVIDIA's compute capability as vLLM compares it: 90 for "9.0", 121 for "12.1"; None for other vendors."""
        if self.vendor != "nvidia" or self.compute_capability is None:
            return None
        major, _, minor = self.compute_capability.partition(".")
        return int(major) * 10 + int(minor) if major.isdecimal() and minor.isdecimal() else None

    @property
    def kind(self) -> Literal["cuda", "rocm", "xpu", "hpu", "cpu"]:
        """vLLM's platform for it."""
        if self.vendor == "intel":
            return "hpu" if "Gaudi" in self.name else "xpu"
        return {"nvidia": "cuda", "amd": "rocm", "cpu": "cpu"}[self.vendor]  # type: ignore[return-value]

    def known_memory(self) -> int:
        """memory_bytes; InputError where it is unknown."""
        if self.memory_bytes is None:
            raise InputError(
                f"the memory that vLLM sees on {self.name} is not known; pass it with --gpu-memory-gib "
                "(what vLLM or torch prints as total, in GiB)"
            )
        return self.memory_bytes


def all_gpus() -> tuple[Gpu, ...]:
    """Every card of the catalogue, in its order."""
    return _catalogue().gpus


def find_gpu(name: str) -> Gpu:
    """The card of this name, alias, nvidia-smi name or Kubernetes product label; InputError for none or several.

    "H100 MIG 3g.40gb" is a slice of one (mig.py).
    """
    part = mig.parse(name)
    if part is not None:
        return mig.slice_of(find_gpu(part.card), part)
    catalogue = _catalogue()
    words = _words(name)
    found = catalogue.by_name.get("".join(words))
    if found is not None:
        return found
    several = [gpu for gpu, known in catalogue.words if words and set(words) <= known]
    if len(several) == 1:
        return several[0]
    if several:
        listed = ", ".join(gpu.name for gpu in several[:6])
        raise InputError(f"GPU {printable(name)} could be one of: {listed}; pass one of these names")
    raise InputError(f"unknown GPU {printable(name) or '(empty)'}{_near(name)}")


def cards_called(name: str) -> tuple[Gpu, ...]:
    """Every card that a name could mean: "A100" all A100s; none for an unknown name."""
    words = set(_words(name))
    return tuple(gpu for gpu, known in _catalogue().words if words and words <= known)


def with_memory(gpu: Gpu, gib: float) -> Gpu:
    """The same card with the total that the user has seen vLLM print, in GiB."""
    if isinstance(gib, bool) or not isinstance(gib, (int, float)) or not 0.0625 <= gib <= 65536 or math.isnan(gib):
        raise InputError(f"gpu_memory_gib must be between 0.0625 and 65536 GiB, is {printable(gib, 40)}")
    return replace(gpu, memory_bytes=round(gib * GIB), memory_basis="given", memory_note="by the user")


SEEN_GIB_ERROR = 0.33
"""The largest error of `seen_gib` on the cards with a measured total, in GiB; half of them are within 0.05."""


def seen_gib(reported_mib: int, vendor: Vendor) -> float | None:
    """The total that vLLM sees, for a card that only the vendor's tool has been asked about; None: no rule is known.

    NVIDIA: a least-squares line through the cards of the catalogue with both figures (Linux). AMD: the share that an
    MI300X keeps back (196592 MiB reported, 191.69 GiB seen); Radeons keep none.
    """
    reported = reported_mib / 1024
    if vendor == "nvidia":
        return reported - (0.42 + 0.002 * reported)
    if vendor == "amd":
        return reported * 0.9985
    return None


# -- the data file ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Catalogue:
    gpus: tuple[Gpu, ...]
    by_name: Mapping[str, Gpu]
    words: tuple[tuple[Gpu, frozenset[str]], ...]


@lru_cache(maxsize=1)
def _catalogue() -> _Catalogue:
    gpus: list[Gpu] = []
    by_name: dict[str, Gpu] = {}
    for line in _DATA.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        gpu = _gpu(row)
        gpus.append(gpu)
        for spelling in (gpu.name, *gpu.aliases):
            if by_name.setdefault("".join(_words(spelling)), gpu) is not gpu:
                raise ValueError(f"{_DATA.name}: two cards are called {spelling}")
    words = tuple((gpu, frozenset(_words(gpu.name))) for gpu in gpus)
    return _Catalogue(tuple(gpus), by_name, words)


def _gpu(row: Mapping[str, Any]) -> Gpu:
    memory, basis, note = _memory(row)
    tflops = dict(row["tflops_dense"])
    if "bf16" in tflops:  # the same units at the same rate on every card that has both
        tflops.setdefault("fp16", tflops["bf16"])
    return Gpu(
        name=row["name"],
        vendor=row["vendor"],
        memory_bytes=memory,
        memory_basis=basis,
        memory_note=note,
        measured_gib=tuple((gib, system) for gib, system in row.get("memory_gib_measured", ())),
        marketing_gb=row["memory_gb_marketing"],
        reported_mib=row["memory_mib_reported"],
        compute_capability=row["compute_capability"],
        bandwidth_gbs=row["bandwidth_gbs"],
        tflops=tflops,
        nvlink_gbs=row["nvlink_gbs"],
        pcie_gen=row["pcie_gen"],
        unified=row.get("unified", False),
        aliases=tuple(row.get("aliases", ())),
    )


def _memory(row: Mapping[str, Any]) -> tuple[int | None, MemoryBasis, str]:
    seen, reported = row.get("memory_gib_seen"), row["memory_mib_reported"]
    if seen is not None:
        return round(seen * GIB), "measured", "printed by vLLM or torch on this card"
    if reported is None:
        return None, "unknown", "not known"
    derived = seen_gib(reported, row["vendor"])
    if derived is None:
        return (
            reported * MIB,
            "nominal",
            f"{reported} MiB, as the vendor's tool reports it; vLLM may see less",
        )
    # Cards of one model differ by more than a MiB; digits below would pretend otherwise.
    return round(derived * 1024) * MIB, "derived", f"from the {reported} MiB reported, ±{SEEN_GIB_ERROR} GiB"


# -- names ------------------------------------------------------------------------------------------------------------

# Words that tell no two cards apart. "quadro", "pro" and "ada" stay: there are three kinds of RTX 6000.
_NOISE = frozenset(
    "nvidia geforce tesla amd instinct radeon rtx gtx rx intel gpu graphics generation edition one of".split()
)
_GLUED = re.compile(r"^(rtx|gtx|rx)(?=\d)")


def _words(name: str) -> list[str]:
    """What a name says, whatever its spelling: "NVIDIA-H100-80GB-HBM3", "H100 80GB hbm3" -> h100 80gb hbm3, sorted."""
    text = name[:200].lower().removesuffix("-shared").replace("(", " ").replace(")", " ")
    text = re.sub(r"(\d+)\s*-?(?:gib|gb|g)\b", r"\1gb", text)
    words = []
    for word in re.split(r"[\W_]+", text):
        word = _GLUED.sub("", word)
        if re.fullmatch(r"sxm\d", word):
            word = "sxm"
        if word and word not in _NOISE:
            words.append(word)
    return sorted(words)


def _near(name: str) -> str:
    spellings: dict[str, str] = {}
    for gpu in all_gpus():
        for spelling in (gpu.name, *gpu.aliases):
            spellings[spelling] = gpu.name
            spellings[" ".join(word for word in spelling.split() if word.lower() not in _NOISE)] = gpu.name
    # Several spellings may be near that are one card.
    names = list(dict.fromkeys(spellings[spelling] for spelling in nearest(name, spellings, count=5)))
    return did_you_mean(names[:3]) or "; `vllm-fit gpus` lists those known"
