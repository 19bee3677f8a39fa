"""Makes lora.jsonl.gz and draft.jsonl.gz by asking vLLM's own classes, on torch's meta device, without a GPU.

    VENV/bin/python tests/golden/make_lora_draft.py --source SRC [--only lora|draft] [--match Qwen] [--dump]

VENV has vLLM's dependencies (setup_vllm_sources.py), SRC is a folder of vLLM's Python files. Runs in that interpreter:
the device is faked by planner/engine/ask_vllm, the model is built, and then

* lora: vllm.lora.model_manager.create_lora_manager wraps it, as LoRAModelRunnerMixin.load_lora_model does;
* draft: the speculator's own loading function runs (v1/worker/gpu/spec_decode), with building in place of reading a
  checkpoint; `own` says which of embed_tokens and lm_head the draft's checkpoint holds.

A row: {"model", "args", "vllm", "stages": [[bytes on top of the same launch without it, in allocator blocks], …]} for
rank 0 of each pipeline stage of H100s, or "error", vLLM's sentence.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from lora_draft_cases import CONFIGS, DRAFTS, LORAS  # type: ignore[import-not-found]  # noqa: E402

GPU = {
    "name": "NVIDIA H100 80GB HBM3",
    "compute_capability": [9, 0],
    "memory_bytes": 85_000_000_000,
    "sm_count": 132,
}


def config_of(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(config.json, other files beside it) of a name in hf_configs or of CONFIGS."""
    if model in CONFIGS:
        return CONFIGS[model], {}
    folder = ROOT / "hf_configs" / model.replace("/", "--")
    files = {
        path.name: json.loads(path.read_text()) for path in folder.glob("*.json") if path.name == "hf_quant_config.json"
    }
    return json.loads((folder / "config.json").read_text()), files


def write(case: Any, folder: Path, model: str) -> Path:
    config, files = config_of(model)
    path = folder / model.replace("/", "--")
    case._write_model(path, {"config": config, "files": files}, [])
    return path


def storages(weights: Any, model: Any, known: set[int]) -> list[tuple[str, int]]:
    """(name, bytes) of every storage on the device that `known` does not hold yet."""
    found = []
    for name, _, _, tensor in weights.tensors_of(model):
        storage = tensor.untyped_storage()
        if storage._cdata not in known and tensor.device.type == "meta":
            found.append((name, storage.nbytes()))
        known.add(storage._cdata)
    return found


def totals(weights: Any, found: list[tuple[str, int]]) -> list[int]:
    return [sum(size for _, size in found), sum(weights.block_bytes(size) for _, size in found)]


def grouped(found: list[tuple[str, int]]) -> dict[str, list[int]]:
    """{name without numbers: [how many, bytes in all]}"""
    groups: dict[str, list[int]] = {}
    for name, size in found:
        entry = groups.setdefault(re.sub(r"\.\d+\.", ".*.", name), [0, 0])
        entry[0] += 1
        entry[1] += size
    return groups


class Stages:
    """Builds the target of each pipeline stage under its engine config."""

    def __init__(self, case: Any, folder: Path, model: str, args: dict[str, Any]) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.usage.usage_lib import UsageContext

        self.case = case
        path = str(write(case, folder, model))
        arguments = {
            "model": path,
            "tokenizer": path,
            "skip_tokenizer_init": True,
            "load_format": "dummy",
            "max_model_len": 512,
            **args,
        }
        self.tp = arguments.get("tensor_parallel_size", 1)
        self.pp = arguments.get("pipeline_parallel_size", 1)
        if self.tp * self.pp > 1:
            arguments["distributed_executor_backend"] = "mp"
        self.config = EngineArgs(**arguments).create_engine_config(UsageContext.OPENAI_API_SERVER)

    def __iter__(self) -> Any:
        for stage in range(self.pp):
            config = copy.deepcopy(self.config)
            with self.case._distributed(config, rank=stage * self.tp, tp=self.tp, pp=self.pp, dp=1):
                yield config, self.case._build(config, finish=True)


def lora(case: Any, weights: Any, row: dict[str, Any]) -> dict[str, Any]:
    import torch
    from vllm.lora.model_manager import create_lora_manager

    with tempfile.TemporaryDirectory() as folder:
        stages, tensors = [], []
        for config, model in Stages(case, Path(folder), row["model"], {"enable_lora": True, **row["args"]}):
            known: set[int] = set()
            storages(weights, model, known)
            manager = create_lora_manager(
                model,
                max_num_seqs=config.scheduler_config.max_num_seqs,
                max_num_batched_tokens=config.scheduler_config.max_num_batched_tokens,
                vocab_size=config.model_config.get_vocab_size(),
                lora_config=config.lora_config,
                device=torch.device("meta"),
                vllm_config=config,
            )
            found = storages(weights, manager.model, known)
            stages.append(totals(weights, found))
            tensors.append(grouped(found))
    return {"stages": stages, "tensors": tensors}


