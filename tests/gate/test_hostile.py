"""Input that means harm, through the whole gate: a clear line, bounded time and memory, nothing run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

VLLM = "vllm serve Qwen/Qwen3-4B --max-model-len 8192\n"
_MEMORY_BYTES = 3 << 30
"""Of address space: numpy and its threads reserve more than half of it by themselves."""


def _gate(folder: Path, *more: str) -> tuple[int, list[dict[str, Any]], str]:
    """(exit code, launches, standard error) of a process that may not take more memory or time."""
    command = [sys.executable, "-c", _LIMITED, "gate", "--offline", "--gpu", "L40S", "--format", "json", *more]
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)["launches"] if done.stdout else [], done.stderr


_LIMITED = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({_MEMORY_BYTES}, {_MEMORY_BYTES}))
from planner.cli import main
main(sys.argv[1:])
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of a process as POSIX has them")


def _bomb() -> str:
    lines = ["a: &a [vllm, vllm, vllm, vllm, vllm, vllm, vllm, vllm, vllm]"]
    for index in range(24):
        name, before = chr(98 + index), chr(97 + index)
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    return "\n".join(lines)


_HEAD = "apiVersion: v1\nkind: Pod\nspec:\n"
_HOSTILE: dict[str, tuple[str, bytes | str, str]] = {
    "a bomb of aliases": ("bomb.yaml", _bomb(), "holds more than"),
    "a bomb in a pod": (
        "bomb.yaml",
        _HEAD + "  x:\n" + "".join(f"    {line}\n" for line in _bomb().split("\n")),
        "more",
    ),
    "an alias within itself": ("cycle.yaml", "services: &a\n  vllm: *a\n", "within its own anchor"),
    "nested lists": ("deep.yaml", "vllm: " + "[" * 200_000, "levels deep"),
    "nested mappings": ("deep.yaml", "".join(f"{' ' * i}a:\n" for i in range(2_000)) + "# vllm", "levels deep"),
    "50 MB": ("large.yaml", "# vllm\n" + "x: [1, 2, 3]\n" * 4_200_000, "MiB"),
    "a hundred thousand keys": (
        "keys.yaml",
        "vllm: 1\n" + "".join(f"k{i}: {i}\n" for i in range(110_000)),
        "holds more than",
    ),
    "binary": ("binary.yaml", b"vllm serve\0\x01\x02\xff" * 1000, "binary"),
    "another encoding": ("latin.yaml", "vllm: \u00e9\u00e8\n".encode("latin-1"), "not UTF-8"),
    "a duplicate key": ("twice.yaml", "services:\n  vllm: {image: a, image: b}\n", "twice"),
    "tabs": ("tabs.yaml", "services:\n\tvllm:\n", "not YAML"),
    "a control character": ("control.yaml", "vllm: \x1b[31mred\n", "not YAML"),
}


@pytest.mark.parametrize("kind", _HOSTILE)
def test_a_hostile_file_is_one_clear_line_and_the_others_are_judged(kind, tmp_path):
    name, content, said = _HOSTILE[kind]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "serve.sh").write_text(VLLM)
    code, launches, _ = _gate(tmp_path)
    assert code == 1
    good, hostile = sorted(launches, key=lambda launch: launch["file"] == name)
    assert good["verdict"] == "pass"
    assert (hostile["verdict"], hostile["file"]) == ("unknown", name)
    (reason,) = hostile["reasons"]
    assert said in reason["message"]
    assert len(reason["message"]) < 400
    assert reason["message"].isprintable()


def test_hostile_files_without_anything_of_vllm_are_passed_over(tmp_path):
    for kind, (name, content, _) in _HOSTILE.items():
        data = content if isinstance(content, bytes) else content.encode()
        folder = tmp_path / kind.replace(" ", "-")
        folder.mkdir()
        (folder / name).write_bytes(data.replace(b"vllm", b"other"))
    code, launches, _ = _gate(tmp_path)
    assert [launch["file"] for launch in launches] == []
    assert code == 0


def test_links_out_of_the_tree_and_circles_of_folders(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.sh").write_text(VLLM)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.sh").symlink_to(outside / "secret.sh")
    (inside / "folder").symlink_to(outside)
    (inside / "circle").symlink_to(inside)
    (inside / "compose.yaml").write_text(
        "services:\n  vllm:\n    extends: {file: ../outside/base.yaml, service: vllm}\n"
        "    image: vllm/vllm-openai:v0.11.0\n    env_file: /etc/passwd\n    command: --config ../outside/c.yaml\n"
    )
    (outside / "c.yaml").write_text("model: Qwen/Qwen3-4B\n")
    _, launches, _ = _gate(inside)
    assert [(launch["file"], launch["verdict"]) for launch in launches] == [("compose.yaml", "unknown")]


def test_words_that_might_each_begin_a_command_are_not_tried_in_every_combination(tmp_path):
    line = "docker run -d --name vllm --restart unless-stopped --gpus 2 \\\n"
    (tmp_path / "serve.sh").write_text(
        line * 40 + "  vllm/vllm-openai:v0.11.0 --model Qwen/Qwen3-4B --max-model-len 8192\n"
    )
    (tmp_path / "sudo.sh").write_text("sudo env exec docker run -it sh -c " * 40 + VLLM)
    code, _, _ = _gate(tmp_path)
    assert code in (0, 1)


def test_an_environment_of_odd_names(tmp_path):
    (tmp_path / "Dockerfile").write_text(
        'FROM x\nENV 9=a ²=b 99999999=c\nENTRYPOINT ["sh", "-c", "' + VLLM.strip() + '"]\n'
    )
    code, launches, _ = _gate(tmp_path)
    assert (code, len(launches)) == (0, 1)


def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "null.sh").symlink_to("/dev/zero")
    (tmp_path / "serve.sh").write_text(VLLM)
    code, launches, _ = _gate(tmp_path)
    assert (code, len(launches)) == (0, 1)


def test_nothing_in_a_file_is_run_and_no_tag_makes_an_object(tmp_path):
    mark = tmp_path / "ran"
    (tmp_path / "tag.yaml").write_text(f"vllm: !!python/object/apply:os.system ['touch {mark}']\n")
    (tmp_path / "serve.sh").write_text(f"$(touch {mark})\nvllm serve `touch {mark}` --max-model-len $(touch {mark})\n")
    (tmp_path / "compose.yaml").write_text(
        f"services:\n  a:\n    image: vllm/vllm-openai:v0.11.0\n    command: --model $$(touch {mark}) `touch {mark}`\n"
    )
    _gate(tmp_path)
    assert not mark.exists()


_SECRET = "sk-neverPrinted123456"
_WITH_SECRETS = f"""\
apiVersion: v1
kind: Pod
metadata: {{name: vllm}}
spec:
  containers:
    - name: vllm
      image: vllm/vllm-openai:v0.11.0
      command: [sh, -c]
      args: ["vllm serve Qwen/Qwen3-32B --api-key {_SECRET} --hf-token={_SECRET} --max-model-len $LEN --seed $(KEY)"]
      env:
        - {{name: KEY, value: {_SECRET}}}
        - {{name: LEN, value: {_SECRET}}}
        - {{name: HF_TOKEN, value: {_SECRET}}}
