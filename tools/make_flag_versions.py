"""Write planner/engine/data/flag_versions.json: which vLLM has which flag, read off its EngineArgs and its parser.

usage: python tools/make_flag_versions.py OUT.json VERSION=FOLDER [VERSION=FOLDER ...]
FOLDER holds a vllm/ package of that version (its Python files are enough; nothing in it is run). Flags that the table
of make_engine_args.py lacks, since its version no longer has them or does not have them yet, are described here.
"""

import ast
import json
import pathlib
import re
import sys

FILES = ("vllm/engine/arg_utils.py", "vllm/entrypoints/openai/cli_args.py")
TABLE = pathlib.Path(__file__).parents[1] / "planner" / "engine" / "data" / "engine_args.json"
CLASSES = {"EngineArgs", "AsyncEngineArgs", "FrontendArgs", "BaseFrontendArgs"}
Flags = dict[str, dict[str, object]]


def flags_of(folder: pathlib.Path) -> Flags:
    """{name: how its value is read}: the fields of the classes of arguments, and what is added to a parser by name."""
    fields: Flags = {}
    added: Flags = {}
    for path in (folder / file for file in FILES if (folder / file).exists()):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name in CLASSES:
                for part in node.body:
                    if isinstance(part, ast.AnnAssign):
                        fields[ast.unparse(part.target)] = kind_of(ast.unparse(part.annotation))
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".add_argument"):
                action = next((ast.unparse(word.value) for word in node.keywords if word.arg == "action"), "")
                for word in node.args:
                    if isinstance(word, ast.Constant) and str(word.value).startswith("--"):
                        name = str(word.value)[2:].replace("-", "_")
                        added[name] = {"kind": "bool" if re.search("store_|Boolean", action) else "str"}
    return added | fields


def kind_of(annotation: str) -> dict[str, object]:
    """As make_engine_args.py has it."""
    plain = re.sub(r"^Optional\[(.*)\]$|^(.*?) \| None$", r"\1\2", annotation)
    if several := re.match(r"[Ll]ist\[(.*)\]$", plain):
        return {**kind_of(several[1]), "nargs": "+"}
    if plain in ("bool", "int", "float"):
        return {"kind": plain}
    return {"kind": "json" if re.match(r"[Dd]ict\b|\w+Config$", plain) else "str"}


def main() -> None:
    versions = dict(argument.split("=", 1) for argument in sys.argv[2:])
    ordered = sorted(versions, key=lambda version: tuple(map(int, version.split("."))))
    has = {version: flags_of(pathlib.Path(versions[version])) for version in ordered}
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    not_yet, gone, more = {}, {}, {}
    for name in sorted(set().union(*has.values())):
        having = [number for number, version in enumerate(ordered) if name in has[version]]
        if name not in table["engine"]:
            # What the table's own version has and the table lacks is a field without a flag, or another name of one.
            if name in table["server"] or name in has[table["vllm_version"]]:
                continue
            more[name] = {"flags": [f"--{name.replace('_', '-')}"], **has[ordered[having[-1]]][name]}
        if having[0] > 0:
            not_yet[name] = ordered[having[0] - 1]
        if having[-1] + 1 < len(ordered):
            gone[name] = ordered[having[-1] + 1]
    answer = {"read": ordered, "not_yet_in": not_yet, "gone_in": gone, "more": more}
    pathlib.Path(sys.argv[1]).write_text(json.dumps(answer, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{len(not_yet)} flags that came later than {ordered[0]}, {len(gone)} that went, {len(more)} described here")


if __name__ == "__main__":
    main()
