"""--changed-since REV: only the launches that changed, and what the change did to each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path

from planner.engine.args import flag_of
from planner.errors import InputError, Reason
from planner.gate import policy as policies
from planner.gate.launch import Launch
from planner.gate.outcome import Outcome
from planner.gate.readers import READERS
from planner.gate.revision import Revision
from planner.gate.run import Collected, Options, Tree, collect, judged, policy_of
from planner.text import printable, shown


def changed_since(paths: Sequence[Path], options: Options, name: str) -> list[Outcome]:
    """The outcome of every launch that is not as it was at a revision, with a reason that says what changed."""
    revision = Revision.of(paths, name)
    policy = policy_of(paths, options)
    now = [one for one in collect(paths, options, policy) if not _is_unread(one, revision)]
    there = [path for path in paths if path.exists()]
    policy_file = [policy.path] if policy.path is not None else []
    with revision.files([*there, *policy_file], _is_wanted) as folder:
        tree = _old_tree(there, revision, folder)
        old = collect([path for path in tree.paths if path.exists()], options, policy, tree)
        same_rules = _same_policy(policy, revision, folder)
        pairs = list(_pairs(old, now, keep_equal=not same_rules))
        before = judged([one for _, one in pairs if one is not None], options, fixes=False)
    after = judged([new for new, _ in pairs], options)
    known = iter(before)
    return [
        _with_change(outcome, next(known) if earlier is not None else None, revision.name, same_rules=same_rules)
        for outcome, (_, earlier) in zip(after, pairs, strict=True)
    ]


def _is_unread(one: Collected, revision: Revision) -> bool:
    """A file that cannot be read, now as then: too large, not text."""
    return isinstance(one, Outcome) and revision.has(Path(one.launch.file))


def _is_wanted(name: str) -> bool:
    """Files that hold launches, and those that such files name: variables, configs, scripts without an ending."""
    return "." not in name.lstrip(".") or ".env" in name or any(reader.files.search(name) for reader in READERS)


def _old_tree(paths: Sequence[Path], revision: Revision, folder: Path) -> Tree:
    places = {folder / revision.place(path): path for path in paths}

    def as_given(path: Path) -> Path:
        found = next((place for place in places if path == place or place in path.parents), None)
        return places[found] / path.relative_to(found) if found is not None else path

    try:
        here = folder / revision.place(Path.cwd())
    except InputError:
        here = folder
    return Tree(paths=tuple(places), here=here, as_given=as_given)


# --- which launch was which -------------------------------------------------------------------------------------------


def _pairs(
    old: Sequence[Collected], now: Sequence[Collected], *, keep_equal: bool
) -> Iterator[tuple[Collected, Collected | None]]:
    """(a launch that changed, what it was before); None: it is new."""
    left = _by_file(old)
    remaining: list[tuple[Collected, Collected | None]] = []
    for one in now:
        candidates = left.get(one.launch.file, [])
        equal = next((candidate for candidate in candidates if _means(candidate.launch) == _means(one.launch)), None)
        if equal is not None:
            candidates.remove(equal)
        remaining.append((one, equal))
    for one, equal in remaining:
        if equal is not None:
            if keep_equal:
                yield one, equal
            continue
        candidates = left.get(one.launch.file, [])
        best = max(candidates, key=lambda candidate: _likeness(candidate.launch, one.launch), default=None)
        if best is not None:
            candidates.remove(best)
        yield one, best


def _by_file(found: Iterable[Collected]) -> dict[str, list[Collected]]:
    files: dict[str, list[Collected]] = {}
    for one in found:
        files.setdefault(one.launch.file, []).append(one)
    return files


def _means(launch: Launch) -> tuple[object, ...]:
    """Everything of a launch but where it stands."""
    facts = (launch.model, launch.gpu, launch.gpus, launch.version, launch.usage, launch.refusal)
    problem = None if launch.problem is None else launch.problem.partition(": ")[2] or launch.problem
    return (*facts, problem, repr(sorted(launch.args.items())), repr(sorted(launch.environment.items())))


def _likeness(one: Launch, other: Launch) -> float:
    words, others = ([word.text for word in launch.words] for launch in (one, other))
    same = SequenceMatcher(None, words, others, autojunk=False).ratio()
    return float(same + (one.model == other.model) + (one.gpu == other.gpu) / 2)


# --- what changed -----------------------------------------------------------------------------------------------------


def _with_change(outcome: Outcome, before: Outcome | None, revision: str, *, same_rules: bool) -> Outcome:
    nothing = "nothing that its memory depends on" if same_rules else "the policy"
    what = "new" if before is None else "; ".join(_differences(before, outcome)) or nothing
    reason = Reason(code="changed", message=f"since {printable(revision)}: {what}")
    return replace(outcome, reasons=(*outcome.reasons, reason), change=_change(before, outcome))


def _change(before: Outcome | None, after: Outcome) -> dict[str, object]:
    """For programs."""
    return {
        "verdict": [before.verdict if before is not None else None, after.verdict],
        "kv_tokens": [before.kv_tokens if before is not None else None, after.kv_tokens],
    }


def _differences(before: Outcome, after: Outcome) -> Iterator[str]:
    """Effects first, then causes."""
    if before.kv_tokens != after.kv_tokens:
        yield f"KV tokens {_tokens(before)} → {_tokens(after)}"
    if before.verdict != after.verdict:
        yield f"{before.verdict} → {after.verdict}"
    old, new = before.launch, after.launch
    for what, one, other in (
        ("model", old.model, new.model),
        ("GPU", before.gpu or old.gpu, after.gpu or new.gpu),
        ("GPUs", old.gpus, new.gpus),
        ("vLLM", old.version, new.version),
    ):
        if one != other:
            yield f"{what} {_shown(one)} → {_shown(other)}"
    for name in sorted({*old.args, *new.args}):
        if old.args.get(name) != new.args.get(name):
            yield f"{_flag(name)} {_shown(old.args.get(name))} → {_shown(new.args.get(name))}"
    for name in sorted({*old.environment, *new.environment}):
        if old.environment.get(name) != new.environment.get(name):
            yield f"{name} {_shown(old.environment.get(name))} → {_shown(new.environment.get(name))}"


def _tokens(outcome: Outcome) -> str:
    return "none" if outcome.kv_tokens is None else f"{outcome.kv_tokens:,}"


def _shown(value: object) -> str:
    return "unset" if value is None else printable(value, 80) if isinstance(value, str) else shown(value)


def _flag(name: str) -> str:
    try:
        return flag_of(name)
    except KeyError:
        return name


def _same_policy(policy: policies.Policy, revision: Revision, folder: Path) -> bool:
    if policy.path is None:
        return True
    try:
        before = folder / revision.place(policy.path)
    except InputError:  # it lies outside of the repository
        return True
    return before.is_file() and before.read_bytes() == policy.path.read_bytes()
