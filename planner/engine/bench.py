"""`vllm bench serve`, vLLM's own load generator, against a server of this machine: its JSON, as it writes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from planner.engine.api import is_loopback
from planner.engine.measure import Load
from planner.engine.process import Session
from planner.engine.spec import LaunchError
from planner.engine.workplace import follow, read
from planner.errors import InputError

CHILD = Path(__file__).parent / "child" / "vllm_cli.py"
_METRICS = "ttft,tpot,itl,e2el"
_PERCENTILES = "50,90,99"


class Bench:
    """Runs of the load generator, one after another in one process."""

    def __init__(self, url: str, model: str, tokenizer: str, folder: Path) -> None:
        if not is_loopback(url):
            raise InputError(f"{url} is not on this machine: a load is only put on 127.0.0.1")
        self._url, self._model, self._tokenizer, self._folder = url, model, tokenizer, folder
        self._made = 0

    def run(
        self,
        loads: Sequence[tuple[Load, int]],
        python: Path,
        environment: dict[str, str],
        wait: Callable[[Session], bool],
        *,
        detailed: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """The result of each (load, seed). `wait` passes a moment and is False once the load generator has ended.

        LaunchError where it fails.
        """
        self._made += 1
        name = f"bench-{self._made}"
        folder = self._folder / name
        folder.mkdir()
        commands, done, log = folder / "commands.json", folder / "done", folder / "log"
        words = [self._words(load, seed, folder / f"{n}.json", detailed) for n, (load, seed) in enumerate(loads)]
        commands.write_text(json.dumps(words), encoding="utf-8")
        new_lines = follow(done)
        with Session([str(python), str(CHILD), str(commands), str(done)], environment, cwd=folder, log=log) as session:
            finished = 0
            while finished < len(loads):
                alive = wait(session)
                for line in next(new_lines):
                    yield json.loads(read(folder / f"{line}.json"))
                    finished += 1
                if not alive and finished < len(loads):
                    raise LaunchError(f"vllm bench serve failed: {_last_words(read(log))}", log=read(log))

    def _words(self, load: Load, seed: int, result: Path, detailed: bool) -> list[str]:
        words = {
            "--backend": "openai",
            "--base-url": self._url,
            "--model": self._model,
            "--tokenizer": self._tokenizer,
            "--dataset-name": "random",
            "--random-input-len": load.input_len,
            "--random-output-len": load.output_len,
            "--num-prompts": load.requests_a_round,
            "--max-concurrency": load.concurrency,
            "--temperature": 0,
            "--seed": seed,
            "--percentile-metrics": _METRICS,
            "--metric-percentiles": _PERCENTILES,
            "--result-dir": result.parent,
            "--result-filename": result.name,
        }
        flags = ["--ignore-eos", "--disable-tqdm", "--save-result", *(["--save-detailed"] if detailed else [])]
        return ["bench", "serve", *(str(word) for pair in words.items() for word in pair), *flags]


def _last_words(log: str) -> str:
    """The last line that is no progress bar: of a Python error, its sentence."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:400] if lines else "it printed nothing"
