"""What the step model asks of numpy, for one number without it: importing numpy takes longer than the rest of
`vllm-fit fit`, and for a single launch its calls take longer than their arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planner.planning.throughput.work import Numbers


def _either(name: str, plain: Callable[..., Any]) -> Callable[..., Numbers]:
    """numpy's function of that name where a value is an array, else the other one."""

    def apply(*values: Any) -> Any:
        for value in values:
            if not isinstance(value, (float, int)):
                import numpy as np

                return getattr(np, name)(*values)
        return plain(*values)

    return apply


minimum = _either("minimum", min)
maximum = _either("maximum", max)
exp = _either("exp", math.exp)
sqrt = _either("sqrt", math.sqrt)
ceil = _either("ceil", math.ceil)
power = _either("power", math.pow)
isfinite = _either("isfinite", math.isfinite)
where = _either("where", lambda condition, yes, no: yes if condition else no)
