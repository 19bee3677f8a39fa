"""A fix is a diff that applies and mends the launch, however the flags are quoted and wherever they stand."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from planner.gate.outcome import Outcome
from planner.gate.run import Options, gate

SET = "--max-model-len 99999 --seed 1"
"""More than Qwen3-8B has positions for: the value changes."""
ADD = "--seed 1"
"""Its own 40,960 tokens are too many for an L4: a flag is added."""

_POD = """\
apiVersion: v1
kind: Pod
metadata: {{name: vllm}}
spec:
  nodeSelector: {{nvidia.com/gpu.product: NVIDIA-L4}}
  containers:
    - name: vllm
      image: vllm/vllm-openai:v0.11.0
{0}      resources: {{limits: {{nvidia.com/gpu: 1}}}}
"""
_LLM_SERVICE = """\
apiVersion: serving.kserve.io/v1alpha1
kind: LLMInferenceService
metadata: {{name: qwen}}
spec:
  model: {{uri: "hf://Qwen/Qwen3-8B"}}
  template:
    nodeSelector: {{nvidia.com/gpu.product: NVIDIA-L4}}
    containers:
      - name: main
        env:
          - name: VLLM_ADDITIONAL_ARGS
            value: {0}
        resources: {{limits: {{nvidia.com/gpu: "1"}}}}