"""


@pytest.mark.parametrize("form", ["text", "json", "junit", "sarif", "github", "markdown"])
def test_secrets_are_in_no_format(form, tmp_path):
    (tmp_path / "pod.yaml").write_text(_WITH_SECRETS)
    command = [sys.executable, "-m", "planner.cli", "gate", "--offline", "--gpu", "L40S", "--format", form, "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pod.yaml" in done.stdout
    assert _SECRET not in done.stdout + done.stderr


def test_links_that_lead_to_themselves(tmp_path: Path) -> None:
    (tmp_path / "loop.sh").symlink_to("loop.sh")
    (tmp_path / "a.sh").symlink_to("b.sh")
    (tmp_path / "b.sh").symlink_to("a.sh")
    (tmp_path / "serve.sh").write_text(VLLM)
    code, launches, _ = _gate(tmp_path)
    assert (code, [launch["file"] for launch in launches]) == (0, ["serve.sh"])


def test_a_dockerfile_with_endless_nesting(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM vllm/vllm-openai:v0.33.0\nCMD " + "[" * 100_000 + "\n")
    (tmp_path / "serve.sh").write_text(VLLM)
    code, launches, err = _gate(tmp_path)
    assert code in (0, 1)
    assert "serve.sh" in [launch["file"] for launch in launches], err


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    """An env_file of a name too long for any file system is a file that is not there."""
    service = "services:\n  a:\n    image: vllm/vllm-openai:v0.11.0\n    command: --model Qwen/Qwen3-8B\n"
    (tmp_path / "compose.yaml").write_text(f"{service}    env_file: {'x' * 5000}\n", encoding="utf-8")
    _, launches, _ = _gate(tmp_path, ".")
    assert [launch["model"] for launch in launches] == ["Qwen/Qwen3-8B"]
