"""A request, the same from the command line, a line of JSON and Python: parsed, prepared, answered.

    answer({"model": "Qwen/Qwen3-32B", "gpu": "H100-SXM-80GB", "tensor_parallel_size": 2})

The contract of both sides is docs/contract.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from planner import strict_json
from planner.engine.args import EngineArgs
from planner.engine.defaults import Usage
from planner.engine.version import NEWEST, VllmVersion, parse_version
from planner.errors import InputError, Reason, Refusal, UnknownArchitectureError, bug
from planner.hardware.catalogue import Gpu, find_gpu, with_memory
from planner.memory.budget import Estimate, estimate
from planner.memory.draft import Draft, draft_of
from planner.memory.quantization import Quantization, quantization
from planner.memory.quantization.recipes import recipe_for, what_if
from planner.model.architecture import Model
from planner.model.checkpoint import CheckpointFacts, hub_facts, local_facts
from planner.model.config import CONFIG_FILE, Config
from planner.model.families import build_model
from planner.model.numbers import config_of_numbers
from planner.model.source import LoadedConfig, Source, load_config
from planner.text import has_hidden, shown
from planner.units import GIB, gib
from planner.workload import Workload, workload_of

if TYPE_CHECKING:
    from planner.planning.throughput import Throughput

ModelSource = str | Mapping[str, Any]
"""A catalogue name, folder, config.json or Hub id; or an object of numbers for a model that has no config."""

REQUEST_KEYS = (
    "id",
    "model",
    "gpu",
    "gpu_memory_gib",
    "gpu_memory_used_gib",
    "compute_capability",
    "vllm_version",
    "usage",
    "what_if_quantization",
    "workload",
    "ask_vllm",
)
_GPU_KEYS = ("gpu", "gpu_memory_gib", "gpu_memory_used_gib", "compute_capability")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything `estimate` needs, read and checked."""

    source: ModelSource
    model: Model
    gpu: Gpu
    gpu_request: Mapping[str, Any]
    """The request's own words for the card: those of its keys that are in _GPU_KEYS."""
    args: EngineArgs
    quantization: Quantization | None
    version: VllmVersion = NEWEST
    usage: Usage = "server"
    workload: Workload | None = None
    memory_used: int = 0
    """Bytes of each card that other processes hold when the launch begins."""
    what_if_quantization: str | None = None
    loaded: LoadedConfig | None = None
    checkpoint: CheckpointFacts | None = None
    assumed: Mapping[str, str] = field(default_factory=dict)

    draft: Draft | None = None
    """The draft of speculative_config."""
    refused: Reason | None = None
    """vLLM would not take the quantization, whatever the card."""
    ask_vllm: bool = False
    """No family describes the architecture: an installed vLLM's own classes are asked instead."""

    @property
    def model_source(self) -> str:
        """What `vllm serve` is given: a Hub id, or the folder of a config.json; MODEL where there are only numbers."""
        if not isinstance(self.source, str):
            return "MODEL"
        folder, name = os.path.split(self.source)
        return (folder or "./") if name == CONFIG_FILE else self.source

    @property
    def serve_command(self) -> str:
        """The `vllm serve` line of this launch."""
        return self.args.serve_command(self.model_source)

    def estimate(self, args: EngineArgs | None = None) -> Estimate:
        """The estimate for these inputs, or for them with other engine arguments."""
        args = self.args if args is None else args
        if self.ask_vllm:
            from planner.asking import estimate_by_asking

            return estimate_by_asking(replace(self, args=args))
        quant, refused = self.quantization, self.refused
        if args.get("quantization") != self.args.get("quantization"):
            quant, refused = _quantization(self.model, self.loaded, args, self.what_if_quantization)
        if refused is not None:
            return Estimate(status="refused", reasons=(refused,), model=self.model, gpu=self.gpu, engine=None)
        return estimate(
            self.model,
            self.gpu,
            args,
            quantization=quant,
            version=self.version,
            usage=self.usage,
            memory_used=self.memory_used,
            draft=self.draft,
            assumed=self.assumed,
        )

    def throughput(self, estimate: Estimate) -> Throughput | None:
        """How fast this estimate's launch serves the workload; None without one, or where it does not start."""
        if self.workload is None or self.ask_vllm:
            return None
        from planner.planning.throughput import predict  # an estimate of memory starts faster without it

        return predict(self, estimate, self.workload)


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one request, as a dictionary that JSON can hold. InputError when the request makes no sense."""
    inputs = prepare(request)
    return answer_of(inputs, inputs.estimate(), request.get("id"))


def answer_of(inputs: Inputs, estimate: Estimate, request_id: object = None) -> dict[str, Any]:
    """The answer that this estimate is, with the speed where a workload is given."""
    result = estimate.to_dict(request_id)
    try:
        throughput = inputs.throughput(estimate)
    except InputError as error:  # a card without a known bandwidth still has an estimate of memory
        result["warnings"].append(str(error))
    else:
        result |= {"throughput": throughput.to_dict()} if throughput is not None else {}
    disagreement = checkpoint_disagreement(inputs)
    if disagreement:
        result["warnings"].append(disagreement)
    return result


def answer_lines(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """One answer for each line of JSON, in order; a bad line is an answer with status "error"."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        request: dict[str, Any] = {}
        try:
            request = strict_json.parse_object(line, f"line {number}")
            yield answer(request)
        except InputError as error:
            yield error_answer(error, request.get("id"))
        except Exception as error:  # noqa: BLE001 - one line's fault must not take the others' answers
            yield error_answer(bug(error), request.get("id"))


