"""`vllm-fit gate`: files are found and read, their launches judged, the outcome printed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from planner.engine.version import parse_version
from planner.errors import InputError
from planner.gate import policy as policies
from planner.gate.judge import judge, unreadable
from planner.gate.launch import Launch
from planner.gate.lookups import judged_in_time
from planner.gate.outcome import Outcome
from planner.gate.policy import Policy, Rules
from planner.gate.readers import Reader, reader_of
from planner.gate.source import Lookup, Source, mentions, read, walk
from planner.hardware.catalogue import find_gpu
from planner.memory.budget import Estimate
from planner.request import Inputs


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says. InputError for a card or a version that is none."""

    gpu: str | None = None
    """Over the policy's defaults, not over what a file says."""
    gpus: int | None = None
    vllm_version: str | None = None
    policy: Path | None = None
    """None: looked for from the first path up."""
    unknown: str | None = None
    offline: bool = False
    timeout: float = 60.0
    """Seconds for all look-ups on the Hub together."""
    changed_since: str | None = None
    """A revision: only launches that are not as they were there."""

    def __post_init__(self) -> None:
        if self.gpu is not None:
            find_gpu(self.gpu)
        if self.vllm_version is not None:
            parse_version(self.vllm_version)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A launch, where it is and which rules it is judged by."""

    path: Path
    root: Path
    """What the file names may lie in it; where other files that hold words of the launch are named from."""
    launch: Launch
    number: int
    """Of the file's launches, from 0."""
    rules: Rules

    def with_texts(self, texts: Mapping[str, str]) -> Launch | None:
        """The same launch, were its file and those that it names to hold these texts; None where it is gone then."""
        reader, file = reader_of(self.path), self.launch.file
        sources = {name: Source(path=self.root / name, file=name, text=text) for name, text in texts.items()}
        own = replace(sources.pop(file), path=self.path) if file in sources else read(self.path, file)
        others = {Path(name).name: source for name, source in sources.items()}
        try:
            launches = list(reader.read(own, Lookup(root=self.root, within=others))) if reader is not None else []
        except InputError:
            return None
        return launches[self.number] if self.number < len(launches) else None


Collected = Found | Outcome
"""A launch to be judged, or the outcome of a file that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Other files in the place of those given: the same at an earlier revision."""

    paths: tuple[Path, ...]
    here: Path
    """Where the working folder is in it."""
    as_given: Callable[[Path], Path]
    """A file of the tree -> how the user would name it."""


def gate(paths: Sequence[Path], options: Options) -> list[Outcome]:
    """Every launch below these paths, judged, in the order of files and lines. InputError for a path not there."""
    if options.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported
    if options.changed_since is not None:
        from planner.gate.changed import changed_since

        return changed_since(paths, options, options.changed_since)
    return judged(collect(paths, options, policy_of(paths, options)), options)


def collect(paths: Sequence[Path], options: Options, policy: Policy, tree: Tree | None = None) -> list[Collected]:
    """Every launch below these paths (which are the tree's, where one is given), with its rules."""
    found: list[Collected] = []
    for path, root in walk(paths, lambda path: reader_of(path) is not None, tree.here if tree else None):
        given = tree.as_given(path) if tree else path
        found += _read(path, root, given, _rules(policy, given, options))
    return found


def judged(found: Sequence[Collected], options: Options, *, fixes: bool = True) -> list[Outcome]:
    """Their outcomes, in order."""
    judge_one = _judge if fixes else _judge_only
    outcomes = iter(judged_in_time([one for one in found if isinstance(one, Found)], judge_one, options.timeout))
    return [one if isinstance(one, Outcome) else next(outcomes) for one in found]


def _judge_only(found: Found) -> Outcome:
    return judge(found.launch, found.rules, lambda *_: None)


def _judge(found: Found) -> Outcome:
    def fix(launch: Launch, inputs: Inputs, estimate: Estimate, rules: Rules) -> str | None:
        from planner.gate.diff import diff
        from planner.gate.remedy import remedy

        known = remedy(launch, inputs, estimate, rules)
        return diff(found, known) if known is not None else None

    return judge(found.launch, found.rules, fix)


def policy_of(paths: Sequence[Path], options: Options) -> Policy:
    """The policy that is named, else the nearest vllm-fit.yaml above the first path, else an empty one."""
    if options.policy is not None:
        return policies.load(options.policy)
    first = paths[0]
    place = policies.find(first if first.is_dir() else first.parent)
    return policies.load(place) if place is not None else Policy(folder=Path.cwd())


def _rules(policy: Policy, path: Path, options: Options) -> Rules:
    given = {
        name: getattr(options, name)
        for name in ("gpu", "gpus", "vllm_version", "unknown")
        if getattr(options, name) is not None
    }
    return replace(policy.rules_for(path), **given)


def _read(path: Path, root: Path, given: Path, rules: Rules) -> Iterable[Collected]:
    reader: Reader | None = reader_of(path)
    if reader is None or path.name in policies.NAMES:
        return []
    file = given.as_posix()
    try:
        launches = list(reader.read(read(path, file), Lookup(root=root)))
    except InputError as error:
        # A file of this kind that has nothing to do with vLLM is none of the gate's business.
        return [unreadable(file, str(error), rules)] if mentions(path, reader.needs) else []
    return [
        Found(path=given, root=root, launch=launch, number=number, rules=rules)
        for number, launch in enumerate(launches)
    ]
