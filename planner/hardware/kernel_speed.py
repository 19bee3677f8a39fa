"""What the kernels of vLLM's CPU engine do on this machine: `python kernel_speed.py THREADS`.

For a Python that has vLLM for CPUs. Runs, from vLLM's library and without importing vLLM (which would take several
seconds), what linear layers call (onednn_mm: vllm/model_executor/layers/utils.py, 0.32.0) and what experts call
(cpu_fused_moe: vllm/model_executor/layers/fused_moe/experts/cpu_moe.py), in bf16. Prints JSON:
{"linear": [bytes of weights a second with one token, FLOP/s with 128], "experts": [the same, 8 experts a token]}.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

LINEAR = ((1024, 4096), (4096, 1024), (2048, 2048))
"""(in, out) of the layers."""
LINEAR_COPIES = 5
"""Of each: all together beyond the caches, so that each pass reads them anew."""
EXPERTS, TOP_K, HIDDEN, INTERMEDIATE = 32, 8, 1024, 512
EXPERT_LAYERS = 2
MANY = 128

Run = Callable[[int], object]


def main() -> None:
    """Prints what was reached as JSON; argv[1] is the number of threads."""
    import torch

    torch.set_num_threads(int(sys.argv[1]))
    torch.ops.load_library(str(library()))
    layers = [linear(k, n) for _ in range(LINEAR_COPIES) for k, n in LINEAR]
    weights = sum(k * n for k, n in LINEAR)
    read, compute = seconds(layers, 1, 32), seconds(layers[: len(LINEAR)], MANY, 16)
    answer = {"linear": [2 * weights * LINEAR_COPIES / read, 2 * weights * MANY / compute]}
    layers = [experts() for _ in range(EXPERT_LAYERS)]
    weights = TOP_K * 3 * HIDDEN * INTERMEDIATE
    read, compute = seconds(layers, 1, 32), seconds(layers[:1], MANY, 8)
    answer["experts"] = [2 * weights * EXPERT_LAYERS / read, 2 * weights * MANY / compute]
    print(json.dumps(answer))


def library() -> Path:
    """vLLM's kernels for the instructions that this CPU has (`import_kernels`, vllm/platforms/cpu.py, 0.32.0)."""
    import torch

    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    if torch.cpu._is_avx512_bf16_supported():
        names = ["_C"]
    elif torch.cpu._is_avx512_supported():
        names = ["_C_AVX512", "_C"]
    else:
        names = ["_C_AVX2", "_C"]
    return next(path for name in names if (path := folder / f"{name}.abi3.so").exists())


def linear(k: int, n: int) -> Run:
    """A layer, packed as the engine packs it, to be run with so many tokens."""
    import torch

    weight = torch.ones(n, k, dtype=torch.bfloat16)
    packed = torch.tensor(torch.ops._C.create_onednn_mm_handler(weight.t(), 128), dtype=torch.int64)
    x, out = torch.ones(MANY, k, dtype=torch.bfloat16), torch.empty(MANY, n, dtype=torch.bfloat16)
    return lambda tokens: torch.ops._C.onednn_mm(out[:tokens], x[:tokens], None, packed)


def experts() -> Run:
    """A layer of experts, packed as the engine packs it, to be run with so many tokens."""
    import torch

    def packed(*shape: int) -> torch.Tensor:
        weight = torch.ones(shape, dtype=torch.bfloat16)
        out = torch.empty_like(weight)
        torch.ops._C.prepack_moe_weight(weight, out, isa)
        return out

    isa = "amx" if torch.cpu._is_amx_tile_supported() else "neon" if platform.machine() in _ARM else "vec"
    w13, w2 = packed(EXPERTS, 2 * INTERMEDIATE, HIDDEN), packed(EXPERTS, HIDDEN, INTERMEDIATE)
    x = torch.ones(MANY, HIDDEN, dtype=torch.bfloat16)
    out = torch.empty_like(x)
    share = torch.full((MANY, TOP_K), 1.0 / TOP_K)
    # Every expert gets as many tokens; a pass with one token takes experts that the last one did not read.
    chosen = (torch.arange(MANY * TOP_K) % EXPERTS).reshape(MANY, TOP_K).int()

    def run(tokens: int) -> None:
        nonlocal chosen
        chosen = (chosen + TOP_K) % EXPERTS
        torch.ops._C.cpu_fused_moe(
            out[:tokens], x[:tokens], w13, w2, None, None, share[:tokens], chosen[:tokens], False, "silu", isa
        )

    return run


_ARM = ("aarch64", "arm64")


def seconds(layers: list[Run], tokens: int, passes: int) -> float:
    """Of all layers, each by its middle pass: an engine has the slower ones too, but not those that other programs
    interrupted."""
    taken: list[list[float]] = [[] for _ in layers]
    for _ in range(1 + passes):  # the first sets up
        for mine, run in zip(taken, layers, strict=True):
            begin = time.perf_counter()
            run(tokens)
            mine.append(time.perf_counter() - begin)
    return sum(median(mine[1:]) for mine in taken)


if __name__ == "__main__":
    main()