def error_answer(error: InputError, request_id: object = None) -> dict[str, Any]:
    """The answer of a request that could not be asked: status "error" and one reason, with the request's own id."""
    return {
        "id": request_id,
        "status": "error",
        "reasons": [{"code": "bad_input", "message": str(error), "flag": None}],
    }


def prepare(request: Mapping[str, Any]) -> Inputs:
    """Read and check a request. InputError names the key that is wrong and says what to pass."""
    engine_args = {key: value for key, value in request.items() if key not in REQUEST_KEYS}
    args = EngineArgs(engine_args)
    source = request.get("model")
    loaded, asks = None, False
    assumed: dict[str, str] = {}
    if isinstance(source, Mapping):
        model, assumed = _from_numbers(source)
    elif isinstance(source, str):
        if has_hidden(source):  # it ends up in a command that people copy
            raise InputError(f"model {shown(source)}: has control characters; rename the folder, or pass a link to it")
        loaded, model, asks = _described(source, args, ask=_flag(request, "ask_vllm"))
    else:
        given = "missing" if source is None else f"{shown(source)} is neither text nor an object"
        raise InputError(f"model: {given}; pass a catalogue name, a folder, a config.json or a Hub id")
    what = _text(request, "what_if_quantization")
    version = parse_version(_text(request, "vllm_version") or str(NEWEST))
    quant, refused = (None, None) if asks else _quantization(model, loaded, args, what)
    if what is not None:
        if asks:
            raise InputError(f"what_if_quantization = {shown(what)}: an installed vLLM sizes what there is, not that")
        made = f"as a checkpoint in {what}, made with the usual recipe: {recipe_for(what).what}"
        assumed = {**assumed, "weights": made}
    draft = draft_of(
        args,
        model,
        lambda name, revision: load_config(name, revision=revision),
        config=loaded.config if loaded is not None else None,
        target_quantization=quant,
        version=version,
    )
    return Inputs(
        source=source,
        model=model,
        gpu=_gpu(request),
        gpu_request={key: request[key] for key in _GPU_KEYS if request.get(key) is not None},
        args=args,
        quantization=quant,
        version=version,
        usage=_usage(request),
        workload=workload_of(request.get("workload")),
        memory_used=_memory_used(request.get("gpu_memory_used_gib")),
        what_if_quantization=what,
        loaded=loaded,
        checkpoint=_checkpoint(loaded),
        assumed=assumed,
        ask_vllm=asks,
        refused=refused,
        draft=draft,
    )


def checkpoint_disagreement(inputs: Inputs) -> str | None:
    """A sentence when the checkpoint's safetensors headers hold clearly more or fewer bytes than the config says."""
    facts = inputs.checkpoint
    if facts is None or not facts.total_bytes or not facts.complete:
        return None
    if inputs.what_if_quantization is not None:  # that checkpoint is yet to be made
        return None
    computed = inputs.estimate(EngineArgs({"kv_cache_memory_bytes": 1 * GIB}))
    if not computed.stages:
        return None
    expected = sum(stage.parameter_bytes - stage.buffer_bytes for stage in computed.stages)
    if abs(facts.total_bytes - expected) <= _DISAGREEMENT * expected:
        return None
    return (
        f"the checkpoint's safetensors files hold {gib(facts.total_bytes)} GiB, its config says {gib(expected)} GiB: "
        "the two disagree"
    )


_DISAGREEMENT = 0.05
"""Multi-token-prediction layers, which vLLM skips, and a tied head stored twice make up to 4 % in small models."""


# --- parts of a request --------------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def _catalogue_model(source: str, revision: str | None) -> tuple[LoadedConfig, Model]:
    loaded = load_config(source, revision=revision)
    return loaded, build_model(loaded.config, loaded.name)


def _model(source: str, revision: str | None, overrides: Mapping[str, Any]) -> tuple[LoadedConfig, Model]:
    # A path may change between two requests of one process; a catalogue name cannot.
    if not overrides and not _on_disk(source):
        return _catalogue_model(source, revision)
    loaded = load_config(source, revision=revision)
    loaded = replace(loaded, values=_merged(loaded.values, overrides))
    return loaded, build_model(loaded.config, loaded.name)


