"""How fast a card does what a step asks for: its data-sheet figures times the fractions that are achieved.

A rate is a nominal figure and the names of the constants it is multiplied by, so that one product serves a prediction
and the fit alike. The constants are in planner/planning/data/serving_constants.json, fitted by
`vllm-fit fit-constants --serving` on planner/measured/serving*.jsonl. A constant `name@ampere` is the deviation of that
GPU generation from `name`; a generation without measurements has none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from math import inf, log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.errors import InputError
from planner.hardware.catalogue import Gpu
from planner.planning.throughput.elementwise import minimum
from planner.planning.throughput.work import Kernels, Numbers

if TYPE_CHECKING:
    from planner.engine.defaults import Engine

CONSTANTS = Path(__file__).parent.parent / "data" / "serving_constants.json"

GENERATIONS = {
    70: "volta",
    75: "turing",
    80: "ampere",
    86: "ampere_gddr",
    87: "unified",
    89: "ada",
    90: "hopper",
    100: "blackwell",
    103: "blackwell",
    110: "unified",
    120: "blackwell_rtx",
    121: "unified",
}
"""By compute capability x 10; "unified" are the boards that share their memory with the CPU (Orin, Thor, GB10)."""
_AMD = {"gfx90a": "cdna2", "gfx942": "cdna3", "gfx950": "cdna4"}

_RELATIVE = {"fp4": 4.0, "fp8": 2.0, "int8": 2.0, "bf16": 1.0, "fp16": 1.0}
"""Dense rate relative to 16 bits, on cards that have the format's units; what is none of these computes in 16 bits."""
_MARLIN = ("fp8_weight", "int8_weight", "int4_weight", "fp4_weight")
_AMPERE_INSTRUCTION = {"hopper": 0.62, "blackwell": 0.27}
"""The part of the tensor cores' peak that mma.sync reaches, which Marlin uses, where newer instructions are faster: on
Hopper as in "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture" (arXiv 2402.13499); on Blackwell 2048 FLOP
a clock and SM, as on Ampere."""
_SM_GHZ = {"ampere": 152.0, "hopper": 232.0, "blackwell": 290.0}
"""SMs times boost clock of the cards with HBM. Others' memory is slower than any unpacking."""
_FLOPS_PER_BYTE = {"turing": 100.0, "ampere_gddr": 100.0, "ada": 200.0, "blackwell_rtx": 200.0, "unified": 450.0}
"""16-bit FLOPs per byte of bandwidth, for cards whose rates the catalogue lacks: the median of those it has."""
_PCIE_GBS = {3: 12.0, 4: 24.0, 5: 48.0, 6: 96.0}
"""Achieved in one direction on 16 lanes, GB/s, by generation."""
_NODE_GBS = 25.0
"""Between nodes or where the link is unknown: 200 Gb/s."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A nominal figure and the constants that it is multiplied by."""

    nominal: float
    constants: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Achieved rates: bytes/s, FLOP/s and seconds. Floats, or arrays of one value a configuration."""

    attention_bandwidth: Numbers
    mlp_bandwidth: Numbers
    head_bandwidth: Numbers
    expert_bandwidth: Numbers
    kv_bandwidth: Numbers
    attention_flops: Numbers
    mlp_flops: Numbers
    head_flops: Numbers
    expert_flops: Numbers
    pair_flops: Numbers
    """Of attention itself."""
    link_bandwidth: Numbers
    link_latency: Numbers
    """Of one collective, seconds."""
    expert_unpacking: Numbers
    """What weight-only kernels unpack of packed experts, bytes/s; infinite where the format is native."""
    layer: Numbers
    """Small kernels and gaps between kernels, seconds a layer."""
    expert_layer: Numbers
    """What they add in a layer with experts."""
    expert_backend: Numbers
    """What the backend adds there, where it is one that takes longer whatever it computes."""
    state_layer: Numbers
    latent_layer: Numbers
    launch: Numbers
    """What launching by the host adds to a layer outside CUDA graphs, seconds."""
    piecewise: Numbers
    """What launches by the host add to a layer in a step with a piece of a prompt: attention, or all, seconds."""
    decode_launch: Numbers
    """The same in a step without: 0 where its graphs hold attention."""
    graph_tokens: Numbers
    """The largest batch that a captured graph runs; 0 when eager."""
    step: Numbers
    """Scheduling, sampling and detokenizing that no kernel hides, seconds a step."""
    sequence: Numbers
    """The same for each running request."""
    first_token: Numbers
    """From the client to the scheduler and back, seconds a request."""
    crowd: Numbers
    """The share of the other requests' prompts that stand before one on average because clients start at once."""
    expert_tile: Numbers
    """Rows of a grouped matrix product that are computed for nothing in each expert, at most."""
    interference: Numbers
    """Of a product's reading and computing: 0 where one hides behind the other, 1 where both take from one core."""


