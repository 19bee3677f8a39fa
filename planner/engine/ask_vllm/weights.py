"""Adds up what a built vLLM model holds: every storage once, in bytes, by kind and by group."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import torch

MIB = 1 << 20

_VISION = (
    "visual",
    "vision",
    "multi_modal_projector",
    "mm_projector",
    "image_newline",
    "patch_embed",
    "audio_tower",
    "merger.",
)
_EMBEDDINGS = {
    "embed_tokens", "wte", "wpe", "word_embeddings", "position_embeddings", "embed_positions", "token_type_embeddings",
}  # fmt: skip
_SCALES = (
    "scale", "scales", "scale_inv", "zeros", "qzeros", "g_idx", "scale_2", "weight_shape", "zero_point", "sort_indices",
    "global_scale",
)  # fmt: skip
_STATE_SPACE = {"mamba", "mixer", "linear_attn", "conv1d", "short_conv"}
_MLP = {"mlp", "feed_forward", "ffn", "fc1", "fc2", "dense_h_to_4h", "dense_4h_to_h", "block_sparse_moe", "mlp_block"}


def block_bytes(nbytes: int, max_split: int | None = 20 * MIB) -> int:
    """Bytes torch's CUDA allocator counts for one fresh tensor ("Model loading took" is the sum of these).

    max_split is the max_split_size that vLLM sets while loading; None is the stock allocator. The planner's own
    (planner/memory/allocator.py, which says since when) is not there for the child.
    """
    if nbytes <= 0:
        return 0
    size = -(-nbytes // 512) * 512
    if size < 10 * MIB:
        return size
    segment = -(-size // (2 * MIB)) * 2 * MIB
    splits = max_split is None or size < max_split
    return size if splits and segment - size > MIB else segment


def group_of(name: str, class_name: str) -> str:
    """The part of the model a tensor belongs to, from its qualified name and the class of the module that holds it."""
    lower = name.lower()
    parts = lower.split(".")
    leaf = parts[-1]
    if "cos_sin_cache" in leaf or "rotary" in lower or "rope" in leaf or "inv_freq" in leaf:
        return "rotary"
    if any(key in lower for key in _VISION):
        return "vision"
    if class_name == "ParallelLMHead" or parts[0] == "lm_head" or ".lm_head." in lower:
        return "lm_head"
    if class_name == "VocabParallelEmbedding" or _EMBEDDINGS.intersection(parts):
        return "embedding"
    if "norm" in lower or {"ln_f", "ln_1", "ln_2"}.intersection(parts):
        return "norms"
    if leaf.endswith(_SCALES) or "_scale" in leaf:
        return "quant_scales"
    if "workspace" in leaf:
        return "workspace"
    if "shared_expert" in lower:
        return "router" if "gate" in parts and "gate_up" not in lower and "gate_proj" not in lower else "mlp"
    if "experts" in parts:
        return "experts"
    if leaf in ("e_score_correction_bias", "tid2eid") or "router" in parts:
        return "router"
    if len(parts) > 1 and parts[-2] in ("gate", "router", "shared_expert_gate"):
        return "router"
    if _STATE_SPACE.intersection(parts):
        return "ssm"
    if any("attn" in part or "attention" in part for part in parts):
        return "attention"
    if _MLP.intersection(parts):
        return "mlp"
    return "other"


def _tensors_in(value: Any, depth: int, seen: set[int]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors held by a plain attribute: directly, in a container, or in one of vLLM's own objects."""
    if isinstance(value, torch.Tensor):
        yield "", value
        return
    if isinstance(value, torch.nn.Module) or not depth:
        return
    children: Iterator[tuple[str, Any]]
    if isinstance(value, dict):
        children = ((f"[{key}]", item) for key, item in list(value.items()))
    elif isinstance(value, (list, tuple)):
        children = ((f"[{i}]", item) for i, item in enumerate(value[:4096]))
    elif type(value).__module__.startswith(("vllm", "triton_kernels")) and hasattr(value, "__dict__"):
        if type(value).__module__.startswith("vllm.config") or id(value) in seen:
            return
        seen.add(id(value))
        children = ((f".{key}", item) for key, item in list(vars(value).items()))
    else:
        return
    for suffix, item in children:
        for rest, tensor in _tensors_in(item, depth - 1, seen):
            yield suffix + rest, tensor


