"""What the comparison of weights has to know about the golden file."""

from __future__ import annotations

from typing import Any

from planner.memory.budget import Estimate
from planner.model.modules import Experts

NOT_VLLM = (
    # Errors of the make-believe environment that the golden file was made in, not of a GPU machine.
    "tensor model parallel group is not initialized",
    "requires FlashInfer",
    "Can't load image processor",
    "requires the timm library",
)
FOR_ANOTHER_REASON: tuple[str, ...] = ()
KNOWN_DIFFERENCES: tuple[str, ...] = ()


def expert_map_bytes(row: dict[str, Any], estimate: Estimate, stage: int) -> int:
    """The expert map, which a GPU holds and the golden file's meta device does not (expert_map_manager.py moves it)."""
    if not row["args"].get("enable_expert_parallel") or estimate.stages[stage].layers is None:
        return 0
    return sum(
        4 * module.count
        for index in estimate.stages[stage].layers
        for module in estimate.model.layers[index].modules
        if isinstance(module, Experts)
    )
