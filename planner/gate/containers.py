"""`docker run` and images: which serve vLLM by themselves, which vLLM is in them, what a container is given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.gate.launch import Word


@dataclass(frozen=True, kw_only=True)
class Run:
    """What `docker run` runs."""

    image: str
    arguments: tuple[Word, ...]
    """After the image."""
    entrypoint: Word | None
    environment: Mapping[str, str | None]
    gpus: int | None


def version_of(image: str) -> str | None:
    """vLLM's version from an image's tag ("vllm/vllm-openai:v0.11.0-x86_64" -> "0.11.0"); None where it says none.

    Tags of images that wrap vLLM (LMCache, llm-d, Dynamo, Red Hat's) are versions of something else.
    """
    name, tag = _split(image)
    if "vllm" not in name or any(word in name for word in _WRAPPERS):
        return None
    found = re.search(r"(?:^v?|[-_]v?|vllm[-_]v?)(0\.\d+(?:\.\d+)?)(?=$|[-._+a-z])", tag)
    return found[1] if found else None


def installed_version(texts: Sequence[str]) -> str | None:
    """The vLLM that a command installs: pip install vllm==0.11.0."""
    if "install" in texts or "add" in texts:
        for text in texts:
            pinned = re.fullmatch(r"vllm(?:\[[\w,-]+\])?==v?(\d+\.\d+(?:\.\d+)?)(?:[.+-]\w[\w.]*)?", text)
            if pinned:
                return pinned[1]
    return None


def serves(image: str) -> bool:
    """Whether the image's own entry point is vLLM's server, so that what follows are its arguments."""
    name, _ = _split(image)
    return bool(_SERVERS.search(name)) and "dynamo" not in name


def on_cpu(image: str) -> bool:
    """Whether it is a build of vLLM for CPUs."""
    return re.search(r"vllm(-\w+)*-cpu", _split(image)[0]) is not None


_WRAPPERS = ("lmcache", "llm-d", "dynamo")
_SERVERS = re.compile(r"vllm-openai|vllm-cpu|rhaiis/vllm|(^|/)vllm(-[\w.]+)*$")


def _split(image: str) -> tuple[str, str]:
    """(name with its registry, tag)"""
    path = image.partition("@")[0]
    folder, slash, last = path.rpartition("/")
    name, _, tag = last.partition(":")
    return f"{folder}{slash}{name}", tag


def run_of(words: Sequence[Word], inherited: Mapping[str, str | None]) -> Run | None:
    """`docker run OPTIONS IMAGE ARGUMENTS`, also podman and nerdctl, with `container run`; None for other commands."""
    index = 1
    while index < len(words) and words[index].text not in ("run", "create"):
        if not words[index].text.startswith("-") and words[index].text != "container":
            return None
        index += 1
    options = _Options(inherited)
    index = options.read(words, index + 1)
    if index >= len(words):
        return None
    return Run(
        image=words[index].text,
        arguments=tuple(words[index + 1 :]),
        entrypoint=options.entrypoint,
        environment=options.environment,
        gpus=options.gpus,
    )


class _Options:
    """The options of `docker run` that matter."""

    def __init__(self, inherited: Mapping[str, str | None]) -> None:
        self.inherited = inherited
        self.environment: dict[str, str | None] = {}
        self.entrypoint: Word | None = None
        self.gpus: int | None = None

    def read(self, words: Sequence[Word], index: int) -> int:
        """The index of the image."""
        while index < len(words):
            word = words[index]
            if word.text.startswith("--") and word.text != "--":
                index = self._long(words, index)
            elif word.text.startswith("-"):
                index = self._short(words, index)
            elif word.unknown is not None and word.text == word.unknown and index + 1 < len(words):
                if words[index + 1].text.startswith("-") and not _is_image(word.text):
                    index += 1  # "$DOCKER_OPTS": options, most likely
                else:
                    return index
            else:
                return index
        return index

    def _long(self, words: Sequence[Word], index: int) -> int:
        name, equals, value = words[index].text.partition("=")
        if name in _WITHOUT_VALUE:
            return index + 1
        if equals:
            self._take(name, Word(text=value, line=words[index].line, unknown=words[index].unknown))
            return index + 1
        if index + 1 < len(words):
            self._take(name, words[index + 1])
        return index + 2

    def _short(self, words: Sequence[Word], index: int) -> int:
        letters = words[index].text[1:]
        for at, letter in enumerate(letters):
            if letter in _SHORT_WITH_VALUE:
                rest = letters[at + 1 :].removeprefix("=")
                if rest:
                    self._take(f"-{letter}", Word(text=rest, line=words[index].line, unknown=words[index].unknown))
                    return index + 1
                if index + 1 < len(words):
                    self._take(f"-{letter}", words[index + 1])
                return index + 2
        return index + 1

    def _take(self, name: str, value: Word) -> None:
        if name in ("-e", "--env"):
            variable, equals, content = value.text.partition("=")
            known = content if equals and value.unknown is None else None
            self.environment[variable] = known if equals else self.inherited.get(variable)
        elif name == "--entrypoint":
            self.entrypoint = value if value.text else None
        elif name == "--gpus":
            self.gpus = _gpus(value.text)
        elif name == "--device" and re.match(r"nvidia\.com/gpu=\d", value.text):
            self.gpus = (self.gpus or 0) + 1


def _gpus(text: str) -> int | None:
    """2 for `2`, `"device=0,1"` and `count=2`; None for `all`."""
    text = text.strip("\"'")
    if text.isdigit():
        return int(text)
    devices = re.search(r"device=(.+)", text)
    if devices:
        return len([one for one in devices[1].split(",") if "=" not in one and one.strip("\"'")])
    count = re.search(r"count=(\d+)", text)
    return int(count[1]) if count else None


def _is_image(text: str) -> bool:
    return bool(re.search(r"image", text, re.IGNORECASE))


_WITHOUT_VALUE = frozenset(
    (
        "--detach --disable-content-trust --help --init --interactive --no-healthcheck --no-hosts --oom-kill-disable "
        "--privileged --publish-all --quiet --read-only --replace --rm --rmi --sig-proxy --tls-verify --tty "
        "--use-api-socket --rootfs --insecure-registry"
    ).split()
)
_SHORT_WITH_VALUE = frozenset("acehlmpuvw")