def generation(gpu: Gpu) -> str:
    """The family of cards that a constant is kept for."""
    if gpu.kind == "cpu":
        return "cpu"
    if gpu.capability is not None:
        return GENERATIONS.get(gpu.capability, "other")
    return _AMD.get(gpu.compute_capability or "", "other")


def rates_for(gpu: Gpu, engine: Engine, kernels: Kernels) -> tuple[Rates, bool]:
    """(what is achieved, whether such cards or this CPU were measured). InputError for a card of unknown bandwidth."""
    if gpu.kind == "cpu":
        return _rates_of_cpu(gpu, engine, kernels)
    rates = rates_of(rate_table(gpu, engine, kernels), constants())
    if kernels.host_share:
        return _with_host(rates, kernels.host_share, host_bandwidth(gpu)), False
    return rates, f"bandwidth@{generation(gpu)}" in constants()


def _with_host(rates: Rates, share: float, host: float) -> Rates:
    def both(card: Numbers) -> Numbers:
        return 1.0 / ((1.0 - share) / card + share / host)

    return replace(
        rates,
        attention_bandwidth=both(rates.attention_bandwidth),
        mlp_bandwidth=both(rates.mlp_bandwidth),
        expert_bandwidth=both(minimum(rates.expert_bandwidth, rates.expert_unpacking)),
    )


def host_bandwidth(gpu: Gpu) -> float:
    """Bytes/s at which the card reads host memory; nothing is fitted to it."""
    return _bandwidth(gpu) if gpu.unified else 1e9 * _pcie_gbs(gpu)


def _rates_of_cpu(gpu: Gpu, engine: Engine, kernels: Kernels) -> tuple[Rates, bool]:
    """A CPU has no data sheet here: what its kernels achieve is measured, once a machine. What else a step takes, the
    host's part, is taken from engines on GPUs. And whether the kernels were vLLM's own."""
    from planner.hardware.cpu_speed import cpu_speed

    speed = cpu_speed()
    ranks = engine.gpus_per_replica * engine.data_parallel_size
    bandwidth, flops = speed.of_rank(ranks, speed.linear)
    expert_bandwidth, expert_flops = speed.of_rank(ranks, speed.experts)
    nominal = replace(gpu, bandwidth_gbs=bandwidth / 1e9, tflops={"bf16": flops / 1e12})
    rates = replace(
        rates_of(rate_table(nominal, engine, kernels), constants()),
        attention_bandwidth=bandwidth,
        mlp_bandwidth=bandwidth,
        head_bandwidth=bandwidth,
        kv_bandwidth=bandwidth,
        expert_bandwidth=expert_bandwidth,
        attention_flops=flops,
        mlp_flops=flops,
        head_flops=flops,
        expert_flops=expert_flops,
    )
    return rates, speed.by_engine


