"""What the gate says of one launch, and of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from planner.errors import Reason
from planner.gate.launch import Launch
from planner.text import printable

Verdict = Literal["pass", "warn", "fail", "unknown"]
VERDICTS: tuple[Verdict, ...] = ("pass", "warn", "fail", "unknown")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One launch, judged."""

    launch: Launch
    verdict: Verdict
    gpu: str | None = None
    """The card that it was judged on, by its catalogue name."""
    reasons: tuple[Reason, ...] = ()
    fix: str | None = None
    """A unified diff of the file, where one is known that makes it pass."""
    fails: bool = False
    """Whether it makes the gate fail; an unknown one does unless the rules say otherwise."""
    kv_tokens: int | None = None
    """Tokens of KV cache of a launch that starts."""
    change: Mapping[str, Any] | None = None
    """With --changed-since: verdict and kv_tokens, before and now."""

    @property
    def explanation(self) -> str:
        """The reasons, a line each, and the fix; without anything that a terminal acts on."""
        text = "\n".join(reason.message for reason in self.reasons)
        text += f"\nFix:\n{self.fix}" if self.fix is not None else ""
        return "\n".join(printable(line, 1000) for line in text.splitlines())

    def to_dict(self) -> dict[str, Any]:
        """As an entry of the JSON report's `launches`."""
        answer = {
            "file": self.launch.file,
            "line": self.launch.line,
            "end_line": self.launch.end_line,
            "verdict": self.verdict,
            "model": self.launch.model,
            "gpu": self.gpu,
            "reasons": [reason.to_dict() for reason in self.reasons],
            "fix": self.fix,
        }
        return answer | ({"change": dict(self.change)} if self.change is not None else {})


def summary(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many of each verdict."""
    counted = Counter(outcome.verdict for outcome in outcomes)
    return {"launches": len(outcomes), **{verdict: counted[verdict] for verdict in VERDICTS}}
