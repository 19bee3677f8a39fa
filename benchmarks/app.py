"""The what-if app and the reports: a rerun of a page after one change, and twenty reports. `python -m benchmarks.app`

A rerun is the whole script as the server runs it (Streamlit's AppTest), for a model that the page has not shown before
and for a load that it has not: wall time, and the processor's time, which other work on the machine disturbs less. A
fixed piece of Python runs beside them, to read the figures against this machine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from statistics import median
from typing import Any

MODELS = ("Qwen/Qwen3-8B", "google/gemma-3-27b-it", "Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-14B", "microsoft/phi-4")
PAGES = ("answer", "what_if", "compare", "commands")
REPORTS = 20
Times = tuple[float, float]
"""Wall and processor time, seconds."""


def main() -> None:
    from streamlit.testing.v1 import AppTest

    from app import serve

    logging.disable(logging.WARNING)
    script = serve.__file__.replace("serve.py", "main.py")
    print(f"{'':38}{'median':>9}{'slowest':>9}{'processor':>11}{'reference':>11}")
    for page in PAGES:
        app = AppTest.from_file(script, default_timeout=120)
        app.query_params["model"] = "Qwen/Qwen3-32B"
        app.run()
        if page != "answer":
            app.switch_page(f"views/{page}.py").run()
        _print(f"{page}: another load", [_change(app, "concurrency", users) for users in range(20, 30)])
        _print(f"{page}: another model", [_change(app, "model", model) for model in MODELS])
    plans = _plans()
    _print(f"{REPORTS} plans as HTML, one report each", [_seconds(lambda: _each(plans)) for _ in range(5)])
    _print(f"{REPORTS} plans in one report", [_seconds(lambda: _together(plans)) for _ in range(5)])


def _change(app: Any, key: str, value: Any) -> Times:
    widget = app.number_input(key=key) if key == "concurrency" else app.selectbox(key=key)
    widget.set_value(value)
    return _seconds(app.run)


def _plans() -> list[dict[str, Any]]:
    import hf_configs
    from planner.planning.goal import Goal
    from planner.planning.ladder import fit
    from planner.request import prepare

    names = [name for name in hf_configs.names() if name.startswith(("Qwen/", "meta-llama/"))][:REPORTS]
    return [fit(prepare({"model": name, "gpu": "H100"}), Goal(gpus=8, concurrency=4)).to_dict() for name in names]


def _each(plans: list[dict[str, Any]]) -> None:
    from reports import render

    for plan in plans:
        render(plan, "html")


def _together(plans: list[dict[str, Any]]) -> None:
    from reports import render

    render(plans, "html")


def _seconds(call: Callable[[], object]) -> Times:
    start = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def _print(name: str, times: list[Times]) -> None:
    wall, processor = zip(*times, strict=True)
    reference = _seconds(lambda: sum(number * number for number in range(1_000_000)))[0]
    print(f"{name:38}{median(wall):8.3f}s{max(wall):8.3f}s{median(processor):10.3f}s{reference:10.3f}s")


if __name__ == "__main__":
    main()
