"""The pre-commit hook, the GitHub Action and the GitLab example, by running what they run."""

from __future__ import annotations

import os
import re
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from planner.gate.readers import reader_of

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
GOOD = "#!/bin/sh\nvllm serve Qwen/Qwen3-4B --max-model-len 8192\n"
BAD = "#!/bin/sh\nvllm serve Qwen/Qwen3-32B --max-model-len 8192\n"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="these run by bash")


def _run(command: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PATH": path, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def _git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    """main has launches that pass, work one that does not."""
    folder = tmp_path / "repository"
    (folder / "deploy").mkdir(parents=True)
    (folder / "vllm-fit.yaml").write_text("defaults: {gpu: L40S}\n")
    (folder / "deploy" / "good.sh").write_text(GOOD)
    _git(folder, "init", "--quiet", "--initial-branch=main")
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--message", "x")
    _git(folder, "checkout", "--quiet", "-b", "work")
    return folder


def _with_failure(repository: Path) -> None:
    (repository / "deploy" / "bad.sh").write_text(BAD)
    _git(repository, "add", "--all")
    _git(repository, "commit", "--quiet", "--message", "y")


# --- pre-commit -------------------------------------------------------------------------------------------------------


def _hook() -> dict[str, object]:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    return dict(hook)


def test_pre_commit_takes_the_manifest_and_the_example():
    for command, file in (
        ("validate-manifest", ".pre-commit-hooks.yaml"),
        ("validate-config", "docs/examples/gate/pre-commit-config.yaml"),
    ):
        done = _run([str(BIN / "pre-commit"), command, file], ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "WARNING" not in done.stdout + done.stderr


def test_pre_commit_runs_the_hook(repository, tmp_path):
    hook = _hook() | {"language": "system", "args": ["--offline"]}  # as installed already
    config = {"repos": [{"repo": "local", "hooks": [hook]}]}
    (repository / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    _git(repository, "add", "--all")
    command = [str(BIN / "pre-commit"), "run", "--all-files", "--color=never"]
    passing = _run(command, repository, PRE_COMMIT_HOME=str(tmp_path / "home"))
    assert passing.returncode == 0, passing.stdout + passing.stderr
    _with_failure(repository)
    failing = _run(command, repository, PRE_COMMIT_HOME=str(tmp_path / "home"))
    assert failing.returncode == 1
    assert "deploy/bad.sh:2: FAIL  Qwen/Qwen3-32B on NVIDIA L40S" in failing.stdout


_NAMES = """
a.sh a.slurm a.yaml b/.gitlab-ci.yml x.py run.mk unit.service quadlet.container plan.json Dockerfile Dockerfile.gpu
vllm.dockerfile Containerfile Makefile GNUmakefile Jenkinsfile ci.jenkinsfile d/Makefile.inc
readme.md a.rs image.png .env notes.txt
"""


@pytest.mark.parametrize("name", _NAMES.split())
def test_the_hook_is_given_every_file_that_has_a_reader(name):
    given = re.search(str(_hook()["files"]), name) is not None
    assert given == (reader_of(Path(name)) is not None)


def test_the_hook_is_given_scripts_without_an_ending():
    assert re.search(str(_hook()["files"]), "bin/serve")


# --- GitHub -----------------------------------------------------------------------------------------------------------


def _check(schema: str, file: str, *more: str) -> None:
    done = _run([str(BIN / "check-jsonschema"), "--builtin-schema", schema, *more, file], ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_action_and_workflow_are_as_github_has_them():
    _check("vendor.github-actions", "action.yml")
    _check("vendor.github-workflows", "docs/examples/gate/github-workflow.yml")


def _step(index: int, repository: Path, temporary: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """A step of the action as the runner runs it."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    given = {name: spec["default"] for name, spec in action["inputs"].items()} | inputs
    step = action["runs"]["steps"][index]
    variables = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: given[found[1]], value)
        for name, value in step["env"].items()
    }
    assert "${{" not in step["run"], "inputs must not become a part of the script"
    script = temporary / "step.sh"
    script.write_text(step["run"])
    return _run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        repository,
        RUNNER_TEMP=str(temporary),
        GITHUB_ACTION_PATH=str(ROOT),
        GITHUB_STEP_SUMMARY=str(temporary / "summary.md"),
        **variables,
    )