def tensors_of(model: torch.nn.Module) -> Iterator[tuple[str, str, str, torch.Tensor]]:
    """(qualified name, "param" | "buffer" | "attr", class of the holder, tensor) of all that the model reaches."""
    modules = [(name + "." if name else "", module) for name, module in model.named_modules()]
    for prefix, module in modules:
        for kind, holder in (("param", module._parameters), ("buffer", module._buffers)):
            for name, tensor in holder.items():
                if tensor is not None:
                    yield prefix + name, kind, type(module).__name__, tensor
    seen: set[int] = set()
    for prefix, module in modules:
        for name, value in list(vars(module).items()):
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            for suffix, tensor in _tensors_in(value, 6, seen):
                yield prefix + name + suffix, "attr", type(module).__name__, tensor


def measure(model: torch.nn.Module, dump: bool = False) -> dict[str, Any]:
    """Bytes of one pipeline stage. `dump` adds one row per tensor."""
    kinds: collections.Counter[str] = collections.Counter()
    groups: collections.Counter[str] = collections.Counter()
    rows: list[list[Any]] = []
    allocated = allocated_stock = count = 0
    seen: set[int] = set()
    for name, kind, class_name, tensor in tensors_of(model):
        try:
            storage = tensor.untyped_storage()
        except Exception:  # noqa: BLE001 - tensor subclasses without a storage
            continue
        first, nbytes = storage._cdata not in seen, storage.nbytes()
        seen.add(storage._cdata)
        group = group_of(name, class_name)
        if kind == "attr" and group in ("attention", "other", "quant_scales"):
            group = "attr_" + group
        if dump:
            dtype = str(tensor.dtype).removeprefix("torch.")
            rows.append([name, kind, class_name, list(tensor.shape), dtype, nbytes, tensor.device.type, group, first])
        if not first or tensor.device.type not in ("meta", "cuda"):
            continue
        kinds[kind] += nbytes
        groups[group] += nbytes
        allocated += block_bytes(nbytes)
        allocated_stock += block_bytes(nbytes, None)
        count += 1
    result = {
        "total": sum(kinds.values()),
        "params": kinds["param"],
        "buffers": kinds["buffer"],
        "attrs": kinds["attr"],
        "alloc_est": allocated,
        "alloc_plain": allocated_stock,
        "groups": {name: groups[name] for name in sorted(groups) if groups[name]},
        "tensors": count,
    }
    return {**result, "dump": rows} if dump else result


def kernels_of(model: torch.nn.Module) -> dict[str, int]:
    """Which kernel vLLM chose for how many layers ("QKVParallelLinear:AutoAWQ/MacheteLinearKernel": 32)."""
    found: collections.Counter[str] = collections.Counter()
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if method is None:
            continue
        words = [type(method).__name__]
        for holder in (method, getattr(module, "scheme", None)):
            if holder is None:
                continue
            if holder is not method:
                words.append(type(holder).__name__)
            for attribute in ("kernel", "fp8_linear", "scheme"):
                kernel = getattr(holder, attribute, None)
                if kernel is not None:
                    words.append(type(kernel).__name__)
        for attribute in (
            "backend", "mxfp4_backend", "fp8_backend", "nvfp4_backend", "unquantized_backend", "moe_backend",
            "wna16_moe_backend", "w4a16_backend",
        ):  # fmt: skip
            backend = getattr(method, attribute, None)
            if backend is not None and not callable(backend):
                words.append(f"{attribute}={getattr(backend, 'name', backend)}")
        found[f"{type(module).__name__}:{'/'.join(words)}"] += 1
    return dict(sorted(found.items()))
