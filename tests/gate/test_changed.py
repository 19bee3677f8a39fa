"""--changed-since, on real repositories of git."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from planner.errors import InputError
from planner.gate.outcome import Outcome
from planner.gate.run import Options, gate

COMPOSE = """\
services:
  chat:
    image: vllm/vllm-openai:v0.11.0
    command: --model ${MODEL} --max-model-len 8192
  embed:
    image: vllm/vllm-openai:v0.11.0
    command: --model intfloat/e5-mistral-7b-instruct --max-model-len 4096
"""


def _git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def _commit(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--message", "x")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    folder = tmp_path / "repository"
    folder.mkdir()
    _git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "compose.yaml").write_text(COMPOSE)
    (folder / ".env").write_text("MODEL=Qwen/Qwen3-8B\n")
    _commit(folder, serve="#!/bin/sh\nvllm serve Qwen/Qwen3-4B --max-model-len 8192\n")
    _git(folder, "checkout", "--quiet", "-b", "work")
    monkeypatch.chdir(folder)
    return folder


def _changed(revision: str = "main", *paths: str) -> list[Outcome]:
    return gate([Path(path) for path in paths or ("",)], Options(gpu="L40S", offline=True, changed_since=revision))


def _said(outcomes: list[Outcome]) -> list[tuple[str, int, str]]:
    return [(one.launch.file, one.launch.line, one.reasons[-1].message) for one in outcomes]


def test_only_what_means_something_else_is_judged(repository):
    _commit(repository, other="no launch")
    (repository / "compose.yaml").write_text("# one more line\n" + COMPOSE)
    assert _changed() == []


def test_what_a_change_did_is_said(repository):
    (repository / "compose.yaml").write_text(COMPOSE.replace("len 8192", "len 16384 --kv-cache-dtype fp8"))
    (outcome,) = _changed()
    (_, line, said) = _said([outcome])[0]
    assert line == 2
    assert outcome.change is not None
    before, now = outcome.change["kv_tokens"]
    assert now == pytest.approx(2 * before, rel=0.02)
    assert said == (
        f"since main: KV tokens {before:,} → {now:,}; --kv-cache-dtype unset → fp8; --max-model-len 8192 → 16384"
    )
    assert outcome.to_dict()["change"] == {"verdict": ["pass", "pass"], "kv_tokens": [before, now]}


def test_a_change_in_a_file_that_the_launch_reads_counts(repository):
    (repository / ".env").write_text("MODEL=Qwen/Qwen3-32B\n")
    (outcome,) = _changed()
    assert outcome.verdict == "fail"
    assert "pass → fail; model Qwen/Qwen3-8B → Qwen/Qwen3-32B" in outcome.reasons[-1].message


def test_new_launches_committed_or_not_and_scripts_without_an_ending(repository):
    _commit(repository, sub__new="#!/bin/bash\nvllm serve Qwen/Qwen3-4B\n")
    (repository / "untracked.sh").write_text("vllm serve Qwen/Qwen3-8B --max-model-len 4096\n")
    assert _said(_changed()) == [("untracked.sh", 1, "since main: new"), ("sub/new", 2, "since main: new")]


def test_what_the_revision_got_since_the_work_began_is_no_change(repository):
    _git(repository, "checkout", "--quiet", "main")
    _commit(repository, later="#!/bin/sh\nvllm serve Qwen/Qwen3-4B\n", serve="#!/bin/sh\nvllm serve Qwen/Qwen3-14B\n")
    _git(repository, "checkout", "--quiet", "work")
    assert _changed() == []


def test_a_launch_taken_away_is_not_taken_for_another(repository):
    (repository / "compose.yaml").write_text(COMPOSE.partition("  embed")[0])
    assert _changed() == []


def test_a_changed_policy_concerns_every_launch(repository):
    (repository / "vllm-fit.yaml").write_text("require: {context: 8192}\n")
    said = _said(_changed())
    assert [(file, line) for file, line, _ in said] == [("compose.yaml", 2), ("compose.yaml", 5), ("serve", 2)]
    assert {message for *_, message in said} == {"since main: the policy"}
    _git(repository, "add", "--all")
    _git(repository, "commit", "--quiet", "--message", "policy")
    assert _changed("HEAD") == []


def test_paths_given_are_compared_with_themselves(repository, monkeypatch):
    (repository / "compose.yaml").write_text(COMPOSE.replace("8192", "4096"))
    (repository / "serve").write_text("#!/bin/sh\nvllm serve Qwen/Qwen3-4B --max-model-len 4096\n")
    assert [file for file, *_ in _said(_changed("main", "serve"))] == ["serve"]
    (repository / "deep").mkdir()
    monkeypatch.chdir(repository / "deep")
    assert [file for file, *_ in _said(_changed("main", "../compose.yaml"))] == ["../compose.yaml"]


def test_a_shallow_clone_says_what_to_fetch(repository, tmp_path, monkeypatch):
    (repository / "compose.yaml").write_text(COMPOSE.replace("8192", "4096"))
    _commit(repository)
    clone = tmp_path / "clone"
    _git(tmp_path, "clone", "--quiet", "--depth=1", "--branch=work", repository.as_uri(), str(clone))
    monkeypatch.chdir(clone)
    with pytest.raises(InputError, match="shallow; fetch it first"):
        _changed("main")
    _git(clone, "fetch", "--quiet", "--depth=1", "origin", "main:refs/remotes/origin/main")
    assert [line for _, line, _ in _said(_changed("origin/main"))] == [2], "without a merge base: the revision itself"


@pytest.mark.parametrize("revision", ["nothing-like-it", "--output=/tmp/x", "HEAD:compose.yaml", "", "a\nb"])
def test_what_is_no_revision_is_one_line(repository, revision):
    with pytest.raises(InputError, match=r"^--changed-since .*no such revision in this repository$"):
        _changed(revision)


def test_outside_of_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^--changed-since: git rev-parse: not a git repository"):
        _changed("main")


def test_links_and_large_files_of_the_revision_are_left_alone(repository):
    (repository / "link.yaml").symlink_to("/etc/passwd")
    (repository / "large.yaml").write_text("# vllm\n" + "x: 1\n" * 1_000_000)
    _commit(repository)
    assert [one.launch.file for one in _changed("HEAD")] == []
    (repository / "large.yaml").write_text("# vllm\n" + "x: 2\n" * 1_000_000)
    assert [one.launch.file for one in _changed("HEAD")] == ["large.yaml"]


def test_nothing_of_the_repository_is_run(repository, tmp_path):
    mark = tmp_path / "ran"
    (repository / ".gitattributes").write_text("*.yaml filter=evil diff=evil textconv=evil\n")
    for key in ("filter.evil.smudge", "filter.evil.clean", "diff.evil.textconv", "diff.external", "core.fsmonitor"):
        _git(repository, "config", key, f"touch {mark}")
    (repository / "compose.yaml").write_text(COMPOSE.replace("8192", "4096"))
    assert len(_changed()) == 1
    assert not mark.exists()
