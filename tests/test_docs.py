"""What the pages say is so: commands run and print that, options, files and figures exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest

from planner import cli
from planner.engine.args import find_flag
from planner.memory.constants import constants
from planner.memory.overhead import of_version
from planner.planning.rungs import RUNGS
from planner.request import REQUEST_KEYS, answer
from planner.units import GIB, MIB
from planner.workload import Workload
from tests.command_line import run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES if not page.name.startswith("accuracy")}


def shown_commands() -> Iterator[tuple[str, list[str]]]:
    """(page, words after `vllm-fit`) of every command line: in a block, or whole between backticks."""
    for page, text in TEXTS.items():
        in_blocks = re.findall(r"^(?:    )?(?:\$ )?vllm-fit (.+)$", text, re.MULTILINE)
        inline = re.findall(r"`vllm-fit ([^`]+)`", text)
        for line in (*in_blocks, *inline):
            if re.match(r"[a-z][a-z-]+( |$)", line):
                yield page, shlex.split(line.replace("…", ""), comments=True)


@pytest.mark.parametrize(("page", "words"), list(shown_commands()))
def test_every_option_that_a_page_shows_exists(page: str, words: list[str]) -> None:
    name, *rest = words
    command = cli.cli.commands.get(name)
    if command is None:
        assert name in ("models", "gpus", "ui"), f"{page}: no command {name}"
    options = {spelling for option in (command.params if command else ()) for spelling in option.opts}
    for word in rest:
        flag = word.strip("[]").partition("=")[0]
        if flag.startswith("--") and flag not in (*options, "--help"):
            takes_flags = command is not None and command.context_settings.get("ignore_unknown_options")
            assert takes_flags, f"{page}: {name} has no {flag}"
            assert find_flag(flag), f"{page}: neither vllm-fit {name} nor vllm serve has {flag}"


def examples() -> Iterator[tuple[str, str]]:
    """(the words, the output shown) of each indented `$ vllm-fit` block; test_adding.py has those of docs/adding.md."""
    for text in TEXTS.values():
        yield from re.findall(r"^    \$ vllm-fit (.+)\n((?:(?:    .*)?\n)+)", text, re.MULTILINE)


def test_there_is_an_example_to_check() -> None:
    assert any(words.startswith("fit ") for words, _ in examples())


@pytest.mark.parametrize(("line", "expected"), list(examples()), ids=lambda text: text[:20])
def test_an_example_prints_what_is_shown(line: str, expected: str, capsys: Any) -> None:
    """A line of … stands for any number of lines."""
    code, out, _ = run(capsys, *shlex.split(line))
    assert code == 0
    lines = [shown[4:].rstrip() for shown in expected.rstrip("\n").split("\n")]
    pattern = "".join(r"(?:.*\n)*?" if shown.strip() == "…" else re.escape(shown) + "\n" for shown in lines)
    assert re.match(pattern, out), out


def test_the_commands_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Those that need no GPU, no engine and no repository, in the order of the page."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "hf_configs" / "Qwen--Qwen3-8B", tmp_path / "my-model")
    (tmp_path / "requests.jsonl").write_text(json.dumps({"model": "Qwen/Qwen3-8B", "gpu": "L4"}) + "\n")
    (tmp_path / "vllm.log").write_bytes((ROOT / "tests" / "logs" / "v0.33.0_started.log").read_bytes())
    ran = []
    for line in re.findall(r"^    vllm-fit (.+)$", TEXTS["README.md"], re.MULTILINE):
        words = shlex.split(line, comments=True)
        if words[0] in ("estimate", "fit", "recommend", "sweep", "commands", "explain-log"):
            code, _, err = run(capsys, *words)
            assert code in (0, 1), err
            ran.append(words[0])
    assert {"estimate", "fit", "recommend", "sweep", "commands", "explain-log"} == set(ran)


def test_the_call_from_python_works() -> None:
    (line,) = re.findall(r"^    python -c (.+)$", TEXTS["contract.md"], re.MULTILINE)
    ended = subprocess.run(
        [sys.executable, "-c", *shlex.split(line)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "'status': 'fits'" in ended.stdout


def test_the_answer_has_the_keys_of_the_contract() -> None:
    (shape,) = re.findall(r"^    (\{\"id\", .*?\}\}) +# where", TEXTS["contract.md"], re.MULTILINE | re.DOTALL)
    request = {"model": "Qwen/Qwen3-32B", "gpu": "H100-SXM-80GB", "what_if_quantization": "fp8"}
    told = answer({**request, "workload": {"concurrency": 4}})
    stated = set(re.findall(r'"(\w+)"(?=[,:}\]])', shape)) - {"fits", "does_not_fit", "refused", "error"}
    assert told.keys() <= stated
    missing = stated - set(keys_of(told)) - {"code", "message", "flag", "exact", "fitted", "assumed"}
    assert missing == set()


def test_the_keys_of_a_request_are_those_of_the_contract() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", TEXTS["contract.md"], re.MULTILINE))
    assert rows.keys() == set(REQUEST_KEYS)
    assert set(re.findall(r'"(\w+)"', rows["workload"])) == {field.name for field in fields(Workload)}


def keys_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inside in value.items():
            yield key
            yield from keys_of(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from keys_of(inside)


def test_the_gate_prints_what_its_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deploy").mkdir()
    launch = ROOT / "tests" / "gate" / "corpus" / "yaml" / "kubernetes" / "deployment-fewer-gpus.yaml"
    shutil.copyfile(launch, tmp_path / "deploy" / "qwen.yaml")
    code, out, _ = run(capsys, "gate", "deploy", "--gpu", "H100", "--offline")
    (example,) = re.findall(r"^(    deploy/qwen\.yaml:.*?\n)\n", TEXTS["gate.md"], re.MULTILINE | re.DOTALL)
    assert (code, out.partition("\n\n")[0] + "\n") == (1, textwrap.dedent(example))


def test_the_gates_json_has_the_keys_of_its_page(tmp_path: Path, capsys: Any) -> None:
    (shape,) = re.findall(r"^    (\{\"launches\".*?\}\})$", TEXTS["gate.md"], re.MULTILINE | re.DOTALL)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message=x"], check=True)
    (tmp_path / "serve.sh").write_text("vllm serve Qwen/Qwen3-32B --max-model-len 8192\n")
    code, out, _ = run(capsys, *shlex.split(f"gate {tmp_path} --gpu L4 --offline --changed-since HEAD --format json"))
    assert (code, set(keys_of(json.loads(out)))) == (1, set(re.findall(r'"(\w+)"(?=[,:}\]])', shape)))


PLACES = re.compile(
    r"(?<![\w/.])((?:planner|app|reports|hf_configs|tests|docs|tools|benchmarks|requirements)/[\w./-]+)"
)


@pytest.mark.parametrize("page", [name for name in TEXTS if name != "adding.md"])
def test_every_file_that_a_page_names_exists(page: str) -> None:
    gone = [
        place
        for place in PLACES.findall(TEXTS[page])
        if not (ROOT / place.rstrip("./")).exists() and not [*ROOT.glob(place.rstrip(".") + "*")]
    ]
    assert gone == []


def test_the_rungs_of_the_page_are_the_ladders() -> None:
    table = re.findall(r"^\| `([a-z-]+)` \|", TEXTS["ladder.md"].partition("## The rungs")[2], re.MULTILINE)
    assert table == [rung.key for rung in RUNGS]


def entry(name: str, since: str, **match: str) -> Any:
    version = tuple(int(part) for part in f"{since}.0".split("."))[:3]
    return of_version(constants()[name], version, **match)  # type: ignore[arg-type]


def test_the_figures_of_the_memory_page_are_the_constants() -> None:
    def gib(nbytes: float) -> str:
        return f"{nbytes / GIB:.2f}"

    def graphs(since: str, runner: str) -> str:
        found = entry("cuda_graph_bytes", since, runner=runner)
        return f"{gib(found['base'])} GiB + {found['per_layer_and_size'] / MIB:.2f} MiB"

    def non_torch(since: str, link: str) -> str:
        return gib(entry("non_torch_bytes", since, link=link)["value"])

    page = " ".join(TEXTS["memory.md"].split())
    fitted = entry("cuda_graph_bytes", "0.19", runner="v1")["launches"]
    for sentence in (
        f"3 I + {constants()['forward_hidden_widths']} H",
        f"torch.sort takes {entry('sampler_bytes_per_logit', '0.16', runner='v1')['value']} bytes",
        f"the {entry('sampler_bytes_per_logit', '0.17', runner='v1')['seen']} launches with known flags",
        f"a single rank {non_torch('0.17', 'none')} GiB, since 0.18 {non_torch('0.18', 'none')}",
        f"(0.6: {non_torch('0.6', 'none')})",
        f"a pipeline stage {non_torch('0.18', 'stages')}; ranks with NCCL {non_torch('0.18', 'nccl')}",
        f"no data parallelism) {non_torch('0.17', 'fused')}",
        f"which share host memory, {non_torch('0.17', 'pcie')}",
        f"newer {non_torch('0.8', 'all')} GiB, for eight ranks {non_torch('0.8', 'all8')}",
        f"{non_torch('0.8', 'pcie')} on four L40S",
        f"median {gib(constants()['unified_drift_bytes'])}",
        f"since 0.11 {graphs('0.11', 'v1')}",
        f"fitted on {fitted} launches",
        f"{graphs('0.10', 'v1')} before",
        f"{graphs('0.20', 'v1')} since 0.20",
        f"{graphs('0.22', 'v2')} in runner 2",
        f"CUDA context, {gib(constants()['context_bytes'])} GiB",
        f"({gib(entry('available_kv_error', '0.19', runner='v1')['value'])} GiB either way in runner 1",
        f"{gib(entry('available_kv_error', '0.33', runner='v2')['value'])} in runner 2",
    ):
        assert sentence in page, sentence


def test_every_command_is_named_somewhere() -> None:
    everything = " ".join(TEXTS.values())
    for name in cli.cli.list_commands(click.Context(cli.cli)):
        assert f"vllm-fit {name}" in everything, name
