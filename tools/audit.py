"""Known vulnerabilities of the pinned dependencies, by pip-audit; says how many pins its index could judge at all.

usage: python tools/audit.py PIP_AUDIT REQUIREMENTS...        (`make audit`)
"""

from __future__ import annotations

import json
import subprocess
import sys


def main(command: str, files: list[str]) -> int:
    """0: nothing known, or no index to ask, which is said; 1: a pin has a known hole."""
    words = [word for file in files for word in ("-r", file)]
    ended = subprocess.run(
        [command, "--no-deps", "--disable-pip", "--format", "json", *words], capture_output=True, text=True, check=False
    )
    try:
        pins = json.loads(ended.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (ended.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"not audited: no index answers here ({reason})")
        return 0
    judged = [pin for pin in pins if "skip_reason" not in pin]
    print(f"{len(judged)} of {len(pins)} pins are known to the index that was asked")
    holes = [(pin, hole) for pin in judged for hole in pin["vulns"]]
    for pin, hole in holes:
        fixed = ", ".join(hole["fix_versions"]) or "none yet"
        print(f"{pin['name']} {pin['version']}: {hole['id']}, fixed in {fixed}")
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