@pytest.fixture
def runner(tmp_path):
    """A runner on which the first step has been run."""
    temporary = tmp_path / "temporary"
    (temporary / "vllm-fit" / "bin").mkdir(parents=True)
    (temporary / "vllm-fit" / "bin" / "vllm-fit").symlink_to(BIN / "vllm-fit")
    return temporary


def test_the_action_passes_what_passes(repository, runner):
    done = _step(1, repository, runner, paths="deploy", offline="true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Qwen/Qwen3-4B" in (runner / "summary.md").read_text()


def test_every_input_of_the_action_reaches_the_gate(repository, runner):
    """One that is not handed on would be passed over in silence: each wrong value is wrong input."""
    for name in ("gpu", "gpus", "vllm-version", "policy", "unknown", "changed-since"):
        assert _step(1, repository, runner, **{"paths": "deploy", "offline": "true", name: "banana"}).returncode == 2, (
            name
        )


def test_the_action_annotates_and_fails(repository, runner):
    _with_failure(repository)
    inputs = {"paths": "deploy/good.sh\ndeploy/bad.sh\n", "changed-since": "main", "sarif": "gate.sarif"}
    done = _step(1, repository, runner, **inputs)
    assert done.returncode == 1
    assert "::error file=deploy/bad.sh,line=2" in done.stdout
    assert "good.sh" not in done.stdout, "it has not changed since main"
    assert "Qwen/Qwen3-32B" in (runner / "summary.md").read_text()
    assert "deploy/bad.sh" in (repository / "gate.sarif").read_text()


def test_inputs_of_the_action_are_no_code(repository, runner):
    mark = runner / "ran"
    done = _step(1, repository, runner, paths=f"$(touch {mark})\n`touch {mark}`\n;touch {mark}", gpu="L4; ls")
    assert done.returncode == 2
    assert not mark.exists()
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_the_action_installs_a_package_that_works_by_itself(repository, tmp_path):
    """What pip makes of this folder has every file that the gate needs. Dependencies come from this environment."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    source = tmp_path / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(".venv", ".git", "build", "*.egg-info", ".*_cache", "__pycache__", "golden"),
    )
    packages = os.pathsep.join(site.getsitepackages())
    done = _run(
        ["bash", "-eo", "pipefail", "-c", _step_script(0)],
        tmp_path,
        PYTHON=sys.executable,
        RUNNER_TEMP=str(temporary),
        GITHUB_ACTION_PATH=str(source),
        PIP_NO_DEPS="1",
        PIP_NO_BUILD_ISOLATION="1",
        PYTHONPATH=packages,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _with_failure(repository)
    gate = _run([str(temporary / "vllm-fit/bin/vllm-fit"), "gate", "deploy"], repository, PYTHONPATH=packages)
    assert gate.returncode == 1, gate.stderr
    where = [str(temporary / "vllm-fit/bin/python"), "-c", "import planner; print(planner.__file__)"]
    assert str(temporary) in _run(where, tmp_path, PYTHONPATH="").stdout


def _step_script(index: int) -> str:
    return str(yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"][index]["run"])


# --- GitLab -----------------------------------------------------------------------------------------------------------


def test_the_gitlab_example_is_as_gitlab_has_it():
    _check("vendor.gitlab-ci", "docs/examples/gate/gitlab-ci.yml", "--data-transform", "gitlab-ci")


def test_the_gitlab_example_reports_and_fails(repository):
    job = yaml.safe_load((ROOT / "docs/examples/gate/gitlab-ci.yml").read_text())["vllm-launches"]

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        script = "\n".join(job["script"])
        variables = {name: str(value) for name, value in job["variables"].items()}
        return _run(["bash", "-eo", "pipefail", "-c", script], repository, **variables, **more)

    passing = run()
    assert passing.returncode == 0, passing.stdout + passing.stderr
    _with_failure(repository)
    failing = run(CI_MERGE_REQUEST_DIFF_BASE_SHA="main")
    assert failing.returncode == 1
    assert "deploy/bad.sh:2: FAIL" in failing.stdout
    assert "since main: new" in failing.stdout
    report = (repository / job["artifacts"]["reports"]["junit"]).read_text()
    assert "good.sh" in report
    assert "bad.sh" in report
