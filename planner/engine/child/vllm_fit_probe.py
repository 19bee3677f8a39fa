"""Reads, inside each of vLLM's workers, what only the worker knows; loaded there as `worker_extension_cls`.

vLLM imports this module in the worker before it loads the model, which is when the two functions below are wrapped.
"""

from __future__ import annotations

import functools
import json
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any

loaded: list[dict[str, int]] = []
"""One entry a model (the main one, a draft): its tensors as its class allocated them, before any repacking."""

available_kv_bytes: list[int] = []


def _wrap_model_loading() -> None:
    """Counts a model's tensors after its weights are loaded and before vLLM turns them into kernel formats.

    Not those that only carry the KV cache's scales from the checkpoint to attributes of the layer and are then deleted.
    """
    try:
        from vllm.model_executor.model_loader import base_loader
    except ImportError:  # before 0.9
        return
    repack = base_loader.process_weights_after_loading

    @functools.wraps(repack)
    def count_then_repack(model: Any, *args: Any, **kwargs: Any) -> Any:
        sizes, scales = count(model, attributes=False), cache_scales(model)
        result = repack(model, *args, **kwargs)
        kept = cache_scales(model)
        sizes["parameters"] -= sum(size for name, size in scales.items() if name not in kept)
        loaded.append(sizes)
        return result

    base_loader.process_weights_after_loading = count_then_repack


def _wrap_available_memory() -> None:
    for module, name in (("vllm.v1.worker.gpu_worker", "Worker"), ("vllm.v1.worker.cpu_worker", "CPUWorker")):
        worker = getattr(sys.modules.get(module), name, None)
        if worker is not None and "determine_available_memory" in vars(worker):
            worker.determine_available_memory = _recording(worker.determine_available_memory)


def _recording(determine: Callable[[Any], int]) -> Callable[[Any], int]:
    @functools.wraps(determine)
    def determine_and_record(self: Any) -> int:
        available = determine(self)
        available_kv_bytes[:] = [int(available)]
        return available

    return determine_and_record


_wrap_model_loading()
_wrap_available_memory()


class Probe:
    """Mixed into vLLM's worker class; `collective_rpc("vllm_fit_report")` gives one answer a rank."""

    rank: int
    model_runner: Any
    vllm_config: Any

    def vllm_fit_report(self) -> dict[str, Any]:
        """What this worker knows of its rank, sizes in bytes, as plain JSON; called by collective_rpc."""
        model = self.model_runner.get_model()
        drafter = getattr(getattr(self.model_runner, "drafter", None), "model", None)
        layers = self.vllm_config.compilation_config.static_forward_context.values()
        backends = {layer.get_attn_backend().get_name() for layer in layers if hasattr(layer, "get_attn_backend")}
        report = {
            "rank": self.rank,
            "engine": describe_engine(self.vllm_config),
            "loaded": loaded or None,
            "resident": [count(m, attributes=True) for m in (model, drafter) if m is not None],
            "model_loading_bytes": getattr(self.model_runner, "model_memory_usage", None),
            "available_kv_bytes": available_kv_bytes[0] if available_kv_bytes else None,
            "peak_activation_bytes": getattr(self, "peak_activation_memory", None),
            "cuda_graph_bytes": getattr(self, "cudagraph_memory_estimate", None),
            "attention_backends": sorted(backends),
            "kv_cache_groups": describe_groups(getattr(self.model_runner, "kv_cache_config", None)),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        # Plain types only: vLLM's messages refuse a subclass of str, such as torch's version.
        return dict(json.loads(json.dumps(report, default=str)))

    def vllm_fit_allocate_pipeline_buffers(self) -> None:
        """What a pipeline stage receives its input in.

        vLLM (0.32) allocates it while warming up, which a CPU engine leaves out when it is eager and its KV cache has
        a given size; the first request then fails an assertion.
        """
        runner = self.model_runner
        if getattr(runner, "intermediate_tensors", ...) is None:
            runner.intermediate_tensors = runner.get_model().make_empty_intermediate_tensors(
                batch_size=runner.max_num_tokens, dtype=runner.model_config.dtype, device=runner.device
            )


def describe_engine(config: Any) -> dict[str, Any]:
    """Versions, device, and every setting that matters here as vLLM resolved it."""
    import torch
    import vllm
    from vllm.platforms import current_platform

    model, cache, scheduler = config.model_config, config.cache_config, config.scheduler_config
    parallel = config.parallel_config
    return {
        "vllm_version": vllm.__version__,
        "torch_version": torch.__version__,
        "device": current_platform.device_type,
        "device_name": current_platform.get_device_name(),
        "architecture": model.architecture,
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": model.quantization,
        "load_format": str(config.load_config.load_format),
        "kv_cache_dtype": str(cache.cache_dtype),
        "block_size": cache.block_size,
        "gpu_memory_utilization": cache.gpu_memory_utilization,
        "kv_cache_memory_bytes": getattr(cache, "kv_cache_memory_bytes", None),
        "enable_prefix_caching": cache.enable_prefix_caching,
        "max_model_len": model.max_model_len,
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "enable_chunked_prefill": getattr(scheduler, "enable_chunked_prefill", None),
        "async_scheduling": getattr(scheduler, "async_scheduling", None),
        "enforce_eager": model.enforce_eager,
        "tensor_parallel_size": parallel.tensor_parallel_size,
        "pipeline_parallel_size": parallel.pipeline_parallel_size,
    }


def describe_groups(kv_cache_config: Any) -> list[dict[str, Any]]:
    """The KV cache groups of a KVCacheConfig, pages in bytes."""
    return [
        {
            "kind": type(group.kv_cache_spec).__name__,
            "layers": len(group.layer_names),
            "block_size": group.kv_cache_spec.block_size,
            "page_size_bytes": group.kv_cache_spec.page_size_bytes,
        }
        for group in getattr(kv_cache_config, "kv_cache_groups", [])
    ]


def count(model: Any, *, attributes: bool) -> dict[str, int]:
    """Bytes of the model's tensors, each storage once; `attributes` adds tensors that are no parameter or buffer."""
    seen: set[int] = set()

    def total(tensors: Iterator[Any]) -> int:
        size = 0
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if tensor.device.type != "meta" and storage._cdata not in seen:
                seen.add(storage._cdata)
                size += storage.nbytes()
        return size

    sizes = {"parameters": total(model.parameters()), "buffers": total(model.buffers())}
    if attributes:
        sizes["attributes"] = total(plain_tensors(model))
    return sizes


def cache_scales(model: Any) -> dict[str, int]:
    """Bytes of the parameters of attention layers themselves, by name."""
    return {
        f"{prefix}.{name}": tensor.nbytes
        for prefix, module in model.named_modules()
        if hasattr(module, "get_attn_backend")
        for name, tensor in module.named_parameters(recurse=False)
    }


def plain_tensors(model: Any) -> Iterator[Any]:
    """Tensors that modules hold as plain attributes, alone or in a list, tuple or dict; not the KV cache."""
    import torch

    for module in model.modules():
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers", "_modules", "kv_cache"):
                continue
            if isinstance(value, dict):
                held: Any = value.values()
            else:
                held = value if isinstance(value, list | tuple) else (value,)
            yield from (item for item in held if isinstance(item, torch.Tensor))
