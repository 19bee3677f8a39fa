"""A command line becomes launches: through wrappers (env, docker run, srun …) down to `vllm serve` and its arguments.

Readers of shell and of YAML both end here. Nothing is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from planner.engine.args import find_flag
from planner.errors import InputError
from planner.gate import containers
from planner.gate.arguments import Parsed, parsed
from planner.gate.launch import KEPT_ENVIRONMENT, Launch, Word, least, visible_devices
from planner.gate.source import Lookup, Source

Environment = Mapping[str, str | None]
"""Variables; None for one that is set to something the file does not say."""


class Budget:
    """How many commands of one file are looked into: docker run docker run … could be read in ever more ways. One of
    many words counts as several."""

    def __init__(self, commands: int = 5_000) -> None:
        self.left = commands

    def spend(self, file: str, words: int) -> None:
        """InputError when it is used up."""
        self.left -= 1 + words // _MANY_WORDS
        if self.left < 0:
            raise InputError(f"{file}: more commands within commands than are followed")


_MANY_WORDS = 50


@dataclass(frozen=True, kw_only=True)
class Context:
    """What is known around a command."""

    source: Source
    lookup: Lookup
    line: int
    """Where the launch begins: of the command, or of the container or service around it."""
    end_line: int
    environment: Environment = field(default_factory=dict)
    """What the command inherits."""
    image: str | None = None
    version: str | None = None
    """vLLM's, where something besides the image's tag says it."""
    gpu: str | None = None
    gpus: int | None = None
    gpus_here: int | None = None
    """Those that the machine of the script has, which nvidia-smi lists."""
    depth: int = 0
    """How many scripts and wrappers are around it."""
    in_container: bool = False
    """Whether these are words of `docker run`."""
    settle: bool = False
    """Whether line and end_line stay as they are, whatever lines a script inside takes."""
    budget: Budget = field(default_factory=Budget)
    """Shared by all of one file."""

    def with_(self, **changes: Any) -> Context:
        """A copy with other fields."""
        return replace(self, **changes)

    def deeper(self, environment: Environment | None = None) -> Context:
        """Inside one more wrapper, which sets these variables."""
        return replace(self, depth=self.depth + 1, environment={**self.environment, **(environment or {})})


MAX_DEPTH = 12
"""Wrappers within wrappers; real ones have about four (srun, docker run, bash -c, env)."""


def launches_of(words: Sequence[Word], context: Context) -> list[Launch]:
    """The vLLM launches that a command makes; none for any other command."""
    if not words or context.depth > MAX_DEPTH:
        return []
    context.budget.spend(context.source.file, len(words))
    handler = _handler(words[0])
    return handler(words, context) if handler is not None else []


def launch_of_image(words: Sequence[Word], context: Context) -> list[Launch]:
    """The launch of a container that gives only arguments (`args:`, compose `command:`) to the image's entry point."""
    found = launches_of(words, context) or _search(words, context)
    if found:
        return found
    name = context.image
    if name is not None and containers.serves(name):
        return [_launch(words, context)]
    if (name is None or "$" in name) and any(word.text.partition("=")[0] in _VLLM_FLAGS for word in words):
        return [_launch(words, context)]
    return []


_VLLM_FLAGS = frozenset(
    ("--max-model-len", "--tensor-parallel-size", "--gpu-memory-utilization", "--served-model-name")
)
"""Flags that give vLLM away where the image's name is not known."""


def kept(environment: Environment) -> dict[str, str]:
    """The variables that matter to a launch."""
    return {name: value for name, value in environment.items() if name in KEPT_ENVIRONMENT and value is not None}


# --- what may stand at the head of a command --------------------------------------------------------------------------

Handler = Callable[[Sequence[Word], Context], list[Launch]]


def _handler(word: Word) -> Handler | None:
    if word.unknown is not None and "/" not in word.text:
        return _search  # "$PYTHON -m vllm.entrypoints…"
    name = word.text.rpartition("/")[2]
    return next((handler for pattern, handler in _HEADS if pattern.fullmatch(name)), None)


def _vllm(words: Sequence[Word], context: Context) -> list[Launch]:
    version = words[0].text.partition("@")[2]
    if version:  # uvx vllm@0.11.0 serve
        context = context.with_(version=version)
    return [_launch(words[2:], context)] if len(words) > 1 and words[1].text == "serve" else []


