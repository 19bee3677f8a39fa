"""`--ask-vllm`: an architecture that no family here describes, sized by an installed vLLM's own classes.

vLLM builds its model class on the meta device in a child process (planner/engine/ask_vllm) and says what every pipeline
stage weighs and how its KV cache is planned. Only the overhead is ours, from the sizes that the config states.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from planner.engine.ask_vllm.client import GpuFacts, ask, installed_version
from planner.engine.defaults import Engine, resolve
from planner.engine.version import parse_version
from planner.errors import InputError, Reason
from planner.hardware.catalogue import Gpu
from planner.memory.allocator import loading_max_split
from planner.memory.budget import Estimate, available_memory, basis_of, not_free, once_sized, overhead_of, ranks_of
from planner.memory.kv_cache import KVCachePlan
from planner.memory.overhead import available_error
from planner.memory.weights import StageWeights
from planner.model.architecture import Layer, Model
from planner.model.config import Config
from planner.model.families.common import config_dtype, context_length
from planner.model.modules import GROUPS, Group, Linear
from planner.model.source import LoadedConfig
from planner.request import Inputs

_STREAMING_MULTIPROCESSORS = 132
"""Not in the catalogue; vLLM sizes only a run-time workspace by it, which is no part of the weights."""


def stand_in(config: Config, name: str) -> Model:
    """What the overhead needs of a model: its sizes, with one MLP for the widest forward pass."""
    text = config.section("text_config") if config.has("text_config") else config
    hidden, layers = text.int("hidden_size"), text.int("num_hidden_layers")
    width = text.optional_int("intermediate_size") or 4 * hidden
    mlp = Linear(name="mlp.down_proj", inputs=width, outputs=(hidden,), split="row")
    architectures = config.strs("architectures", default=())
    if not architectures:
        raise InputError(f"{name}: config.json has no `architectures`")
    return Model(
        name=name,
        architecture=architectures[0],
        hidden_size=hidden,
        vocab_size=text.int("vocab_size"),
        num_attention_heads=text.optional_int("num_attention_heads") or 1,
        dtype=config_dtype(config),
        max_position=context_length(text),
        layers=(Layer(modules=(mlp,)),) * layers,
        is_multimodal=config.has("vision_config"),
    )


def estimate_by_asking(inputs: Inputs) -> Estimate:
    """The estimate with vLLM's own weights and KV cache plan. InputError when there is no vLLM to ask."""
    if inputs.loaded is None:
        raise InputError("--ask-vllm needs a config.json; a model known only by its numbers has none")
    version = parse_version(installed_version())
    quantized = inputs.quantization is not None
    engine = resolve(inputs.model, inputs.gpu, inputs.args, version, inputs.usage, quantized=quantized)
    first = _ask(inputs.loaded, inputs, engine, ())
    base = Estimate(status="refused", reasons=(), model=inputs.model, gpu=inputs.gpu, engine=engine)
    if "error" in first:
        return replace(base, reasons=(_refusal(inputs, first["error"]),))
    engine = _as_resolved(engine, first["resolved"])
    stages = tuple(_stage(stage, inputs.model, engine) for stage in first["stages"])
    last = len(stages) - 1
    model, gpu = inputs.model, inputs.gpu
    beside = tuple(
        overhead_of(model, gpu, engine, inputs.quantization, last_stage=stage.pp_rank == last) for stage in stages
    )
    requested, available = available_memory(gpu, engine, stages, beside, 0)
    room = max(0, min(available))
    answer = _ask(inputs.loaded, inputs, engine, (room,))
    plan, failure = _plan(answer, engine, room)
    capture, under_load = once_sized(gpu, engine, stages, available, beside, 0, inputs.memory_used)
    failures = not_free(gpu, engine, requested, inputs.memory_used) or ([failure] if failure else capture)
    error = 0 if engine.kv_cache_memory_bytes is not None else available_error(model, engine, unified=gpu.unified)
    assumed = {"activation_peak": "that of a dense decoder with the config's hidden and intermediate size"}
    return replace(
        base,
        engine=engine,
        status="does_not_fit" if failures else "fits",
        reasons=tuple(failures),
        requested_bytes=requested,
        stages=stages,
        overheads=beside,
        ranks=ranks_of(stages, available, plan),
        kv_cache=plan,
        basis=basis_of(model, engine, inputs.quantization, beside[-1], assumed),
        assumed=assumed,
        available_range=(room - error, room + error),
        warnings=(
            f"sized by vLLM {version}'s own classes: no family of vllm-fit describes this architecture",
            *([] if failures else under_load),
        ),
    )


