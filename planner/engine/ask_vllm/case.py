"""One question to vLLM: an HF config and engine arguments in, bytes and KV cache plans out. Runs in a forked child."""

# Stand-ins take the arguments of what they stand for.
# ruff: noqa: ARG005

from __future__ import annotations

import copy
import json
import linecache
import re
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import kv_plan, launches, meta_tensors, weights

# Errors that say something about this tool or this machine, not about what vLLM does on a GPU.
_OURS = (ImportError, MemoryError)
_OUR_WORDS = (
    "contains custom code",
    "does not recognize this architecture",
    "does not support Transformers",
    "failed to be inspected",
    "Can't load image processor",
    "Can't load feature extractor",
    "Can't load tokenizer",
    "Failed to load the processor",
    "couldn't connect to",
    "_InertType",
    "Inert",
    "meta tensor",
    "on meta",
    "device type meta",
    "'Meta' backend",
    "requires the timm library",
    "all2all_manager is not None",
    "is not installed",
)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request, or {"error": {...}}; never raises."""
    started = time.monotonic()
    meta_tensors.INVENTED.clear()
    try:
        with tempfile.TemporaryDirectory(prefix="ask-vllm-") as folder:
            answer = _run(request, Path(folder))
    except BaseException as error:  # noqa: BLE001 - an error is an answer
        answer = {"error": describe(error)}
    import vllm

    answer = {"id": request.get("id"), "vllm_version": vllm.__version__.partition("+")[0], **answer}
    if meta_tensors.INVENTED:
        answer["invented"] = dict(sorted(meta_tensors.INVENTED.items()))
    answer["seconds"] = round(time.monotonic() - started, 2)
    return answer


def _run(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    notes: list[str] = []
    model_folder = folder / (request.get("name") or "model").replace("/", "--")
    _write_model(model_folder, request, notes)
    if "serve" in request or "llm" in request:
        made, config = launches.check(request, str(model_folder))
        return {**made, "resolved": _resolved(config, []), **({"notes": notes} if notes else {})}
    config, sizes = _engine_config(request, str(model_folder))
    built = _built(request, config, sizes)
    answer: dict[str, Any] = {"model_class": built.model_class, "resolved": _resolved(config, sorted(built.backends))}
    if _lacks_triton_kernels(config, built.model_class):
        notes.append("this vLLM has no triton_kernels: MXFP4 experts on Hopper are sized for Marlin instead")
    if notes:
        answer["notes"] = notes
    if request.get("weights", True):
        answer |= {"stages": built.stages, "kernels": built.kernels}
    if request.get("available_bytes") is not None:
        answer["kv"] = _planned(config, sizes, built, request["available_bytes"])
        answer["resolved"] = _resolved(config, sorted(built.backends))  # planning switches some flags
    return answer


def _engine_config(request: dict[str, Any], model: str) -> tuple[Any, dict[str, int]]:
    """(vLLM's own config of the launch, its parallel sizes by their short names)."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    arguments = {
        "model": model,
        "tokenizer": model,
        "skip_tokenizer_init": True,
        "load_format": "dummy",
        **request.get("engine_args", {}),
    }
    names = {"tp": "tensor", "pp": "pipeline", "dp": "data"}
    sizes = {short: int(arguments.get(f"{name}_parallel_size", 1)) for short, name in names.items()}
    if sizes["tp"] * sizes["pp"] > 1:
        arguments.setdefault("distributed_executor_backend", "mp")
    usage = UsageContext.LLM_CLASS if request.get("usage") == "offline" else UsageContext.OPENAI_API_SERVER
    return EngineArgs(**arguments).create_engine_config(usage_context=usage), sizes


@dataclass
class _Built:
    """What was seen of the model on the first rank of each pipeline stage."""

    model_class: str | None = None
    stages: list[dict[str, Any]] = field(default_factory=list)
    kernels: dict[str, Any] = field(default_factory=dict)
    specs: list[Any] = field(default_factory=list)
    layouts: list[Any] = field(default_factory=list)
    backends: set[str] = field(default_factory=set)
    kv_error: dict[str, Any] | None = None


def _built(request: dict[str, Any], config: Any, sizes: dict[str, int]) -> _Built:
    """The model built stage by stage on the meta device, measured, and asked for the specs of its KV cache."""
    want_weights, want_plan = request.get("weights", True), request.get("available_bytes") is not None
    pristine = copy.deepcopy(config) if sizes["pp"] > 1 else config
    found = _Built()
    for stage in range(sizes["pp"]):
        stage_config = config if stage == 0 else copy.deepcopy(pristine)
        with _distributed(stage_config, rank=stage * sizes["tp"], **sizes):
            model = _build(stage_config, finish=want_weights)
            if request.get("worker_checks"):
                _worker_checks(stage_config, model)
            if want_plan and found.kv_error is None:
                _add_specs(found, stage_config)
        found.model_class = type(model).__name__
        if want_weights:
            measured = weights.measure(model, dump=bool(request.get("dump")))
            inner = getattr(model, "model", None) or model
            if getattr(inner, "start_layer", None) is not None:
                measured["layers"] = [inner.start_layer, inner.end_layer]
            found.stages.append({"pp_rank": stage, **measured})
            found.kernels = weights.kernels_of(model)
        del model
    return found