def rate_table(gpu: Gpu, engine: Engine, kernels: Kernels) -> dict[str, Rate]:
    """Every field of Rates for this card, engine and kernels."""
    gen = generation(gpu)
    bandwidth = _bandwidth(gpu)
    link, speed = _link(gpu, engine)
    tp = engine.tensor_parallel_size
    graphs, backend = _graph_mode(engine), kernels.expert_backend
    kv = (f"kv_bandwidth.{kernels.kv}@{gen}",) if kernels.kv else ()

    def read(kernel: str, group: str) -> Rate:
        return Rate(
            nominal=bandwidth, constants=(f"bandwidth.{group}", f"bandwidth@{gen}", f"bandwidth.{group}.{kernel}")
        )

    def compute(kernel: str, group: str) -> Rate:
        nominal = flops(gpu, kernel)
        if kernel in _MARLIN:
            nominal *= _AMPERE_INSTRUCTION.get(gen, 1.0)
        return Rate(nominal=nominal, constants=("flops", f"flops@{gen}", f"flops.{group}.{kernel}"))

    return {
        "attention_bandwidth": read(kernels.attention, "dense"),
        "mlp_bandwidth": read(kernels.mlp, "dense"),
        "head_bandwidth": read(kernels.head, "dense"),
        "expert_bandwidth": read(kernels.experts, "experts"),
        "kv_bandwidth": Rate(nominal=bandwidth, constants=("kv_bandwidth", f"kv_bandwidth@{gen}", *kv)),
        "attention_flops": compute(kernels.attention, "dense"),
        "mlp_flops": compute(kernels.mlp, "dense"),
        "head_flops": compute(kernels.head, "dense"),
        "expert_flops": compute(kernels.experts, "experts"),
        "pair_flops": Rate(nominal=flops(gpu, "bf16"), constants=("pair_flops", f"flops@{gen}")),
        "link_bandwidth": Rate(nominal=1e9 * speed, constants=(f"link_bandwidth.{link}",)),
        "link_latency": Rate(nominal=1e-6 * (0.5 + 0.5 * log2(max(tp, 2))), constants=(f"link_latency_us.{link}",)),
        "expert_unpacking": _unpacking(gen, kernels.experts),
        "layer": Rate(nominal=1e-6, constants=("layer_us", f"layer_us@{gen}")),
        "expert_layer": Rate(nominal=1e-6, constants=("expert_layer_us", f"layer_us@{gen}")),
        "expert_backend": Rate(nominal=1e-6, constants=(f"expert_layer_us.{backend}",))
        if backend
        else Rate(nominal=0.0),
        "state_layer": Rate(nominal=1e-6, constants=("state_layer_us", f"layer_us@{gen}")),
        "latent_layer": Rate(nominal=1e-6, constants=("latent_layer_us", f"layer_us@{gen}")),
        "launch": Rate(nominal=1e-6, constants=("launch_us", f"launch_us@{gen}")),
        "piecewise": Rate(
            nominal=1e-6,
            constants=("launch_us" if graphs == "FULL_DECODE_ONLY" else "piecewise_us", f"launch_us@{gen}"),
        ),
        "decode_launch": Rate(
            nominal=1e-6 if graphs == "PIECEWISE" else 0.0, constants=("piecewise_us", f"launch_us@{gen}")
        ),
        "graph_tokens": Rate(nominal=float(max(engine.cudagraph_capture_sizes, default=0))),
        "step": Rate(nominal=1e-6, constants=(f"step_us.{_era(engine)}", f"step_us@{gen}")),
        "sequence": Rate(nominal=1e-6, constants=("sequence_us",)),
        "first_token": Rate(nominal=1e-3, constants=("first_token_ms",)),
        "crowd": Rate(nominal=1.0, constants=("crowd",)),
        # What a CPU's experts achieve is measured with the rows that they compute.
        "expert_tile": Rate(
            nominal=0.0 if gpu.kind == "cpu" else 0.5 if kernels.experts in _MARLIN else 1.0,
            constants=("expert_tile_rows",),
        ),
        "interference": Rate(nominal=1.0 if gpu.kind == "cpu" else 0.0),
    }


