"""The two outcomes that are not an estimate: input that makes no sense, and a launch that vLLM refuses."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from planner.text import printable

_LONGEST = 4000
"""Characters of a message; the longest lists every choice of a flag."""


class InputError(Exception):
    """Input that cannot be answered: one clear line saying what, where and what to do (exit code 2).

    Messages quote what files and people wrote: what a terminal would act on is escaped here, once for all.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, _LONGEST))


class UnknownArchitectureError(InputError):
    """A config whose architecture no family describes: --ask-vllm can still size it."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a launch would not work, in vLLM's own words where vLLM has words for it."""

    code: str
    message: str
    flag: str | None = None

    def __post_init__(self) -> None:
        lines = self.message.split("\n")  # vLLM's own messages may have several
        object.__setattr__(self, "message", "\n".join(printable(line, _LONGEST) for line in lines))

    def to_dict(self) -> dict[str, str | None]:
        """As an entry of an answer's `reasons` (docs/contract.md)."""
        return {"code": self.code, "message": self.message, "flag": self.flag}


class Refusal(Exception):
    """A launch that vLLM rejects however much memory there is (status "refused", exit code 1)."""

    def __init__(self, code: str, message: str, flag: str | None = None) -> None:
        super().__init__(message)
        self.reason = Reason(code=code, message=message, flag=flag)


def bug(error: Exception) -> InputError:
    """What a person is told of an error that no input should be able to cause; a developer's test sees it raised."""
    if os.environ.get("VLLM_FIT_DEBUG"):
        raise error
    import traceback

    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    return InputError(
        f"a fault of vllm-fit, not of the input: {type(error).__name__} at {place}: {error}; "
        "please report it with this command and its files (VLLM_FIT_DEBUG=1 shows where it happened)"
    )