def _ask(loaded: LoadedConfig, inputs: Inputs, engine: Engine, available: Sequence[int]) -> dict[str, Any]:
    if inputs.gpu.capability is None:
        raise InputError(f"--ask-vllm: {inputs.gpu.name} is no NVIDIA card; vLLM's CUDA classes are what can be asked")
    files = {"hf_quant_config.json": loaded.quant_config} if loaded.quant_config else {}
    return ask(
        loaded.values,
        {name: value for name, value in engine.args.items() if name != "kv_cache_memory_bytes"},
        facts_of(inputs.gpu),
        name=loaded.name,
        files=files,
        available_bytes=list(available),
        usage=engine.usage,
    )


def facts_of(gpu: Gpu) -> GpuFacts:
    """What vLLM asks of this card before it runs anything on it."""
    return GpuFacts(
        name=gpu.name,
        compute_capability=_capability(gpu),
        memory_bytes=gpu.known_memory(),
        sm_count=_STREAMING_MULTIPROCESSORS,
        gcn_arch=gpu.compute_capability if gpu.kind == "rocm" else None,
    )


def _capability(gpu: Gpu) -> tuple[int, int]:
    """(major, minor); of AMD's gfx942 the 9 and the 4, as HIP counts them."""
    if gpu.capability is not None:
        return divmod(gpu.capability, 10)
    digits = re.match(r"gfx(\d+)(\d)\w$", gpu.compute_capability or "")
    if digits is None:
        raise InputError(f"{gpu.name}: vLLM's CUDA and ROCm classes are what can be asked")
    return int(digits[1]), int(digits[2])


def _refusal(inputs: Inputs, error: Mapping[str, Any]) -> Reason:
    """vLLM's own refusal is an answer; an error of asking is the person's to know about."""
    if error.get("kind") != "refused":
        raise InputError(f"{inputs.model.name}: --ask-vllm: {error.get('type')}: {error.get('message')}")
    return Reason(code="refused_by_vllm", message=str(error.get("message")))


def _as_resolved(engine: Engine, resolved: Mapping[str, Any]) -> Engine:
    names = (
        "dtype",
        "quantization",
        "max_model_len",
        "max_num_batched_tokens",
        "max_num_seqs",
        "enable_prefix_caching",
        "enable_chunked_prefill",
        "async_scheduling",
        "use_v2_model_runner",
    )
    return replace(engine, **{name: resolved[name] for name in names if name in resolved})


def _stage(answer: Mapping[str, Any], model: Model, engine: Engine) -> StageWeights:
    groups: dict[Group, int] = dict.fromkeys(GROUPS, 0)
    for name, size in answer["groups"].items():
        groups[name if name in groups else "other"] += size
    stock = loading_max_split(engine.vllm_version) is None
    start, end = answer.get("layers") or (0, len(model.layers))
    return StageWeights(
        pp_rank=answer["pp_rank"],
        layers=range(start, end),
        groups=groups,
        tensor_bytes=answer["total"],
        block_bytes=answer["alloc_plain" if stock else "alloc_est"],
        parameter_bytes=answer["params"] + answer["buffers"],
        buffer_bytes=answer["buffers"],
    )


def _plan(answer: Mapping[str, Any], engine: Engine, room: int) -> tuple[KVCachePlan | None, Reason | None]:
    kv, resolved = answer.get("kv"), answer["resolved"]
    if not kv or not kv.get("bytes_per_block") or not max(kv["bytes_per_block"]):
        return None, None
    outcome = kv["outcomes"][0]
    failure = None
    if "error" in outcome:
        code = "no_cache_blocks" if "No available memory" in outcome["error"] else "kv_too_small_for_one_request"
        failure = Reason(code=code, message=outcome["error"], flag="--max-model-len")
    needed, per_block = max(kv["bytes_needed"]), max(kv["bytes_per_block"])
    return (
        KVCachePlan(
            block_size=resolved["block_size"],
            attention_backend=", ".join(resolved["attention_backends"]) or None,
            kv_cache_dtype=resolved["cache_dtype"],
            bytes_per_block=per_block,
            bytes_per_block_by_stage=tuple(kv["bytes_per_block"]),
            num_blocks=outcome.get("num_blocks", room // per_block),
            tokens=outcome.get("tokens", 0),
            max_concurrency=float(outcome.get("concurrency", 0)),
            blocks_per_request=sum(group["blocks_per_request"] for group in kv["groups"]),
            bytes_for_one_request=needed,
            max_model_len=engine.max_model_len,
            max_model_len_that_fits=outcome.get("max_len_that_fits", 0),
            groups=(),
            failure=failure,
        ),
        failure,
    )