def _python(words: Sequence[Word], context: Context) -> list[Launch]:
    for index, word in enumerate(words[1:-1], 1):
        following = words[index + 1]
        if word.text == "-c":
            from planner.gate.readers.python import code

            return code(following.text, context, following.line)
        if word.text == "-m":
            return _module(following.text, words[index + 2 :], context)
        if not word.text.startswith("-") and words[index - 1].text not in ("-X", "-W"):
            return []
    return []


def _module(name: str, words: Sequence[Word], context: Context) -> list[Launch]:
    if name in ("vllm.entrypoints.openai.api_server", "vllm.entrypoints.api_server"):
        return [_launch(words, context)]
    if name == "dynamo.vllm":
        return [_launch(_known_to_vllm(words), context)]
    if name in ("vllm", "vllm.entrypoints.cli.main", "vllm.scripts") and words and words[0].text == "serve":
        return [_launch(words[1:], context)]
    return []


def _known_to_vllm(words: Sequence[Word]) -> list[Word]:
    """Without the flags that Dynamo takes for itself."""
    kept_words: list[Word] = []
    foreign = False
    for word in words:
        if word.text.startswith("--"):
            foreign = find_flag(word.text.partition("=")[0].partition(".")[0]) is None
        if not foreign:
            kept_words.append(word)
    return kept_words


def _container(words: Sequence[Word], context: Context) -> list[Launch]:
    run = containers.run_of(words, context.environment)
    if run is None:  # docker exec, docker compose run: a command in a container that is described elsewhere
        elsewhere = any(word.text in ("exec", "compose") for word in words[1:3])
        return _search(words[2:], context.with_(version=None)) if elsewhere else []
    gpus = run.gpus if run.gpus is not None else context.gpus
    inside = replace(
        context,
        image=run.image,
        version=None,
        gpus=gpus,
        environment=run.environment,
        depth=context.depth + 1,
        in_container=True,
    )
    if run.entrypoint is not None:
        return launches_of([run.entrypoint, *run.arguments], inside) or _search(run.arguments, inside)
    return launch_of_image(run.arguments, inside)


def _shell(words: Sequence[Word], context: Context) -> list[Launch]:
    """bash -lc SCRIPT [NAME ARGUMENTS…]; a script's file is read for itself."""
    for index, word in enumerate(words[1:-1], 1):
        if re.fullmatch(r"-[a-zA-Z]*c[a-zA-Z]*", word.text):
            rest = [following for following in words[index + 1 :] if not re.fullmatch(r"[-+][a-zA-Z]+", following.text)]
            return _nested(rest[0], context, rest[1:]) if rest else []
        if not word.text.startswith(("-", "+")) and not words[index - 1].text.endswith("o"):
            return []
    return []


def _ssh(words: Sequence[Word], context: Context) -> list[Launch]:
    """ssh [options] HOST COMMAND…: the words are joined, and a shell reads them there."""
    index = 1
    while index < len(words) and words[index].text.startswith("-"):
        index += 2 if re.fullmatch(r"-[a-zA-Z]*[BbcDEeFIiJLlmOopQRSWw]", words[index].text) else 1
    command = words[index + 1 :]
    there = replace(context, environment={}, gpu=None, gpus=None, version=None)
    text = " ".join(word.text for word in command)
    return _nested(Word(text=text, line=command[0].line), there) if command else []


def _nested(script: Word, context: Context, arguments: Sequence[Word] = ()) -> list[Launch]:
    """The launches of a script in one word. arguments: its $0, $1 …"""
    from planner.gate.bash.walk import launches_in

    given: dict[str, str | None] = {"0": "sh"}
    given |= {str(i): None if word.unknown else word.text for i, word in enumerate(arguments)}
    return launches_in(script.text, context.deeper(given), script.line)


def _wrapper(words: Sequence[Word], context: Context) -> list[Launch]:
    """A command in front of another one, whose own options say where it runs."""
    return _search(words[1:], context)