def _add_specs(found: _Built, stage_config: Any) -> None:
    try:
        specs, layouts, backends = kv_plan.stage_specs(stage_config)
    except Exception as error:  # noqa: BLE001
        found.kv_error = describe(error)
        return
    found.specs.append(specs)
    found.layouts.append(layouts)
    found.backends.update(backends)


def _planned(config: Any, sizes: dict[str, int], built: _Built, amounts: list[int]) -> dict[str, Any]:
    if built.kv_error:
        return {"error": built.kv_error}
    try:
        with _distributed(config, rank=0, **sizes):
            return kv_plan.plan(config, built.specs, built.layouts, amounts)
    except Exception as error:  # noqa: BLE001
        return {"error": describe(error)}


def _lacks_triton_kernels(config: Any, model_class: str | None) -> bool:
    if model_class != "GptOssForCausalLM" and config.model_config.quantization not in ("mxfp4", "gpt_oss_mxfp4"):
        return False
    from vllm.utils.import_utils import has_triton_kernels

    return not has_triton_kernels()


def _resolved(config: Any, backends: list[str]) -> dict[str, Any]:
    """The engine arguments as vLLM filled them in."""
    model, scheduler, cache = config.model_config, config.scheduler_config, config.cache_config
    return {
        "architecture": model.architecture,
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": model.quantization,
        "max_model_len": model.max_model_len,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "max_num_seqs": scheduler.max_num_seqs,
        "block_size": cache.block_size,
        "cache_dtype": cache.cache_dtype,
        "mamba_block_size": cache.mamba_block_size,
        "mamba_page_size_padded": cache.mamba_page_size_padded,
        "mamba_cache_mode": cache.mamba_cache_mode,
        "enable_prefix_caching": cache.enable_prefix_caching,
        "enable_chunked_prefill": scheduler.enable_chunked_prefill,
        "async_scheduling": scheduler.async_scheduling,
        "max_in_flight_tokens": getattr(config, "max_in_flight_tokens", None),
        "disable_hybrid_kv_cache_manager": scheduler.disable_hybrid_kv_cache_manager,
        "use_v2_model_runner": getattr(config, "use_v2_model_runner", None),
        "gpu_memory_utilization": cache.gpu_memory_utilization,
        "attention_backends": backends,
        "cudagraph_mode": getattr(config.compilation_config.cudagraph_mode, "name", None),
        "max_cudagraph_capture_size": config.compilation_config.max_cudagraph_capture_size,
    }


# ------------------------------------------------------------------------------------------------ the model folder


def _write_model(folder: Path, request: dict[str, Any], notes: list[str]) -> None:
    """config.json and what stands beside it. A config that names remote code is read without it."""
    folder.mkdir(parents=True)
    config = dict(request["config"])
    config.pop("auto_map", None)  # remote code of a model repository is never executed
    model_type = config.get("model_type")
    _register_config_class(model_type, notes)
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in (request.get("files") or {}).items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


_OTHER_NAMES = {
    "num_hidden_layers": ("num_layers", "n_layer", "n_layers"),
    "hidden_size": ("n_embd", "d_model"),
    "num_attention_heads": ("n_head", "n_heads"),
    "head_dim": (),
    "rope_theta": (),
    "max_position_embeddings": ("seq_length", "max_seq_len"),
    "intermediate_size": ("ffn_hidden_size",),
}


def _register_config_class(model_type: str | None, notes: list[str]) -> None:
    """A model_type known to neither transformers nor vLLM (its class is remote code): read with a generic class."""
    from transformers import AutoConfig, PretrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from vllm.transformers_utils.config import _CONFIG_REGISTRY

    if not model_type or model_type in CONFIG_MAPPING or model_type in _CONFIG_REGISTRY:
        return

    def init(self: Any, **values: Any) -> None:
        for name, others in _OTHER_NAMES.items():
            for key in (name, *others):
                if key in values:
                    object.__setattr__(self, name, values[key])
                    break
        blocks = values.pop("block_configs", None)
        PretrainedConfig.__init__(self, **values)
        if blocks is not None:  # Nemotron-NAS: its own class makes objects of them
            self.block_configs = [_BlockConfig(block) for block in blocks]

    name = "Generic_" + re.sub(r"\W", "_", model_type)
    AutoConfig.register(model_type, type(name, (PretrainedConfig,), {"model_type": model_type, "__init__": init}))
    notes.append("config read with a generic class: its own is remote code")


class _BlockConfig(dict[str, Any]):
    """A nested dict that also answers to attributes, as the remote config class of Nemotron-NAS makes them."""

    def __init__(self, values: dict[str, Any] | None = None) -> None:
        nested = {k: _BlockConfig(v) if isinstance(v, dict) else v for k, v in (values or {}).items()}
        super().__init__(nested)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


