#!/usr/bin/env bash
# Resolves tool.in and engine.in together, so that one environment holds both, and writes tool.txt (vllm-fit and its
# tests, any platform) and engine.txt (what the CPU engine needs beyond that). Pins already there are kept where they
# still fit; pass --upgrade, or --upgrade-package NAME, to move them. `make lock` provides uv and calls this.
set -euo pipefail
cd "$(dirname "$0")"

all=$(mktemp)
trap 'rm -f "$all"' EXIT
cat tool.txt engine.txt >"$all"

compile() {
    uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate "$@" >/dev/null
}

compile tool.in engine.in --overrides engine-overrides.in -o "$all" "$@"
compile tool.in -c "$all" --upgrade -o tool.txt
awk -F'==' 'NR == FNR { tool[$1]; next } !($1 in tool)' tool.txt "$all" |
    sed '/aarch64/s/ ;.*//' >engine.txt  # install.py installs engine.txt on that platform only