"""


def _pod(text: str) -> str:
    return _POD.format("".join(f"      {line}\n" for line in text.split("\n")))


def _service(text: str) -> str:
    return "services:\n  vllm:\n" + "".join(f"    {line}\n" for line in text.split("\n"))


FILES: dict[str, tuple[str, str]] = {
    "LLMInferenceService, double quotes": ("a.yaml", _LLM_SERVICE.format('"§"')),
    "LLMInferenceService, single quotes": ("a.yaml", _LLM_SERVICE.format("'§'")),
    "LLMInferenceService, plain": ("a.yaml", _LLM_SERVICE.format("§")),
    "LLMInferenceService, folded": ("a.yaml", _LLM_SERVICE.format(">-\n              --dtype auto\n              §")),
    "pod, list": ("a.yaml", _pod("args: [--model, Qwen/Qwen3-8B, §,]")),
    "pod, quoted list": ("a.yaml", _pod('args: ["--model", "Qwen/Qwen3-8B", §"]')),
    "pod, items": ("a.yaml", _pod('args:\n  - "--model"\n  - "Qwen/Qwen3-8B"\n  - §-')),
    "pod, items with =": ("a.yaml", _pod("args:\n  - --model=Qwen/Qwen3-8B\n  - §=-")),
    "pod, items with = in quotes": ("a.yaml", _pod('args:\n  - "--model=Qwen/Qwen3-8B"\n  - "§=-"')),
    "pod, sh -c in flow": ("a.yaml", _pod('command: [sh, -c]\nargs: ["vllm serve Qwen/Qwen3-8B §"]')),
    "pod, sh -c all in flow": ("a.yaml", _pod('command: ["sh", "-c", "exec vllm serve Qwen/Qwen3-8B §"]')),
    "pod, sh -c single quotes": ("a.yaml", _pod("command: ['sh', '-c', 'vllm serve Qwen/Qwen3-8B §']")),
    "pod, sh -c item": ("a.yaml", _pod('command: [sh, -c]\nargs:\n  - "vllm serve Qwen/Qwen3-8B §"')),
    "pod, sh -c plain item": ("a.yaml", _pod("command: [sh, -c]\nargs:\n  - vllm serve Qwen/Qwen3-8B §")),
    "pod, sh -c block": ("a.yaml", _pod("command: [sh, -c]\nargs:\n  - |\n    vllm serve Qwen/Qwen3-8B \\\n      §\n")),
    "pod, sh -c folded": ("a.yaml", _pod("command: [sh, -c]\nargs:\n  - >\n    vllm serve Qwen/Qwen3-8B\n    §\n")),
    "pod, variable": (
        "a.yaml",
        _pod('command: [sh, -c, "vllm serve Qwen/Qwen3-8B $ARGS"]\nenv:\n  - name: ARGS\n    value: "§"'),
    ),
    "pod, variable of Kubernetes": (
        "a.yaml",
        _pod('command: [sh, -c, "vllm serve Qwen/Qwen3-8B $(ARGS)"]\nenv:\n  - {name: ARGS, value: "§"}'),
    ),
    "compose, plain": ("compose.yaml", _service("image: vllm/vllm-openai:v0.11.0\ncommand: --model Qwen/Qwen3-8B §")),
    "compose, quotes": (
        "compose.yaml",
        _service('image: vllm/vllm-openai:v0.11.0\ncommand: "--model Qwen/Qwen3-8B §"'),
    ),
    "compose, folded": (
        "compose.yaml",
        _service("image: vllm/vllm-openai:v0.11.0\ncommand: >\n  --model Qwen/Qwen3-8B\n  §"),
    ),
    "compose, shell": (
        "compose.yaml",
        _service(
            "image: vllm/vllm-openai:v0.11.0\nentrypoint: [sh, -c]\n"
            'command: ["vllm serve Qwen/Qwen3-8B $$ARGS"]\nenvironment:\n  ARGS: "§"'
        ),
    ),
    "compose, environment in a list": (
        "compose.yaml",
        _service(
            "image: vllm/vllm-openai:v0.11.0\nentrypoint: sh -c 'vllm serve Qwen/Qwen3-8B $$ARGS'\n"
            'environment:\n  - "ARGS=§"'
        ),
    ),
    "bash -c, double quotes": ("a.sh", 'bash -c "vllm serve Qwen/Qwen3-8B §"'),
    "bash -c, single quotes": ("a.sh", "bash -c 'vllm serve Qwen/Qwen3-8B §'"),
    "bash -lc, escaped": ("a.sh", 'bash -lc "vllm serve \\"Qwen/Qwen3-8B\\" §"'),
    "ssh": ("a.sh", 'ssh gpu1 "cd /srv && vllm serve Qwen/Qwen3-8B § > log 2>&1 &"'),
    "docker run": ("a.sh", "docker run --gpus all vllm/vllm-openai:v0.11.0 --model Qwen/Qwen3-8B §"),
    "docker run, sh -c": (
        "a.sh",
        "docker run --gpus all --entrypoint bash vllm/vllm-openai:v0.11.0 -c \\\n  'vllm serve Qwen/Qwen3-8B §'",
    ),
    "variable": ("a.sh", 'ARGS="§"\nvllm serve Qwen/Qwen3-8B $ARGS'),
    "variable with a default": ("a.sh", 'ARGS="${ARGS:-§}"\nvllm serve Qwen/Qwen3-8B $ARGS'),
    "variable added to": ("a.sh", 'ARGS="--dtype auto"\nARGS="$ARGS §"\nvllm serve Qwen/Qwen3-8B ${ARGS}'),
    "array": ("a.sh", 'ARGS=(\n  --dtype auto\n  §\n)\nvllm serve Qwen/Qwen3-8B "${ARGS[@]}"'),
    "exported": ("a.sh", "export ARGS='§'\nexec bash -c 'vllm serve Qwen/Qwen3-8B $ARGS'"),
    "make": ("Makefile", "ARGS := §\nserve:\n\tbash -c 'vllm serve Qwen/Qwen3-8B $(ARGS)'"),
    "make, in quotes": ("Makefile", 'serve:\n\tbash -c "vllm serve Qwen/Qwen3-8B §"'),
    "systemd": ("a.service", "[Service]\nExecStart=/bin/bash -c 'vllm serve Qwen/Qwen3-8B §'"),
    "systemd, Environment": (
        "a.service",
        '[Service]\nEnvironment="ARGS=§"\nExecStart=/usr/bin/vllm serve Qwen/Qwen3-8B $ARGS',
    ),
    "Dockerfile, exec form": ("Dockerfile", 'FROM vllm/vllm-openai:v0.11.0\nCMD ["--model", "Qwen/Qwen3-8B", §"]'),
    "Dockerfile, sh -c": (
        "Dockerfile",
        'FROM vllm/vllm-openai:v0.11.0\nENTRYPOINT ["sh", "-c", "vllm serve Qwen/Qwen3-8B §"]',
    ),
    "Dockerfile, ENV": (
        "Dockerfile",
        'FROM vllm/vllm-openai:v0.11.0\nENV ARGS="§"\nENTRYPOINT vllm serve Qwen/Qwen3-8B $ARGS',
    ),
    "GitHub": (
        "a.yaml",
        'on: push\nenv:\n  ARGS: "§"\njobs:\n  a:\n    runs-on: gpu\n    steps:\n'
        "      - run: vllm serve Qwen/Qwen3-8B $ARGS &\n",
    ),
    "GitHub, expression": (
        "a.yaml",
        'on: push\nenv:\n  ARGS: "§"\njobs:\n  a:\n    runs-on: gpu\n    steps:\n'
        "      - run: bash -c 'vllm serve Qwen/Qwen3-8B ${{ env.ARGS }}'\n",
    ),
    "Jenkins": ("Jenkinsfile", "node { sh 'vllm serve Qwen/Qwen3-8B §' }"),
    "Jenkins, double quotes": ("Jenkinsfile", 'node { sh "nohup vllm serve Qwen/Qwen3-8B § &" }'),
    "Python, shell": (
        "a.py",
        'import subprocess\nsubprocess.Popen("exec vllm serve Qwen/Qwen3-8B §", shell=True)',
    ),
    "Python, split": (
        "a.py",
        "import os, shlex\nargs = shlex.split('vllm serve Qwen/Qwen3-8B §')\nos.execvp('vllm', args)",
    ),
    "Python, a list on several lines": (
        "a.py",
        'import subprocess\nsubprocess.run([\n    "vllm",\n    "serve",\n    "Qwen/Qwen3-8B",\n    ["§]\n])',
    ),
    "serve --config": ("a.yaml", "model: Qwen/Qwen3-8B\n§:-"),
}
"""§ stands for the flags: §" as items of a JSON array, §, of a YAML one, §- and §=- as items of a list, §:- as keys."""