# ------------------------------------------------------------------------------------------------ building


@contextmanager
def _distributed(config: Any, *, rank: int, tp: int, pp: int, dp: int) -> Iterator[None]:
    """vLLM's process groups over torch's fake backend, as rank `rank` of tp x pp x dp."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.distributed.device_communicators import shm_broadcast
    from vllm.model_executor.layers import rotary_embedding

    new_group = dist.new_group
    dist.new_group = lambda ranks=None, *args, **kwargs: new_group(ranks, backend="fake")
    parallel_state._node_count = lambda group: 1
    shm_broadcast.MessageQueue.create_from_process_group = staticmethod(lambda *a, **k: None)
    rotary_embedding._ROPE_DICT.clear()  # a stage is a process of its own: it shares no rotary cache
    config.parallel_config.rank = rank
    world = tp * pp * dp
    dist.init_process_group(backend="fake", store=FakeStore(), rank=rank, world_size=world)
    try:
        with set_current_vllm_config(config, check_compile=False), meta_tensors.on_meta():
            parallel_state.init_distributed_environment(
                world_size=world, rank=rank, distributed_init_method="env://", local_rank=rank, backend="fake"
            )
            parallel_state.initialize_model_parallel(
                tp,
                pp,
                decode_context_model_parallel_size=config.parallel_config.decode_context_parallel_size,
                backend="fake",
            )
            yield
    finally:
        parallel_state.destroy_model_parallel()
        parallel_state.destroy_distributed_environment()
        dist.new_group = new_group


def _build(config: Any, *, finish: bool) -> torch.nn.Module:
    """vLLM's model on meta; `finish` adds what loading does to the weights (online quantization, repacking)."""
    from vllm.model_executor.model_loader.utils import initialize_model, process_weights_after_loading
    from vllm.utils.torch_utils import set_default_torch_dtype
    from vllm.v1.worker import workspace

    meta = torch.device("meta")
    workspace.init_workspace_manager(meta)
    with set_default_torch_dtype(config.model_config.dtype), meta:
        model = initialize_model(vllm_config=config, model_config=config.model_config)
        if finish:
            with torch.no_grad():
                _quantize_online(model)
                process_weights_after_loading(model, config.model_config, meta)
    return model


def _worker_checks(config: Any, model: torch.nn.Module) -> None:
    """What a worker refuses besides (v1/worker/gpu_worker.py init_device, lora_model_runner_mixin.py)."""
    from vllm.model_executor.models import supports_lora
    from vllm.platforms import current_platform

    current_platform.check_if_supports_dtype(config.model_config.dtype)
    if config.lora_config is not None and not supports_lora(model):
        raise ValueError(f"{type(model).__name__} does not support LoRA yet.")


def _quantize_online(model: torch.nn.Module) -> None:
    """What vLLM's dummy loader does for layers quantized while loading, without filling in random numbers."""
    from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
    from vllm.model_executor.model_loader.reload import layerwise
    from vllm.model_executor.model_loader.reload.meta import materialize_layer
    from vllm.model_executor.model_loader.reload.utils import get_layer_tensors

    for layer in model.modules():
        info = layerwise.get_layerwise_info(layer)
        if not info.can_load():
            continue
        materialize_layer(layer, info)
        for tensor in get_layer_tensors(layer).values():
            tensor.weight_loader = layerwise._get_original_loader(tensor)
        method = getattr(layer, "quant_method", None)
        if isinstance(method, QuantizeMethodBase):
            method.process_weights_after_loading(layer)
        info.reset()


# ------------------------------------------------------------------------------------------------ errors


def describe(error: BaseException) -> dict[str, Any]:
    """{"kind", "type", "message", "where"}; kind is "refused" (by vLLM itself) or "not_buildable" (not run here)."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{_relative(frame.filename)}:{frame.lineno}" for frame in frames[-3:]]
    message = str(error).strip()
    value_error = re.search(r"Value error, (.*?) \[type=value_error", message, re.DOTALL)
    if value_error:  # pydantic wraps what vLLM says
        message = value_error.group(1)
    message = re.sub(r"[^\s'\"]*/ask-vllm-[^/\s]+/([^/\s'\"]+)", r"\1", message)  # not our temporary folder
    if not message and frames:
        message = linecache.getline(frames[-1].filename, frames[-1].lineno or 0).strip()
    ours = isinstance(error, _OURS) or any(word in message for word in _OUR_WORDS)
    if "not supported for this model" in message or message.startswith("Failed to find a kernel"):
        ours = False
    if isinstance(error, (AttributeError, KeyError, TypeError, IndexError)):
        ours = True  # vLLM's refusals are sentences
    return {
        "kind": "not_buildable" if ours else "refused",
        "type": type(error).__name__,
        "message": message[:1000],
        "where": where,
    }


def _relative(path: str) -> str:
    for marker in ("/site-packages/", "/vllm/"):
        _, found, tail = path.partition(marker)
        if found:
            return tail if marker == "/site-packages/" else "vllm/" + tail
    return Path(path).name
