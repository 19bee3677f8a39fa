"""Lets vLLM's loading code run on tensors that have a shape but no values (torch's `meta` device).

`on_meta()` is a context in which every tensor that asks for CUDA is made on meta instead. `install()` answers, once for
the whole process, the questions a shapeless tensor cannot answer (`item`, `tolist`, `if tensor:` ...). An answer
invented this way is counted in `INVENTED`, so that a result can say what it rests on.
"""

from __future__ import annotations

import collections
import functools
import linecache
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from .stand_ins import Inert

INVENTED: collections.Counter[str] = collections.Counter()


def _to_meta(device: Any) -> Any:
    if isinstance(device, str) and device.startswith("cuda"):
        return torch.device("meta")
    if isinstance(device, int) and not isinstance(device, bool):
        return torch.device("meta")
    if isinstance(device, torch.device) and device.type == "cuda":
        return torch.device("meta")
    return device


class on_meta(TorchFunctionMode):  # type: ignore[misc]  # noqa: N801 - used as a context manager
    """Tensor factories and moves that name CUDA land on meta; what is on meta stays there."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if any(arg is Inert for arg in args):  # a size that an absent library would have told
            args = tuple(1 if arg is Inert else arg for arg in args)
        if kwargs:
            kwargs = {key: 1 if value is Inert else value for key, value in kwargs.items()}
            if kwargs.get("device") is not None:
                kwargs["device"] = _to_meta(kwargs["device"])
            if "pin_memory" in kwargs:
                kwargs["pin_memory"] = False
        else:
            kwargs = {}
        if name == "to":
            tensor = args[0]
            if tensor.is_meta and str(kwargs.get("device", args[1] if len(args) > 1 else None)) == "cpu":
                dtypes = [arg for arg in args[1:] if isinstance(arg, torch.dtype)]
                dtypes += [kwargs["dtype"]] if kwargs.get("dtype") else []
                return tensor.to(dtypes[0]) if dtypes else tensor.clone()
            if len(args) > 1 and isinstance(args[1], (str, torch.device)):
                args = (tensor, _to_meta(args[1]), *args[2:])
        elif name == "cuda":
            return args[0].to("meta")
        elif name == "cpu" and args[0].is_meta:
            return args[0].clone()
        return func(*args, **kwargs)


def _sum_of_widths(frame: FrameType | None, repeats: torch.Tensor) -> int | None:
    """The sum of a `repeats` tensor that lost its values: a caller still has the list of ints it came from."""
    for _ in range(4):
        if frame is None:
            return None
        for value in frame.f_locals.values():
            widths = value if isinstance(value, (list, tuple)) else getattr(value, "logical_widths", None)
            if not isinstance(widths, (list, tuple)) or not widths or len(widths) != repeats.numel():
                continue
            if all(isinstance(width, int) for width in widths):
                return sum(widths)
        frame = frame.f_back
    return None


def remember_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """A repacking function that vLLM calls once per expert: on shapes alone, every expert's result is the first one's.

    Only results that are fresh tensors (their storage is no larger than they are) are given again.
    """
    known: dict[Any, tuple[Any, ...]] = {}

    def key_of(value: Any) -> Any:
        return (value.shape, value.stride(), value.dtype) if isinstance(value, torch.Tensor) else value

    def fresh(value: Any) -> bool:
        return not isinstance(value, torch.Tensor) or bool(value.untyped_storage().nbytes() == value.nbytes)

    @functools.wraps(function)
    def remembered(*args: Any, **kwargs: Any) -> Any:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        if not tensors or not all(tensor.is_meta for tensor in tensors):
            return function(*args, **kwargs)
        try:
            key = (tuple(map(key_of, args)), tuple((name, key_of(value)) for name, value in sorted(kwargs.items())))
            result = known.get(key)
        except TypeError:  # an argument that cannot be a key
            return function(*args, **kwargs)
        if result is None:
            first = function(*args, **kwargs)
            results = first if isinstance(first, tuple) else (first,)
            if all(fresh(value) for value in results):
                known[key] = results
            return first
        again = tuple(torch.empty_like(value) if isinstance(value, torch.Tensor) else value for value in result)
        return again if len(again) > 1 else again[0]

    return remembered


def install() -> None:
    """Answer for meta tensors what needs values. Shapes, and therefore bytes, stay those of the real code."""
    tensor = torch.Tensor
    real = {name: getattr(tensor, name) for name in ("item", "tolist", "__bool__", "numpy", "unique")}
    real_equal, real_allclose, real_repeat = torch.equal, torch.allclose, torch.repeat_interleave
    real_unique = torch.unique

    def zeros_like_on_cpu(self: torch.Tensor) -> torch.Tensor:
        return torch.zeros(self.shape, dtype=self.dtype, device="cpu")

    def item(self: torch.Tensor) -> Any:
        if not self.is_meta:
            return real["item"](self)
        INVENTED["item"] += 1
        return 1.0 if self.dtype.is_floating_point else (True if self.dtype == torch.bool else 1)

    def tolist(self: torch.Tensor) -> Any:
        if not self.is_meta:
            return real["tolist"](self)
        INVENTED["tolist"] += 1
        return real["tolist"](zeros_like_on_cpu(self))

    def numpy(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.is_meta:
            return real["numpy"](self, *args, **kwargs)
        INVENTED["numpy"] += 1
        return real["numpy"](zeros_like_on_cpu(self))

    def truth(self: torch.Tensor) -> bool:
        if not self.is_meta:
            return bool(real["__bool__"](self))
        caller = sys._getframe(1)
        line = linecache.getline(caller.f_code.co_filename, caller.f_lineno)
        if "isnan" in line or "isinf" in line:  # a tensor without values has no NaN either
            INVENTED["isnan"] += 1
            return False
        INVENTED["bool"] += 1
        return True

    def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
        if a.is_meta or b.is_meta:
            INVENTED["equal"] += 1
            return bool(a.shape == b.shape)
        return bool(real_equal(a, b))

    def allclose(a: torch.Tensor, b: torch.Tensor, *args: Any, **kwargs: Any) -> bool:
        if a.is_meta or b.is_meta:
            INVENTED["allclose"] += 1
            return True
        return bool(real_allclose(a, b, *args, **kwargs))

    def repeat_interleave(x: torch.Tensor, repeats: Any = None, dim: int | None = None, **kwargs: Any) -> torch.Tensor:
        on_shape = isinstance(x, torch.Tensor) and x.is_meta
        if on_shape and isinstance(repeats, int):
            if dim is None:
                return x.new_empty(x.numel() * repeats)
            shape = list(x.shape)
            shape[dim] *= repeats
            return x.new_empty(shape)
        if on_shape and isinstance(repeats, torch.Tensor) and "output_size" not in kwargs:
            total = _sum_of_widths(sys._getframe(1), repeats) if x.numel() in (1, *repeats.shape) else None
            if total is not None:
                INVENTED["repeat_interleave"] += 1
                shape = list(x.shape) if dim is not None else [x.numel()]
                shape[dim or 0] = total
                return x.new_empty(shape)
        return real_repeat(x, repeats, dim, **kwargs) if repeats is not None else real_repeat(x, **kwargs)

    def unique(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if x.is_meta and not args and not kwargs:
            INVENTED["unique"] += 1
            return x.new_empty(1)
        return real_unique(x, *args, **kwargs)

    tensor.item, tensor.tolist, tensor.numpy, tensor.__bool__ = item, tolist, numpy, truth
    tensor.__int__ = lambda self: int(self.item())
    tensor.__float__ = lambda self: float(self.item())
    tensor.__index__ = lambda self: int(self.item())
    torch.equal, torch.allclose, torch.unique, tensor.unique = equal, allclose, unique, unique
    torch.repeat_interleave = tensor.repeat_interleave = repeat_interleave
    from torch.fx.experimental import _config

    _config.meta_nonzero_assume_all_nonzero = True
