"""Makes refusals.jsonl.gz: what the installed vLLM refuses of a seeded sample of models x cards x flags.

    python tests/golden/make_refusals.py [--cases N] [--raw RAW]

vLLM's own config validation runs, then the model is built and its KV cache planned on torch's meta device behind a fake
card (planner/engine/ask_vllm). A row: model, gpu, args, and "refused", vLLM's sentence, or null where it takes the
launch; what cannot be built without a GPU says so under "not_asked". RAW keeps the answers of an interrupted run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from planner.asking import facts_of
from planner.engine.ask_vllm.client import VllmProcess, installed_version
from planner.hardware.catalogue import find_gpu
from planner.model.source import load_config

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "refusals.jsonl.gz"
GPUS = ("V100-32GB-SXM", "T4", "A100-40", "L40S", "H100", "B200")
LEFT_OUT = frozenset({"B200"})
"""FlashInfer's kernels, which come first on Blackwell, count as absent: vLLM would refuse what a real card takes."""
MODELS = (
    "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen2.5-0.5B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct-AWQ",
    "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4",
    "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16",
    "RedHatAI/Llama-3.1-8B-Instruct-NVFP4",
    "Qwen/Qwen3-8B-FP8",
    "google/gemma-2-9b-it",
    "google/gemma-3-12b-it",
    "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "Qwen/Qwen3-30B-A3B",
    "openai/gpt-oss-20b",
    "deepseek-ai/DeepSeek-V2-Lite",
    "BAAI/bge-large-en-v1.5",
    "Qwen/Qwen3-Embedding-0.6B",
    "state-spaces/mamba-2.8b-hf",
    "Qwen/Qwen2.5-VL-7B-Instruct",
    "tiiuae/falcon-mamba-7b",
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2",
    "ibm-granite/granite-4.0-h-tiny",
    "microsoft/Phi-3-mini-128k-instruct",
    "microsoft/phi-4",
    "bigscience/bloom-7b1",
    "openai-community/gpt2",
)
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6, "original_max_position_embeddings": 8192}
NGRAM = {"method": "ngram", "num_speculative_tokens": 3}
FLAGS: tuple[tuple[dict[str, Any], ...], ...] = (
    tuple({"tensor_parallel_size": n} for n in (2, 3, 4, 5, 6, 7, 8, 16)),
    tuple({"pipeline_parallel_size": n} for n in (2, 3, 5, 64)),
    ({"data_parallel_size": 2}, {"data_parallel_size": 2, "enable_expert_parallel": True}),
    ({"enable_expert_parallel": True}, {"enable_expert_parallel": True, "tensor_parallel_size": 4}),
    ({"enable_eplb": True}, {"enable_eplb": True, "enable_expert_parallel": True, "tensor_parallel_size": 2}),
    tuple({"dtype": name} for name in ("half", "bfloat16", "float32")),
    tuple(
        {"quantization": name}
        for name in "fp8 awq gptq bitsandbytes experts_int8 fp8_per_block fp8_per_tensor mxfp4 modelopt "
        "int8_per_channel_weight_only compressed-tensors gguf mxfp8 torchao".split()
    ),
    tuple({"kv_cache_dtype": name} for name in ("fp8", "fp8_e5m2", "fp8_e4m3", "bfloat16", "float16", "nvfp4")),
    tuple({"max_model_len": n} for n in (64, 512, 2048, 4096, 8193, 32769, 131073, 1_000_000)),
    ({"max_num_seqs": 512, "max_num_batched_tokens": 256}, {"max_num_batched_tokens": 64}, {"max_num_seqs": 1}),
    tuple({"block_size": n} for n in (1, 8, 16, 17, 32, 64, 128)),
    tuple({"enable_lora": True, "max_lora_rank": n} for n in (1, 8, 24, 512)),
    ({"enable_lora": True, "max_loras": 4, "max_cpu_loras": 2}, {"enable_lora": True, "fully_sharded_loras": True}),
    ({"enable_prefix_caching": True}, {"enable_prefix_caching": False}),
    ({"enable_chunked_prefill": False}, {"enable_chunked_prefill": False, "max_num_batched_tokens": 512}),
    (
        {"speculative_config": NGRAM},
        {"speculative_config": {**NGRAM, "prompt_lookup_min": 5, "prompt_lookup_max": 3}},
        {"speculative_config": {**NGRAM, "num_speculative_tokens": 0}},
        {"speculative_config": NGRAM, "pipeline_parallel_size": 2},
    ),
    tuple({"decode_context_parallel_size": n} for n in (2, 3)),
    ({"decode_context_parallel_size": 2, "tensor_parallel_size": 4},),
    tuple({"attention_backend": name} for name in ("FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "FLASHMLA")),
    ({"cpu_offload_gb": 4}, {"kv_offloading_size": 8}, {"enforce_eager": True}, {"async_scheduling": True}),
    (
        {"hf_overrides": {"rope_parameters": YARN}},
        {"hf_overrides": {"rope_parameters": YARN}, "max_model_len": 40000},
        {"hf_overrides": {"max_position_embeddings": 4096}, "max_model_len": 8192},
    ),
    ({"disable_sliding_window": True}, {"disable_hybrid_kv_cache_manager": True}, {"mamba_cache_mode": "all"}),
)


def cases(count: int) -> Iterator[dict[str, Any]]:
    """One to three flags off their defaults; every second one a single flag."""
    choose = random.Random("refusals")
    for index in range(count):
        args: dict[str, Any] = {}
        for group in choose.sample(FLAGS, choose.choice((1, 1, 2, 3))):
            args |= choose.choice(group)
        case = {"id": index, "model": choose.choice(MODELS), "gpu": choose.choice(GPUS), "args": args}
        if case["gpu"] not in LEFT_OUT:
            yield case


def row(case: dict[str, Any], vllm: VllmProcess) -> dict[str, Any]:
    loaded = load_config(case["model"])
    files = {"hf_quant_config.json": loaded.quant_config} if loaded.quant_config else {}
    question = {"name": case["model"], "config": dict(loaded.values), "files": files, "engine_args": case["args"]}
    answer = vllm.ask({**question, "worker_checks": True, "available_bytes": [1 << 37]}, timeout_s=600)
    error = answer.get("error") or (answer.get("kv") or {}).get("error")
    made = {name: case[name] for name in ("model", "gpu", "args")} | {"refused": None}
    if error is None:
        return made
    key = "refused" if error["kind"] == "refused" else "not_asked"
    return made | {key: error["message"][:400], "where": error.get("where", [])[-1:]}


def generate(todo: Sequence[dict[str, Any]], raw: Path) -> None:
    done = {json.loads(line)["id"] for line in raw.read_text().splitlines()} if raw.exists() else set()
    with raw.open("a") as file:
        for gpu in GPUS:
            left = [case for case in todo if case["gpu"] == gpu and case["id"] not in done]
            if left:
                names = {name for case in left for name in load_config(case["model"]).values.get("architectures", [])}
                with VllmProcess(facts_of(find_gpu(gpu)), architectures=sorted(names), niceness=10) as vllm:
                    for case in left:
                        file.write(json.dumps({"id": case["id"], **row(case, vllm)}) + "\n")
                        file.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--raw", type=Path, default=Path("refusals-raw.jsonl"))
    options = parser.parse_args()
    generate(list(cases(options.cases)), options.raw)
    answers = [json.loads(line) for line in options.raw.read_text().splitlines()]
    wanted = {case["id"] for case in cases(options.cases)}
    rows = sorted((one for one in answers if one["id"] in wanted), key=lambda one: int(one["id"]))
    version = installed_version()
    with gzip.GzipFile(GOLDEN, "wb", mtime=0) as file:
        for one in rows:
            file.write(json.dumps({"vllm": version, **one}).encode() + b"\n")
    print(f"{len(rows)} rows, {sum(one['refused'] is not None for one in rows)} refused")


if __name__ == "__main__":
    main()
