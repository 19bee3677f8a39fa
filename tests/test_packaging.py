"""The sdist and the wheel made of it: complete, and running in an environment of their own, far from this tree."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

from planner import __version__

ROOT = Path(__file__).parents[1]
PACKAGES = ("planner", "app", "reports", "hf_configs")
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {"PYTHONUTF8": "1"}

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("packaging")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, which thereby is complete too."""
    folder = tmp_path_factory.mktemp("dist")
    skip = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
    tree = shutil.copytree(ROOT, folder / "tree", ignore=skip)
    make = "import sys, setuptools.build_meta as backend; backend.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", make, folder], cwd=tree, env=CLEAN, check=True, stdout=subprocess.DEVNULL)
    (sdist,) = folder.glob("*.tar.gz")
    words: list[str | Path] = [
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
        sdist,
    ]
    subprocess.run([sys.executable, *words], env=CLEAN, check=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`vllm-fit` in a new environment; of this one it sees the dependencies alone."""
    folder = tmp_path_factory.mktemp("clean")
    venv.EnvBuilder(symlinks=True).create(folder)
    python = folder / "bin" / "python"
    words: list[str | Path] = ["-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, *words], env=CLEAN, check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "vllm-fit"


def told(command: Path, folder: Path, *words: str) -> str:
    ended = subprocess.run([command, *words], cwd=folder, env=CLEAN, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    there = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert there - packed == set()
    assert {name.split("/")[0] for name in packed} == {*PACKAGES, f"vllm_fit-{__version__}.dist-info"}
    assert {f"{package}/py.typed" for package in PACKAGES} <= packed


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    files = zipfile.ZipFile(wheel)
    metadata = message_from_string(files.read(f"vllm_fit-{__version__}.dist-info/METADATA").decode())
    assert (metadata["Name"], metadata["Version"]) == ("vllm-fit", __version__)
    assert "vllm-fit estimate" in str(metadata.get_payload())
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_it_runs_from_there(command: Path, tmp_path: Path) -> None:
    python = command.with_name("python")
    where = f"import {', '.join(PACKAGES)}; print({', '.join(f'{package}.__file__' for package in PACKAGES)})"
    places = subprocess.run([python, "-c", where], cwd=tmp_path, env=CLEAN, capture_output=True, text=True, check=True)
    assert all(place.startswith(str(command.parents[1])) for place in places.stdout.split())
    assert told(command, tmp_path, "--version").split()[-1] == __version__


def test_every_surface_has_its_data(command: Path, tmp_path: Path) -> None:
    llama = "meta-llama/Llama-3.1-8B-Instruct"
    assert llama in told(command, tmp_path, "models").splitlines()
    assert "H100" in told(command, tmp_path, "gpus")
    words = ("estimate", llama, "--gpu", "H100", "--input-len", "1000", "--output-len", "100", "--format", "json")
    answer = json.loads(told(command, tmp_path, *words))
    assert (answer["status"], "throughput" in answer) == ("fits", True)
    told(command, tmp_path, "fit", llama, "--gpu", "L4", "--gpus", "2", "-o", "plan.json")
    for form in ("html", "md", "json", "csv"):
        told(command, tmp_path, "report", "plan.json", "-o", f"fit.{form}")
        assert (tmp_path / f"fit.{form}").stat().st_size > 100
    assert told(command, tmp_path, "commands", "plan.json").startswith(("#", "vllm serve"))
    (tmp_path / "serve.sh").write_text(f"vllm serve {llama} --max-model-len 8192\n")
    assert "serve.sh" in told(command, tmp_path, "gate", "serve.sh", "--gpu", "H100", "--offline")
    shutil.copy(ROOT / "tests" / "logs" / "v0.33.0_started.log", tmp_path)
    assert "KV cache" in told(command, tmp_path, "explain-log", "v0.33.0_started.log", "--gpu", "H100-SXM-80GB")
    assert "median" in told(command, tmp_path, "fit-constants")
