"""What marks the tests of a module that launch vLLM's real CPU engine."""

import pytest

from planner.engine.launch import platform_supports_engine

_support = platform_supports_engine("cpu")
ON_CPU_ENGINE = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.xdist_group("engine"),
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not _support, reason=f"no CPU engine here: {_support.reason}"),
]
