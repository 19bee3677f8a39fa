"""One change to a launch: other arguments, another checkpoint of the same model, or one that must be made first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from planner.engine.args import EngineArgs
from planner.request import Inputs, prepare


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing a rung can try."""

    summary: str
    args: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    """Another checkpoint of the same model."""
    what_if_quantization: str | None = None
    """A checkpoint that must be made first."""
    quality_cost: str = "none"
    cost: int = 0
    """0 nothing, 1 hardly measurable, 2 small, 3 noticeable, 4 hardly bearable: the dearest are taken back first."""

    @property
    def label(self) -> str:
        """In a few words, as flags where it is one."""
        words = EngineArgs(self.args).to_flags()
        if self.model is not None:
            words.append(self.model)
        if self.what_if_quantization is not None:
            words.append(f"({self.what_if_quantization} checkpoint to be made)")
        return " ".join(words)

    @property
    def flags(self) -> frozenset[str]:
        """The engine arguments it decides."""
        return frozenset(self.args) | ({"quantization"} if self.model or self.what_if_quantization else set())

    def apply(self, inputs: Inputs) -> Inputs:
        """The inputs with this change made. Raises InputError where the changed request makes no sense."""
        if self.model is None and self.what_if_quantization is None:
            return with_args(inputs, inputs.args.with_(**self.args))
        request = request_of(inputs)
        request |= self.args
        if self.model is not None:
            request["model"] = self.model
        if self.what_if_quantization is not None:
            request["what_if_quantization"] = self.what_if_quantization
        return prepare(request)


def with_args(inputs: Inputs, args: EngineArgs) -> Inputs:
    """The same request with other engine arguments; another quantization is read from the config again."""
    if args.get("quantization") != inputs.args.get("quantization"):
        request = {key: value for key, value in request_of(inputs).items() if key not in inputs.args}
        return prepare({**request, **dict(args)})
    return replace(inputs, args=args)


def request_of(inputs: Inputs) -> dict[str, Any]:
    """The request that these inputs came from, to be prepared again or written to a plan file."""
    request: dict[str, Any] = {"model": inputs.source, **inputs.gpu_request}
    request |= {"vllm_version": str(inputs.version), "usage": inputs.usage}
    if inputs.what_if_quantization:
        request["what_if_quantization"] = inputs.what_if_quantization
    if inputs.workload:
        request["workload"] = inputs.workload.to_dict()
    if inputs.ask_vllm:
        request["ask_vllm"] = True
    return request | dict(inputs.args)