def _unpacking(gen: str, kernel: str) -> Rate:
    """Marlin unpacks in CUDA cores, whose rate grew less than the memory's: it is what binds experts on a B200."""
    if kernel not in _MARLIN or gen not in _SM_GHZ:
        return Rate(nominal=inf)
    return Rate(nominal=1e9 * _SM_GHZ[gen], constants=(f"unpacking_gbs.{kernel}",))


def rates_of(table: Mapping[str, Rate], values: Mapping[str, float]) -> Rates:
    """The table's products with these constants."""
    found = {}
    for f in fields(Rates):
        rate = table[f.name]
        product = rate.nominal
        for name in rate.constants:
            product *= values.get(name, 1.0)
        found[f.name] = product
    return Rates(**found)


def flops(gpu: Gpu, kernel: str) -> float:
    """Dense FLOP/s of the units that a kernel computes on; derived from another format's where unknown."""
    wanted = kernel if kernel in _RELATIVE else "bf16"
    known = gpu.tflops
    if wanted in known:
        return known[wanted] * 1e12
    for name in ("bf16", "fp16", "fp8", "int8", "fp4"):
        if name in known and (name != "int8" or len(known) == 1):
            # Without its own units a format is computed in 16 bits.
            factor = _RELATIVE[wanted] if known.get("fp8") or name in ("fp8", "fp4") else 1.0
            return known[name] / _RELATIVE[name] * factor * 1e12
    per_byte = _FLOPS_PER_BYTE.get(generation(gpu), 200.0)
    return per_byte * _bandwidth(gpu) * _RELATIVE[wanted]


def _bandwidth(gpu: Gpu) -> float:
    """Bytes/s of the data sheet."""
    if gpu.bandwidth_gbs is None:
        raise InputError(f"the memory bandwidth of {gpu.name} is not in the catalogue: its speed cannot be predicted")
    return 1e9 * gpu.bandwidth_gbs


def _link(gpu: Gpu, engine: Engine) -> tuple[str, float]:
    """(kind of link between the ranks, GB/s in one direction)."""
    if engine.tensor_parallel_size > 8:
        return "node", _NODE_GBS
    if gpu.nvlink_gbs is not None and "PCIe" not in gpu.name and "GeForce" not in gpu.name:
        return "nvlink", gpu.nvlink_gbs / 2
    return "pcie", _pcie_gbs(gpu)


def _pcie_gbs(gpu: Gpu) -> float:
    return _PCIE_GBS[gpu.pcie_gen or 4]


def _graph_mode(engine: Engine) -> str:
    """Which steps have CUDA graphs (CUDAGraphMode, vllm/config/compilation.py): V0 had those of decode steps, V1 until
    0.11 pieces without attention, then both."""
    compilation = engine.args.get("compilation_config")
    asked = compilation.get("cudagraph_mode") if isinstance(compilation, dict) else None
    if isinstance(asked, str):
        return asked
    if engine.vllm_version < (0, 8):
        return "FULL_DECODE_ONLY"
    return "PIECEWISE" if engine.vllm_version < (0, 11) else "FULL_AND_PIECEWISE"


def _era(engine: Engine) -> str:
    """Which engine loop: V0 scheduled on the critical path, V1 overlaps part, asynchronous scheduling most of it."""
    if engine.vllm_version < (0, 8):
        return "v0"
    return "async" if engine.async_scheduling else "v1"


@cache
def constants_file() -> dict[str, Any]:
    """The data file: `values`, `folds` (the same fitted without a part of the data) and what they were fitted on."""
    data: dict[str, Any] = json.loads(CONSTANTS.read_text(encoding="utf-8"))
    return data


def constants() -> Mapping[str, float]:
    """The constants that predictions use."""
    values: dict[str, float] = constants_file()["values"]
    return values
