"""Starts one vLLM engine, reports what it says about itself, runs loads through it: `python main.py SPEC.json`.

What it finds is appended to the spec's `events` file, one JSON object a line; vLLM's own output goes to the log that
the parent attached. The folder of this file is on sys.path, which is how vLLM's workers find vllm_fit_probe.
"""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

PROGRESS_EVERY_S = 5.0


def main() -> None:
    """Starts the engine that the file argv[1] describes, loads it, reports each event, and waits to be ended."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    report = Report(Path(spec["events"]))
    threading.Thread(target=die_with_parent, daemon=True).start()
    try:
        started = time.perf_counter()
        report("progress", text="importing vLLM")
        engine = start(spec)
        startup_s = time.perf_counter() - started
        ranks = engine.collective_rpc("vllm_fit_report")
        report("engine", startup_s=startup_s, engine=ranks[0]["engine"], **describe(engine))
        report("ranks", ranks=ranks)
        if spec["loads"] and engine.vllm_config.parallel_config.pipeline_parallel_size > 1:
            engine.collective_rpc("vllm_fit_allocate_pipeline_buffers")
        for number, load in enumerate(spec["loads"], 1):
            run_load(engine, load, number, f"load {number}/{len(spec['loads'])}", report)
        report("done")
        signal.pause()  # the parent ends the engine; vLLM's own shutdown waits longer
    except Exception as error:
        report("error", kind=type(error).__name__, message=str(error))
        raise


class Report:
    """Appends events, each one whole line, so that a reader never sees half of one for long."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a", encoding="utf-8")

    def __call__(self, event: str, **fields: Any) -> None:
        """Writes one event as a line of JSON that the parent can read at once."""
        self.file.write(json.dumps({"event": event, **fields}) + "\n")
        self.file.flush()


def die_with_parent() -> None:
    """A parent that was killed cannot clean up: then this process takes its whole group down, and the folder.

    A process outside of the group does it, since the group writes into the folder until it has ended.
    """
    # Asked now: a group that shares the folder (a server and its load) may have removed it by then.
    parent, group, folder = os.getppid(), os.getpgid(0), Path.cwd()
    while os.getppid() == parent:
        time.sleep(0.5)
    # A load has a folder within, which it makes again for its next result: whichever group is the last removes all.
    launch = next((one for one in (folder, folder.parent) if one.name.startswith("vllm-fit-")), None)
    if launch is not None:
        last = [sys.executable, "-I", "-S", "-c", _LAST, str(group), str(launch)]
        subprocess.run(last, start_new_session=True, cwd="/", check=False)
    os.killpg(group, signal.SIGKILL)


_LAST = """
import os, shutil, signal, sys
os.killpg(int(sys.argv[1]), signal.SIGKILL)
shutil.rmtree(sys.argv[2], ignore_errors=True)
"""


def start(spec: dict[str, Any]) -> Any:
    """A vLLM LLMEngine of these arguments, loaded and profiled. Raises what vLLM raises."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    context = {"server": UsageContext.OPENAI_API_SERVER, "offline": UsageContext.LLM_CLASS}[spec["usage"]]
    args = EngineArgs(**spec["engine_args"], worker_extension_cls="vllm_fit_probe.Probe")
    return LLMEngine.from_engine_args(args, usage_context=context)


def describe(engine: Any) -> dict[str, Any]:
    """What the engine says of its KV cache."""
    cache = engine.vllm_config.cache_config
    return {
        "kv_cache": {
            "block_size": cache.block_size,
            "num_blocks": cache.num_gpu_blocks,
            "tokens": getattr(cache, "kv_cache_size_tokens", None),
            "max_concurrency": getattr(cache, "kv_cache_max_concurrency", None),
        },
    }


def run_load(engine: Any, load: dict[str, Any], number: int, name: str, report: Report) -> None:
    """A warm-up, then rounds of the same size; each round's raw timings are one event."""
    warm_up = {**load, "requests": load["concurrency"], "output_len": min(load["output_len"], 8)}
    report("progress", text=f"{name}: warming up")
    run_round(engine, warm_up, seed=0, name=f"{name}, warm-up", report=report)
    for round_ in range(1, load["rounds"] + 1):
        title = f"{name}, round {round_}/{load['rounds']}"
        report("round", number=number, **run_round(engine, load, seed=round_, name=title, report=report))


def run_round(engine: Any, load: dict[str, Any], *, seed: int, name: str, report: Report) -> dict[str, Any]:
    """Keeps `concurrency` requests in flight until `requests` are done; times are seconds from the start.

    Times are taken where a client would: when a request is handed in and when its tokens come out.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(
        max_tokens=load["output_len"],
        ignore_eos=True,
        temperature=0.0,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    prompts = collections.deque(make_prompts(engine, load, seed))
    requests: dict[str, dict[str, Any]] = {}
    running = done = tokens = 0
    started = said = time.perf_counter()
    while prompts or running:
        while prompts and running < load["concurrency"]:
            request_id = f"{name}-{len(requests)}"
            requests[request_id] = {"submitted": time.perf_counter() - started, "token_times": []}
            engine.add_request(request_id, {"prompt_token_ids": prompts.popleft()}, params)
            running += 1
        outputs = engine.step()
        now = time.perf_counter() - started
        for output in outputs:
            request = requests[output.request_id]
            new = sum(len(completion.token_ids) for completion in output.outputs)
            request["token_times"] += [now] * new
            tokens += new
            if output.finished:
                running, done = running - 1, done + 1
                request["preemptions"] = getattr(output.metrics, "num_preemptions", 0)
        if now + started - said > PROGRESS_EVERY_S:
            said = now + started
            report("progress", text=f"{name}: {done} of {load['requests']} requests, {tokens} tokens")
    return {"duration_s": time.perf_counter() - started, "requests": list(requests.values())}


def make_prompts(engine: Any, load: dict[str, Any], seed: int) -> list[list[int]]:
    """Random token ids, so that no prompt shares a prefix with another; ids with a role of their own are left out."""
    model = engine.vllm_config.model_config
    roles = {
        value
        for name, value in model.hf_config.to_dict().items()
        if name.endswith(("token_id", "token_index")) and isinstance(value, int)
    }
    ids = [token for token in range(model.get_vocab_size()) if token not in roles]
    rng = random.Random(seed)
    return [rng.choices(ids, k=load["input_len"]) for _ in range(load["requests"])]


if __name__ == "__main__":
    main()