def _written(text: str, flags: str) -> str:
    words = flags.split()
    pairs = list(zip(words[::2], words[1::2], strict=True))
    indent = "        "
    return (
        text.replace('["§]', "".join(f'"{word}",\n    ' for word in words).rstrip())
        .replace('§"]', ", ".join(f'"{word}"' for word in words) + "]" if '", §"' in text else f'{flags}"]')
        .replace("§,]", ", ".join(words[:1] + [f'"{word}"' if word.isdigit() else word for word in words[1:]]) + "]")
        .replace('"§=-"', f"\n{indent}- ".join(f'"{name}={value}"' for name, value in pairs))
        .replace("§=-", f"\n{indent}- ".join(f"{name}={value}" for name, value in pairs))
        .replace("§:-", "\n".join(f"{name[2:]}: {value}" for name, value in pairs))
        .replace("§-", f"\n{indent}- ".join(f'"{word}"' for word in words))
        .replace("§", flags)
    )


def _gate(folder: Path) -> Outcome:
    (outcome,) = gate([folder], Options(offline=True, gpu="L4", vllm_version="0.11.0"))
    return outcome


@pytest.mark.parametrize("flags", [SET, ADD], ids=["set", "add"])
@pytest.mark.parametrize("kind", FILES)
def test_the_diff_applies_and_mends_the_launch(kind, flags, tmp_path, monkeypatch):
    name, text = FILES[kind]
    (tmp_path / name).write_text(_written(text, flags).rstrip("\n") + "\n")
    monkeypatch.chdir(tmp_path)
    before = _gate(Path())
    assert (before.verdict, before.launch.model) == ("fail", "Qwen/Qwen3-8B"), before
    assert before.fix is not None
    assert before.fix.startswith("--- a/"), before.fix
    command = ["git", "apply", "--unidiff-zero", "-"]
    subprocess.run(command, input=before.fix, text=True, check=True, timeout=60)
    after = _gate(Path())
    assert after.verdict in ("pass", "warn"), f"{before.fix}\n{after.reasons}"
    assert set(after.launch.args) >= set(before.launch.args)


