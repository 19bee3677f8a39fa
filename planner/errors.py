"""The two outcomes that are not an estimate: input that makes no sense, and a launch that vLLM refuses."""

from __future__ import annotations

from dataclasses import dataclass


class InputError(Exception):
    """Input that cannot be answered: one clear line saying what, where and what to do (exit code 2)."""


class UnknownArchitectureError(InputError):
    """A config whose architecture no family describes: --ask-vllm can still size it."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a launch would not work, in vLLM's own words where vLLM has words for it."""

    code: str
    message: str
    flag: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        return {"code": self.code, "message": self.message, "flag": self.flag}


class Refusal(Exception):
    """A launch that vLLM rejects however much memory there is (status "refused", exit code 1)."""

    def __init__(self, code: str, message: str, flag: str | None = None) -> None:
        super().__init__(message)
        self.reason = Reason(code=code, message=message, flag=flag)
