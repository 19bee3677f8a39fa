"""The app's validation, from its child process to the page, with a real engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app import jobs
from app.solve import solve
from app.state import State
from planner.engine.launch import platform_supports_engine
from planner.errors import InputError
from tests.app_page import opened


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.xdist_group("engine")
def test_a_real_engine_is_launched_measured_and_in_the_history(tmp_path: Path, monkeypatch: Any) -> None:
    if not platform_supports_engine("cpu"):
        pytest.skip("vLLM's CPU engine is not installed here")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    plan = solve(State(model="HuggingFaceTB/SmolLM2-135M-Instruct", gpu="L4", max_model_len="1024")).plan
    every = jobs.Jobs()
    job = every.start("SmolLM2", plan.to_dict(), ["--device", "cpu", "--rounds", "1"])
    with pytest.raises(InputError, match="is running"):
        every.start("another", plan.to_dict(), [])
    for thread in job.threads:
        thread.join(500)
    job.process.wait(60)  # its output ends a moment before it does
    assert not job.running
    assert job.result is not None, job.lines
    assert job.result["agrees"]
    app = opened("validation", model="Qwen/Qwen3-0.6B", gpu="A10", run="1")
    told = {row["figure"].replace("\\", ""): row for row in app.table[-1].value.to_dict("records")}
    assert told["KV cache size (tokens)"]["difference"] == "equal"
