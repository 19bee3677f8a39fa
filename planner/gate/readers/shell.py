"""Shell scripts, and Slurm's batch scripts with what they ask of it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from planner.gate.bash.walk import launches_in
from planner.gate.command import Context, slurm_gpus
from planner.gate.launch import Launch
from planner.gate.source import Lookup, Source


def read(source: Source, lookup: Lookup) -> Iterable[Launch]:
    """What the script starts, followed as bash would."""
    context = Context(source=source, lookup=lookup, line=1, end_line=len(source.lines))
    return launches_in(source.text, _with_directives(source.lines, context), 1)


_DIRECTIVE = re.compile(r"#SBATCH\s+(--[\w-]+|-[A-Z])[=\s]?\s*(\S+)")
_PER_NODE = ("--gres", "--gpus-per-node")


def _with_directives(lines: Iterable[str], context: Context) -> Context:
    """What a batch job asks Slurm for."""
    nodes, per_node, given = 1, False, False
    for line in lines:
        found = _DIRECTIVE.match(line)
        if found is None:
            continue
        option, value = found.groups()
        given = True
        if option in ("--nodes", "-N") and value.isdigit():
            nodes = int(value[:4])
        elif option in (*_PER_NODE, "--gpus", "-G"):
            context = slurm_gpus(option, value, context)
            per_node = option in _PER_NODE
    if not given:
        return context
    count = context.gpus
    here = count if per_node or count is None else count // nodes
    known = {"SLURM_JOB_NUM_NODES": str(nodes), "SLURM_NNODES": str(nodes)}
    if here is not None:
        known |= {"SLURM_GPUS_ON_NODE": str(here), "SLURM_GPUS_PER_NODE": str(here)}
    return context.with_(
        gpus=here * nodes if per_node and here is not None else count,
        gpus_here=here,
        environment={**context.environment, **known},
    )
