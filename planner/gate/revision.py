"""The files of an earlier revision, as git has them: what --changed-since compares with."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from planner.errors import InputError
from planner.gate.source import MAX_BYTES
from planner.text import printable

_TIMEOUT_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A commit of the repository that some paths lie in."""

    top: Path
    """The repository's folder."""
    name: str
    """As the user wrote it."""
    commit: str

    @classmethod
    def of(cls, paths: Sequence[Path], name: str) -> Revision:
        """Where the work on HEAD left `name` (their merge base), so that what `name` has got since then is no change.

        In a shallow clone without the merge base: `name` itself. InputError where there is no such revision here.
        """
        first = paths[0]
        folder = first if first.is_dir() else first.parent
        top = Path(_text(folder, "rev-parse", "--show-toplevel"))
        commit = _optional(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        if commit is None:
            raise InputError(f"--changed-since {printable(name)}: {_missing(top)}")
        base = _optional(top, "merge-base", commit, "HEAD")
        return cls(top=top, name=name, commit=base or commit)

    @contextmanager
    def files(self, paths: Sequence[Path], wanted: Callable[[str], bool]) -> Iterator[Path]:
        """A folder with those files of the revision below these paths whose names are wanted, where they lay."""
        with tempfile.TemporaryDirectory(prefix="vllm-fit-") as folder:
            root = Path(folder).resolve()
            self._write(root, [entry for entry in self._entries(paths) if wanted(PurePosixPath(entry.path).name)])
            yield root

    def has(self, path: Path) -> bool:
        """Whether a file has the same bytes there."""
        listed = _run(self.top, "ls-tree", "-z", "--full-tree", self.commit, "--", str(self.place(path)))
        blob = listed.partition(b"\t")[0].split()[-1].decode("ascii") if listed else ""
        return bool(blob) and blob == _blob(path, "sha256" if len(blob) == 64 else "sha1")

    def place(self, path: Path) -> PurePosixPath:
        """A path as the repository names it. InputError for one outside of it."""
        real = path.resolve()
        if not real.is_relative_to(self.top.resolve()):
            raise InputError(f"--changed-since: {printable(path)} lies outside of the repository {printable(self.top)}")
        return PurePosixPath(real.relative_to(self.top.resolve()).as_posix())

    def _entries(self, paths: Sequence[Path]) -> list[_Entry]:
        places = [str(self.place(path)) for path in paths]
        listed = _run(self.top, "ls-tree", "-r", "-l", "-z", "--full-tree", self.commit, "--", *places)
        return [entry for line in listed.split(b"\0") if line and (entry := _entry(line)) is not None]

    def _write(self, root: Path, entries: Sequence[_Entry]) -> None:
        """One process of git gives all of them."""
        asked = "".join(f"{entry.blob}\n" for entry in entries).encode()
        given = _run(self.top, "cat-file", "--batch", stdin=asked)
        at = 0
        for entry in entries:
            at = given.index(b"\n", at) + 1
            path = root / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(given[at : at + entry.size])
            at += entry.size + 1


@dataclass(frozen=True, kw_only=True)
class _Entry:
    path: str
    blob: str
    size: int


def _entry(line: bytes) -> _Entry | None:
    """An ordinary file that is not too large to be read; None for links, submodules and the rest."""
    facts, _, name = line.partition(b"\t")
    mode, _, blob, size = facts.split()
    path = os.fsdecode(name)
    parts = PurePosixPath(path).parts
    if not mode.startswith(b"100") or int(size) > MAX_BYTES or ".." in parts or path.startswith("/"):
        return None
    return _Entry(path=path, blob=blob.decode("ascii"), size=int(size))


def _blob(path: Path, algorithm: str) -> str:
    """git's name for a file's content."""
    digest = hashlib.new(algorithm, b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _missing(top: Path) -> str:
    if _optional(top, "rev-parse", "--is-shallow-repository") == "true":
        return (
            "no such revision in this clone, which is shallow; fetch it first (git fetch --depth=1 origin REV, or "
            "fetch-depth: 0 in actions/checkout, GIT_DEPTH: 0 in GitLab)"
        )
    return "no such revision in this repository"


def _text(folder: Path, *arguments: str) -> str:
    return os.fsdecode(_run(folder, *arguments)).rstrip("\n")


def _optional(folder: Path, *arguments: str) -> str | None:
    """What git prints; None where it says no."""
    done = _git(folder, arguments, b"")
    return os.fsdecode(done.stdout).strip() if done.returncode == 0 else None


def _run(folder: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    done = _git(folder, arguments, stdin)
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        said = printable(lines[0].removeprefix("fatal: ")) if lines else f"exit code {done.returncode}"
        raise InputError(f"--changed-since: git {arguments[0]}: {said}")
    return done.stdout


def _git(folder: Path, arguments: Sequence[str], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    # No prompt, no lock, no path magic, and no hook or pager: nothing of the repository is run.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_LITERAL_PATHSPECS": "1"}
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            input=stdin,
            capture_output=True,
            env=environment,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise InputError("--changed-since needs git, which is not installed") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"--changed-since: git {arguments[0]} took more than {_TIMEOUT_SECONDS} s") from None