def test_flags_that_are_gone_are_left_out_all_of_them(tmp_path, monkeypatch):
    """As when a script of an old vLLM meets the newest."""
    flags = "--swap-space 4 --use-v2-block-manager --num-scheduler-steps 8"
    (tmp_path / "serve.sh").write_text(f"vllm serve Qwen/Qwen3-8B {flags} {SET}\n")
    monkeypatch.chdir(tmp_path)
    (outcome,) = gate([Path()], Options(offline=True, gpu="H100"))
    assert outcome.fix is not None
    subprocess.run(["git", "apply", "--unidiff-zero", "-"], input=outcome.fix, text=True, check=True, timeout=60)
    assert (tmp_path / "serve.sh").read_text() == "vllm serve Qwen/Qwen3-8B --max-model-len 40960 --seed 1\n"
    (outcome,) = gate([Path()], Options(offline=True, gpu="H100"))
    assert outcome.verdict == "pass"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "compose.yaml",
            "services:\n  a:\n    image: vllm/vllm-openai:v0.11.0\n    command: ['--model=Qwen/Qwen3-32B']\n",
        ),
        ("a.sh", "vllm serve Qwen/Qwen3-32B\n"),
        ("Makefile", "MODEL = Qwen/Qwen3-32B\nserve:\n\tvllm serve $(MODEL) --seed 1\n"),
    ],
)
def test_another_checkpoint_and_a_flag_in_one_fix(name, text, tmp_path, monkeypatch):
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    (before,) = gate([Path()], Options(offline=True, gpu="L4", gpus=2, vllm_version="0.11.0"))
    assert before.fix is not None
    assert "Qwen3-32B-AWQ" in before.fix
    subprocess.run(["git", "apply", "--unidiff-zero", "-"], input=before.fix, text=True, check=True, timeout=60)
    (after,) = gate([Path()], Options(offline=True, gpu="L4", gpus=2, vllm_version="0.11.0"))
    assert after.verdict in ("pass", "warn")
    assert set(after.launch.args) > set(before.launch.args)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False], ids=["newline at the end", "none"])
@pytest.mark.parametrize("flags", [SET, ADD], ids=["set", "add"])
def test_the_ends_of_lines_are_those_of_the_file(flags, last, end, tmp_path, monkeypatch):
    text = f"#!/bin/sh{end}vllm serve Qwen/Qwen3-8B \\{end}  {flags}{end if last else ''}"
    (tmp_path / "serve.sh").write_bytes(text.encode())
    monkeypatch.chdir(tmp_path)
    fix = _gate(Path()).fix
    assert fix is not None
    subprocess.run(["git", "apply", "--unidiff-zero", "-"], input=fix.encode(), check=True, timeout=60)
    assert _gate(Path()).verdict in ("pass", "warn")
    assert (tmp_path / "serve.sh").read_bytes().count(b"\r\n") == (text.count("\n") if end == "\r\n" else 0)


@pytest.mark.parametrize("extra", ["", "        extraArgs: ['--seed', '1']\n"])
def test_nothing_is_written_behind_the_value_of_a_key_of_a_chart(extra, tmp_path, monkeypatch):
    text = "servingEngineSpec:\n  modelSpec:\n    - modelURL: Qwen/Qwen3-8B\n      repository: vllm/vllm-openai\n"
    (tmp_path / "values.yaml").write_text(f"{text}      vllmConfig:\n{extra}        maxModelLen: 40000\n")
    monkeypatch.chdir(tmp_path)
    fix = _gate(Path()).fix
    assert fix is not None
    assert ("+        extraArgs: ['--seed', '1', '--kv-cache-dtype', 'fp8']\n" in fix) == bool(extra)
    assert ("set --kv-cache-dtype fp8" in fix) == (not extra)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.sh", 'vllm serve Qwen/Qwen3-8B --download-dir "$SCRATCH/models\n'),  # a quote that nothing closes
        (
            "azure.yml",
            "variables: {model: Qwen/Qwen3-8B, length: 40960}\n"
            "jobs:\n- steps:\n  - bash: vllm serve $(model) --max-model-len $(length)\n",
        ),
    ],
)
def test_an_edit_that_does_not_mend_is_told_as_flags(name, text, tmp_path, monkeypatch):
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    outcome = _gate(Path())
    assert (outcome.verdict, outcome.fix) == ("fail", "set --kv-cache-dtype fp8\n")


@pytest.mark.parametrize("given", ["", "deploy", "deploy/serve.sh"])
def test_a_config_file_that_a_command_names_is_edited_wherever_the_gate_is_pointed_at(given, tmp_path, monkeypatch):
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "serve.sh").write_text("#!/bin/sh\nvllm serve --config conf.yaml\n")
    (tmp_path / "deploy" / "conf.yaml").write_text("model: Qwen/Qwen3-8B\nmax-model-len: 99999\n")
    monkeypatch.chdir(tmp_path)
    outcomes = gate([Path(given)], Options(offline=True, gpu="L4", vllm_version="0.11.0"))
    (fix,) = {outcome.fix for outcome in outcomes}
    assert fix is not None
    subprocess.run(["git", "apply", "--unidiff-zero", "-"], input=fix, text=True, check=True, timeout=60)
    after = gate([Path(given)], Options(offline=True, gpu="L4", vllm_version="0.11.0"))
    assert {outcome.verdict for outcome in after} <= {"pass", "warn"}
