"""docs/adding.md, followed to the letter in a copy of the tree."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
BLOCK = re.compile(r"```\w*\n(.*?)```\n", re.DOTALL)
CHANGE = re.compile(r"change `([^`]+)` to `([^`]+)` in\s`([^`]+)`")


def steps(section: str) -> Iterator[tuple[str, str]]:
    """(the sentence before it, the code) of each block."""
    position = 0
    for block in BLOCK.finditer(section):
        yield section[position : block.start()].strip(), block[1]
        position = block.end()


def follow(before: str, code: str, tree: Path) -> None:
    if appended := re.search(r"(?:Append|Add the line) to `([^`]+)`:$", before):
        path = tree / appended[1]
        gap = "" if path.suffix == ".jsonl" else "\n\n"
        path.write_text(path.read_text(encoding="utf-8") + gap + code, encoding="utf-8")
    elif inserted := re.search(r"In `([^`]+)`, before `([^`]+)`:$", before):
        path = tree / inserted[1]
        text = path.read_text(encoding="utf-8")
        assert text.count(inserted[2]) == 1, f"{inserted[2]} stands {text.count(inserted[2])} times in {inserted[1]}"
        path.write_text(text.replace(inserted[2], code + inserted[2]), encoding="utf-8")
    elif made := re.search(r"New file `([^`]+)`:$", before):
        path = tree / made[1]
        assert not path.exists()
        path.parent.mkdir(exist_ok=True)
        path.write_text(code, encoding="utf-8")
    else:
        assert code.startswith("$ vllm-fit "), f"not a step: {before[-80:]}"
        for change in CHANGE.finditer(before):
            path = tree / change[3]
            assert change[1] in path.read_text(encoding="utf-8")
            path.write_text(path.read_text(encoding="utf-8").replace(change[1], change[2]), encoding="utf-8")
        for shown in code.removeprefix("$ vllm-fit ").split("\n$ vllm-fit "):
            command, _, expected = shown.partition("\n")
            compare(shlex.split(command), expected.rstrip("\n"), tree)


def compare(words: list[str], expected: str, tree: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "planner.cli", *words],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    pattern = ".*".join(re.escape(part) for part in expected.split("…"))
    assert re.search(pattern, ended.stdout, re.DOTALL), f"{words}\n{ended.stdout}{ended.stderr}"


@pytest.mark.parametrize("title", SECTIONS)
def test_the_page_can_be_followed(title: str, tmp_path: Path) -> None:
    for package in ("planner", "hf_configs", "reports", "app"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    followed = list(steps(SECTIONS[title]))
    assert followed
    for before, code in followed:
        follow(before, code, tmp_path)


def test_every_kind_has_its_section() -> None:
    kinds = ("A family", "A quantization", "A GPU", "A version of vLLM", "A rung of the ladder", "A gate format")
    assert tuple(SECTIONS) == kinds
