"""What torch's CUDA caching allocator counts for a tensor: "Model loading took" is blocks, not tensor bytes.

Source: c10/cuda/CUDACachingAllocator.cpp (torch 2.x) with vLLM's `max_split_size_mb:20` while loading
(v1/worker/gpu_worker.py _scoped_allocator_max_split, in 0.22 and later; 0.20 has the stock allocator).
"""

from __future__ import annotations

from planner.units import MIB, round_up

_LOADING_MAX_SPLIT = 20 * MIB


def loading_max_split(version: tuple[int, int, int]) -> int | None:
    """max_split_size while this vLLM loads weights; None: the stock allocator."""
    return _LOADING_MAX_SPLIT if version >= (0, 22, 0) else None


def block_bytes(nbytes: int, max_split: int | None = None) -> int:
    """Bytes `torch.cuda.memory_allocated()` counts for one fresh tensor of nbytes.

    Up to 10 MiB a block is split off a shared segment at 512 B; from there on a tensor has a segment of its own,
    rounded to 2 MiB, whose tail is split off only when it exceeds 1 MiB, and never at max_split bytes or more.
    """
    if nbytes <= 0:
        return 0
    size = round_up(nbytes, 512)
    if size < 10 * MIB:
        return size
    segment = round_up(size, 2 * MIB)
    if (max_split is None or size < max_split) and segment - size > MIB:
        return size
    return segment
