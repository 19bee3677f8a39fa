"""Running the command in this process, as a test does it."""

import os
import shutil

import pytest

from planner import cli


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `vllm-fit WORDS`."""
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def without_rights() -> tuple[str, ...]:
    """A command that takes root's right to write anywhere away; nobody else has it."""
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("root writes anywhere, and there is no setpriv to take that away")
    return (setpriv, "--bounding-set=-all", "--inh-caps=-all")