def draft(case: Any, weights: Any, row: dict[str, Any]) -> dict[str, Any]:
    """What comes on top of the same launch without speculation: the draft, and what the target has more."""
    with tempfile.TemporaryDirectory() as folder:
        args = dict(row["args"])
        spec = dict(args.pop("speculative_config"))
        if "model" in spec:
            spec["model"] = str(write(case, Path(folder), spec["model"]))
        with_draft = Stages(case, Path(folder), row["model"], {**args, "speculative_config": spec})
        plain = [
            totals(weights, storages(weights, model, set()))
            for _, model in Stages(case, Path(folder) / "plain", row["model"], args)
        ]
        stages, tensors = [], []
        for stage, (config, target) in enumerate(with_draft):
            known: set[int] = set()
            held = totals(weights, storages(weights, target, known))
            found: list[tuple[str, int]] = []
            if stage == len(plain) - 1:
                built = draft_model(case, config, target, row.get("own", ()))
                found = storages(weights, built, known)
            own = totals(weights, found)
            stages.append([held[i] + own[i] - plain[stage][i] for i in range(2)])
            tensors.append(grouped(found))
    return {"stages": stages, "tensors": tensors, "class": type(built).__name__}


def draft_model(case: Any, config: Any, target: Any, own: list[str]) -> Any:
    """The speculator's own loading function, with building in place of reading a checkpoint."""
    import torch
    import vllm.v1.worker.gpu.spec_decode.eagle.utils as eagle
    import vllm.v1.worker.gpu.spec_decode.standalone_ar.speculator as standalone
    from vllm.model_executor.model_loader.utils import initialize_model, process_weights_after_loading
    from vllm.utils.torch_utils import set_default_torch_dtype

    def get_model(*, vllm_config: Any, model_config: Any = None, prefix: str = "", **_: Any) -> Any:
        model_config = model_config or vllm_config.model_config
        meta = torch.device("meta")
        with set_default_torch_dtype(model_config.dtype), meta:
            built = initialize_model(vllm_config=vllm_config, model_config=model_config, prefix=prefix)
            with torch.no_grad():
                case._quantize_online(built)
                process_weights_after_loading(built, model_config, meta)
        for name in own:
            setattr(built, f"has_own_{name}", True)
        return built

    eagle.get_model = standalone.get_model = get_model
    torch.equal = lambda a, b: False  # what a checkpoint declares as its own differs from the target's
    speculative = config.speculative_config
    if speculative.method != "draft_model":
        return eagle.load_eagle_model(target, config)
    speculator = object.__new__(standalone.StandaloneARSpeculator)
    speculator.vllm_config, speculator.speculative_config = config, speculative
    speculator.draft_model_config = speculative.draft_model_config
    return speculator.load_draft_model(target, set())


def answer(ask: Any, case: Any, weights: Any, row: dict[str, Any]) -> dict[str, Any]:
    """In a fork: vLLM keeps much in globals."""
    readable, writable = os.pipe()
    if os.fork() == 0:
        try:
            result = ask(case, weights, row)
        except BaseException as error:  # noqa: BLE001
            result = {"error": case.describe(error)}
        with os.fdopen(writable, "w") as out:
            out.write(json.dumps(result))
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as out:
        text = out.read()
    os.wait()
    return json.loads(text) if text else {"error": {"kind": "died"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True)
    parser.add_argument("--only", choices=("lora", "draft"))
    parser.add_argument("--match", default="")
    parser.add_argument("--cases", type=Path, help="a JSON list of rows to ask instead")
    parser.add_argument("--dump", action="store_true", help="print every tensor; write no file")
    options = parser.parse_args()
    stdout = os.dup(1)
    os.dup2(2, 1)
    sys.path.insert(0, str(ROOT / "planner" / "engine" / "ask_vllm"))
    import batch  # type: ignore[import-not-found]

    case = batch._load({"gpu": GPU, "vllm_source": options.source, "architectures": []})
    weights = sys.modules[f"{case.__package__}.weights"]
    for kind, rows, ask in (("lora", LORAS, lora), ("draft", DRAFTS, draft)):
        if options.only not in (None, kind):
            continue
        buffer = io.BytesIO()
        with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, filename="") as file:
            for row in json.loads(options.cases.read_text()) if options.cases else rows:
                if options.match not in json.dumps(row):
                    continue
                result = answer(ask, case, weights, row)
                if "error" in result:
                    message = re.sub(r"/tmp/[^\s)]*/", "", str(result["error"].get("message"))).replace("--", "/")
                    result = {"error": message[:500], **({"e": result["error"]} if options.dump else {})}
                tensors = result.pop("tensors", None)
                line = json.dumps({**row, "vllm": "0.33.0", **result})
                shown = json.dumps({**row, **result, "tensors": tensors}) if options.dump else line
                os.write(stdout, (shown + "\n").encode())
                file.write((line + "\n").encode())
        if not options.dump and not options.match:
            (HERE / f"{kind}.jsonl.gz").write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()