def _described(source: str, args: EngineArgs, *, ask: bool) -> tuple[LoadedConfig, Model, bool]:
    """(config, model, whether an installed vLLM must be asked because no family describes it)."""
    try:
        return *_model(source, args.get("revision"), _overrides(args)), False
    except UnknownArchitectureError:
        if not ask:
            raise
    from planner.asking import stand_in

    loaded = load_config(source, revision=args.get("revision"))
    return loaded, stand_in(loaded.config, loaded.name), True


def _on_disk(source: str) -> bool:
    try:
        return os.path.lexists(source)
    except ValueError:  # a NUL in it
        return False


def _checkpoint(loaded: LoadedConfig | None) -> CheckpointFacts | None:
    """What the model's safetensors files hold, where there are any: beside its config, or in its Hub repository."""
    if loaded is None:
        return None
    if loaded.source is Source.HUB:
        return hub_facts(loaded.name, revision=loaded.revision)
    return local_facts(loaded.folder) if loaded.folder is not None else None


def _overrides(args: EngineArgs) -> Mapping[str, Any]:
    overrides = args.get("hf_overrides") or {}
    if not isinstance(overrides, Mapping):
        raise InputError(f"hf_overrides = {shown(overrides)}: must be a JSON object")
    return overrides


def _merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in overrides.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _from_numbers(numbers: Mapping[str, Any]) -> tuple[Model, dict[str, str]]:
    """(model, what was assumed of its weights)"""
    values, assumed = config_of_numbers(numbers)
    config = Config(values, where="model")
    name = numbers.get("name")
    model = build_model(config, name if isinstance(name, str) else "a model known by its numbers")
    return model, {"weights": "; ".join(assumed)} if assumed else {}


def _quantization(
    model: Model, loaded: LoadedConfig | None, args: EngineArgs, what: str | None
) -> tuple[Quantization | None, Reason | None]:
    """The checkpoint's own quantization, the one asked for, or a what-if; and vLLM's reason to refuse it, if any."""
    key = ("quantization", args.get("quantization"), what)
    try:
        if key not in model.memo:
            model.memo[key] = what_if(model, what) if what is not None else _of_config(model, loaded, args)
    except Refusal as refusal:
        return None, refusal.reason
    made: Quantization | None = model.memo[key]
    return made, None


def _of_config(model: Model, loaded: LoadedConfig | None, args: EngineArgs) -> Quantization | None:
    requested = args.get("quantization")
    parameters = None
    if loaded is not None:
        parameters = loaded.values.get("quantization_config") or loaded.values.get("compression_config")
        text = loaded.values.get("text_config")
        if parameters is None and isinstance(text, dict):
            parameters = text.get("quantization_config")
        parameters = parameters or loaded.quant_config
    if parameters is None and requested is None:
        return None
    if parameters is not None and not isinstance(parameters, Mapping):
        raise InputError(f"{model.name}: quantization_config = {shown(parameters)}: must be an object")
    return quantization(parameters or {}, model, model.name, requested)


def _gpu(request: Mapping[str, Any]) -> Gpu:
    name = _text(request, "gpu")
    if name is None:
        raise InputError("gpu: missing; pass a card, e.g. H100, L40S, 4090 (vllm-fit gpus lists them)")
    gpu = find_gpu(name)
    if request.get("gpu_memory_gib") is not None:
        gpu = with_memory(gpu, request["gpu_memory_gib"])
    capability = request.get("compute_capability")
    if capability is not None:
        text = str(capability)
        wanted = (r"\d{1,2}\.\d", "9.0") if gpu.vendor == "nvidia" else (r"gfx\w{3,5}", "gfx942")
        if not re.fullmatch(wanted[0], text):
            raise InputError(f'compute_capability = {shown(capability)}: must look like "{wanted[1]}" for {gpu.name}')
        gpu = replace(gpu, compute_capability=text)
    return gpu


def _flag(request: Mapping[str, Any], key: str) -> bool:
    value = request.get(key, False)
    if not isinstance(value, bool):
        raise InputError(f"{key} = {shown(value)}: must be true or false")
    return value


def _memory_used(gibibytes: object) -> int:
    if gibibytes is None:
        return 0
    if isinstance(gibibytes, bool) or not isinstance(gibibytes, int | float) or not 0 <= gibibytes < 1e5:
        raise InputError(f"gpu_memory_used_gib = {shown(gibibytes)}: must be a number of GiB from 0")
    return round(gibibytes * GIB)


def _text(request: Mapping[str, Any], key: str) -> str | None:
    value = request.get(key)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{key} = {shown(value)}: must be text")
    return value


def _usage(request: Mapping[str, Any]) -> Usage:
    usage = _text(request, "usage") or "server"
    if usage not in ("server", "offline"):
        raise InputError(f'usage = {shown(usage)}: must be "server" or "offline"')
    return cast(Usage, usage)
