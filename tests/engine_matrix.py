"""Real engines one after another in one process, so that vLLM is imported once: `python engine_matrix.py CASES.json`.

Prints, for each case, the events that planner/engine/child/main.py would report. vLLM's own switch
VLLM_ENABLE_V1_MULTIPROCESSING=0 keeps the engine, and with one rank its worker, in this process.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def run() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "planner" / "engine" / "child"))
    import main as child  # type: ignore[import-not-found]
    import vllm_fit_probe  # type: ignore[import-not-found]
    from vllm.distributed import cleanup_dist_env_and_memory

    for name, spec in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")).items():
        vllm_fit_probe.loaded.clear()
        started = time.perf_counter()
        engine = child.start(spec)
        ranks = engine.collective_rpc("vllm_fit_report")
        events = [
            {
                "event": "engine",
                "startup_s": time.perf_counter() - started,
                "engine": ranks[0]["engine"],
                **child.describe(engine),
            },
            {"event": "ranks", "ranks": ranks},
        ]
        print("EVENTS", json.dumps([name, events]), flush=True)
        engine.engine_core.shutdown()
        del engine
        cleanup_dist_env_and_memory()


if __name__ == "__main__":
    run()
