"""Makes defaults.jsonl.gz: what vLLM fills in, by running the statements of its own sources, version by version.

usage: python tests/golden/make_defaults.py SOURCES -o tests/golden/defaults.jsonl.gz
SOURCES holds a folder for each version with the unpacked wheel (SOURCES/0.19.0/vllm/engine/arg_utils.py).
The statements are taken out of their functions, so that neither CUDA nor an importable vLLM is needed.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

GIB = 1 << 30
CARDS: tuple[tuple[str, str, float, int], ...] = (
    ("T4", "Tesla T4", 14.58, 75),
    ("A10G", "NVIDIA A10G", 22.06, 86),
    ("A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB", 39.49, 80),
    ("A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB", 79.25, 80),
    ("L40S", "NVIDIA L40S", 44.39, 89),
    ("H100", "NVIDIA H100 80GB HBM3", 79.19, 90),
    ("H200", "NVIDIA H200", 139.8, 90),
    ("GB10", "NVIDIA GB10", 119.6, 121),
    ("RTX PRO 6000", "NVIDIA RTX PRO 6000 Blackwell Server Edition", 94.97, 120),
    ("B200", "NVIDIA B200", 178.35, 100),
)
"""(name in the planner's catalogue, as CUDA names it, GiB, compute capability x 10)."""
BATCHES = ((1, 2048), (2, 2048), (6, 2048), (13, 8192), (33, 4096), (128, 8192), (256, 2048), (1024, 8192), (256, 100))
"""(max_num_seqs, max_num_batched_tokens) of the capture sizes."""


class Platform:
    """Answers for one card; everything else is "no"."""

    def __init__(self, name: str, memory: int, capability: int) -> None:
        self.get_device_total_memory = lambda *_: memory
        self.get_device_name = lambda *_: name
        self.is_device_capability = lambda asked, *_: asked in (capability, divmod(capability, 10))
        self.is_device_capability_family = lambda asked, *_: capability // 10 == asked // 10

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: False


def batch_sizes(source: Path, platform: Platform) -> dict[str, list[int]]:
    """{usage: [max_num_batched_tokens, max_num_seqs]}: the statements that look at the card's memory and name."""
    tree = ast.parse((source / "vllm" / "engine" / "arg_utils.py").read_text())
    usage = SimpleNamespace(LLM_CLASS="offline", OPENAI_API_SERVER="server")
    names: dict[str, Any] = {"current_platform": platform, "GiB_bytes": GIB, "UsageContext": usage}
    for function in _functions(tree):
        for statement in function.body:
            asks = isinstance(statement, ast.Try) and "get_device_total_memory" in ast.unparse(statement)
            decides = isinstance(statement, ast.If) and "device_memory >=" in ast.unparse(statement.test)
            if asks or decides:
                exec(compile(ast.Module([statement], []), str(source), "exec"), names)
    tokens, seqs = names["default_max_num_batched_tokens"], names["default_max_num_seqs"]
    seqs = seqs if isinstance(seqs, dict) else dict.fromkeys(tokens, seqs)
    return {each: [tokens[each], seqs[each]] for each in ("server", "offline")}


def captured(source: Path, platform: Platform, seqs: int, tokens: int, speculative: int) -> list[int]:
    """VllmConfig._set_cudagraph_sizes for a dense model with nothing else set."""
    files = [
        source / "vllm" / "config" / "vllm.py",
        source / "vllm" / "config" / "__init__.py",
        source / "vllm/config.py",
    ]
    found = next(
        function
        for path in files
        if path.exists()
        for function in _functions(ast.parse(path.read_text()))
        if function.name == "_set_cudagraph_sizes"
    )
    found.decorator_list = []
    taken: dict[str, list[int]] = {}
    scheduler = (source / "vllm" / "config" / "scheduler.py", source / "vllm" / "config.py")
    by_seqs = any("min(self.max_num_seqs * 2, 512)" in path.read_text() for path in scheduler if path.exists())
    drafts = SimpleNamespace(num_speculative_tokens=speculative, uses_dynamic_speculative_decoding=lambda: False)
    engine = SimpleNamespace(
        model_config=SimpleNamespace(enforce_eager=False),
        compilation_config=SimpleNamespace(
            cudagraph_mode="FULL",
            max_cudagraph_capture_size=None,
            cudagraph_capture_sizes=None,
            pass_config=SimpleNamespace(enable_sp=False, enable_sequence_parallelism=False),
            init_with_cudagraph_sizes=lambda sizes: taken.update(sizes=sizes),
            post_init_cudagraph_sizes=lambda: None,
        ),
        scheduler_config=SimpleNamespace(
            max_num_seqs=seqs,
            max_num_batched_tokens=tokens,
            cuda_graph_sizes=[min(2 * seqs, 512) if by_seqs else 512],
        ),
        parallel_config=SimpleNamespace(tensor_parallel_size=1),
        speculative_config=drafts if speculative else None,
        uniform_decode_query_len=1 + speculative,
        num_speculative_tokens=speculative,
        performance_mode="balanced",
    )
    names = {
        "CUDAGraphMode": SimpleNamespace(NONE="NONE"),
        "envs": SimpleNamespace(VLLM_USE_V1=True),
        "logger": SimpleNamespace(warning=print, info=print),
        "current_platform": platform,
    }
    sys.modules["vllm"] = types.ModuleType("vllm")
    sys.modules["vllm.platforms"] = types.ModuleType("vllm.platforms")
    sys.modules["vllm.platforms"].current_platform = platform  # type: ignore[attr-defined]
    exec(compile(ast.Module([found], []), str(source), "exec"), names)
    names["_set_cudagraph_sizes"](engine)  # type: ignore[operator]
    return sorted(taken.get("sizes") or engine.compilation_config.cudagraph_capture_sizes)


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def rows(sources: Path) -> Iterator[dict[str, Any]]:
    versions = sorted((path for path in sources.iterdir() if (path / "vllm").is_dir()), key=_number)
    for source in versions:
        if _number(source) < (0, 9):
            continue
        for gpu, name, memory, capability in CARDS:
            if capability < 80 and _number(source) < (0, 10):
                continue  # the V0 engine, whose defaults depend on the context
            platform = Platform(name, int(memory * GIB), capability)
            yield {"version": source.name, "gpu": gpu, "batch": batch_sizes(source, platform)}
        for capability in (90, 100):
            platform = Platform("a card", 80 * GIB, capability)
            for seqs, tokens in BATCHES:
                for speculative in (0, 3) if _number(source) >= (0, 11) else (0,):
                    sizes = captured(source, platform, seqs, tokens, speculative)
                    asked = {
                        "max_num_seqs": seqs,
                        "max_num_batched_tokens": tokens,
                        "num_speculative_tokens": speculative,
                    }
                    yield {"version": source.name, "capability": capability, "asked": asked, "captured": sizes}


def _number(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in path.name.split("."))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    text = "".join(json.dumps(row) + "\n" for row in rows(given.sources))
    given.output.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