def _search(words: Sequence[Word], context: Context) -> list[Launch]:
    """The first of these words that begins a launch; those before it set variables or say what the launch gets."""
    environment: dict[str, str | None] = {}
    for index, word in enumerate(words):
        text = word.text
        assigned = re.fullmatch(r"([A-Za-z_]\w*)=(.*)", text, re.DOTALL)
        if assigned:
            environment[assigned[1]] = None if word.unknown else assigned[2]
            continue
        following = words[index + 1].text if index + 1 < len(words) else ""
        context = _with_resources(text, following, context)
        script = text.removeprefix("--wrap=")
        if "vllm" in script and re.search(r"\s", script):
            return _nested(replace(word, text=script), context.deeper(environment))
        handler = None if text.startswith("-") or word.unknown else _handler(word)
        if handler is _container and context.in_container:
            continue  # not only unlikely: words of which each might be one would be tried in every combination
        if handler is not None and handler is not _wrapper and context.depth <= MAX_DEPTH:
            context.budget.spend(context.source.file, len(words) - index)
            found = handler(words[index:], context.deeper(environment))
            if found:
                return found
    if words and words[0].unknown and len(words) > 2 and words[1].text == "-m":
        return _module(words[2].text, words[3:], context.deeper(environment))
    return []


def _with_resources(option: str, following: str, context: Context) -> Context:
    """What srun, uv and their like say of the launch."""
    name, equals, value = option.partition("=")
    value = value if equals else following
    if option.startswith("docker://"):
        return context.with_(image=option.removeprefix("docker://"))
    if name == "--container-image":
        return context.with_(image=value)
    if name in ("--with", "--from") and re.match(r"vllm(\[.*\])?==", value):
        return context.with_(version=value.partition("==")[2])
    if name in ("--gres", "--gpus", "--gpus-per-node", "--gpus-per-task", "--gpus-per-job", "-G"):
        return slurm_gpus(name, value, context)
    return context


def slurm_gpus(option: str, value: str, context: Context) -> Context:
    """Slurm's `--gres=gpu:h100:4` and `--gpus=h100:4`: the card where it is named, and how many."""
    parts = value.split(",")[0].removeprefix("gpu:").split(":") if option == "--gres" else value.split(":")
    if option == "--gres" and not value.startswith("gpu"):
        return context
    count = parts[-1] if parts[-1].isdigit() else None
    name = parts[0] if len(parts) > 1 or count is None else None
    known = name if name and name != "gpu" and "$" not in name else None
    return context.with_(gpu=known or context.gpu, gpus=int(count) if count else context.gpus)


_WRAPPERS = (
    "accelerate apptainer builtin catchsegv chroot chrt command conda doas dumb-init entrypoint env exec flock gosu "
    "hatch ionice kubectl mamba micromamba mpiexec mpirun nice nohup nsys numactl oc pdm pipenv pixi poetry prlimit "
    "ray run runuser sbatch screen script setsid singularity srun start-stop-daemon stdbuf su su-exec sudo systemd-run "
    "systemd-inhibit taskset tini time timeout tmux torchrun unbuffer uv uvx watch xargs"
).split()
_HEADS: Sequence[tuple[re.Pattern[str], Handler]] = (
    (re.compile(r"vllm(@[\w.]+)?"), _vllm),
    (re.compile(r"python[\d.]*"), _python),
    (re.compile(r"docker|podman|nerdctl"), _container),
    (re.compile(r"(ba|da|z|k|a)?sh"), _shell),
    (re.compile(r"ssh"), _ssh),
    (re.compile("|".join(map(re.escape, _WRAPPERS))), _wrapper),
)


# --- the launch itself ------------------------------------------------------------------------------------------------


def _launch(words: Sequence[Word], context: Context) -> Launch:
    """A launch with these arguments of the server."""
    version = context.version or (containers.version_of(context.image) if context.image else None)
    read: Parsed = parsed(words, context.source, context.lookup, version)
    launch = Launch(
        file=context.source.file,
        line=context.line,
        end_line=context.end_line,
        model=read.model,
        args=read.args,
        environment=kept(context.environment),
        gpu=context.gpu,
        gpus=least(context.gpus, visible_devices(context.environment)),
        version=version,
        problem=read.problem,
        refusal=read.refusal,
        words=tuple(read.words),
    )
    on_cpu = read.args.get("device") == "cpu" or (context.image is not None and containers.on_cpu(context.image))
    return _on_cpu(launch) if on_cpu else launch


def _on_cpu(launch: Launch) -> Launch:
    """The CPU backend gets its KV cache by a variable, in GiB."""
    args = {name: value for name, value in launch.args.items() if name != "device"}
    space = launch.environment.get("VLLM_CPU_KVCACHE_SPACE", "")
    if space.isascii() and space.isdigit() and 0 < int(space) < 1 << 20:
        args.setdefault("kv_cache_memory_bytes", int(space) << 30)
    return launch.with_(gpu="cpu", gpus=None, args=args)
