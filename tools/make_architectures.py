"""Write planner/engine/data/architectures.json: which vLLM knows which architecture, read off its model registries.

usage: python tools/make_architectures.py OUT.json VERSION=FOLDER [VERSION=FOLDER ...]
FOLDER holds a vllm/ package of that version (its Python files are enough; nothing in it is run).
"""

import ast
import json
import pathlib
import sys

REGISTRY = pathlib.Path("vllm/model_executor/models/registry.py")


def tables(folder: pathlib.Path) -> tuple[set[str], dict[str, str]]:
    """(architectures with a class of their own, {architecture that is gone: the last version that had it})."""
    known: set[str] = set()
    gone: dict[str, str] = {}
    for node in ast.parse((folder / REGISTRY).read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if not isinstance(target, ast.Name) or not isinstance(value, ast.Dict):
            continue
        keys = [key.value for key in value.keys if isinstance(key, ast.Constant)]
        if target.id == "_PREVIOUSLY_SUPPORTED_MODELS":
            gone = {key: ast.literal_eval(last) for key, last in zip(keys, value.values, strict=True)}
        elif target.id.endswith("_MODELS") and "OOT" not in target.id and "BACKEND" not in target.id:
            known.update(keys)
    return known, gone


def main() -> None:
    versions = dict(argument.split("=", 1) for argument in sys.argv[2:])
    ordered = sorted(versions, key=lambda version: tuple(map(int, version.split("."))))
    seen: dict[str, set[str]] = {}
    gone: dict[str, str] = {}
    for version in ordered:
        seen[version], gone = tables(pathlib.Path(versions[version]))
    not_yet: dict[str, str] = {}
    for architecture in sorted(set().union(*seen.values())):
        before = [v for v in ordered if all(architecture not in seen[w] for w in ordered[: ordered.index(v) + 1])]
        if before:
            not_yet[architecture] = before[-1]
    table = {"read": ordered, "not_yet_in": not_yet, "last_in": gone}
    text = json.dumps(table, indent=0, sort_keys=True)
    pathlib.Path(sys.argv[1]).write_text(text + "\n", encoding="utf-8")
    print(f"{len(not_yet)} architectures that came later than {ordered[0]}, {len(gone)} that went")


if __name__ == "__main__":
    main()
