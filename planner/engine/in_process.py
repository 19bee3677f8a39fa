"""vLLM's engine in a child process of its own, asked directly: exact internals, and a load without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from planner.engine import enginelog
from planner.engine.course import Course
from planner.engine.process import Session
from planner.engine.workplace import engine_args, environment, follow, model_folder

CHILD = Path(__file__).parent / "child" / "main.py"


def run(course: Course) -> None:
    """Gathers the child's events (planner/engine/child/main.py) until it is done."""
    spec, folder = course.spec, course.folder
    events_file, spec_file = folder / "events.jsonl", folder / "spec.json"
    events_file.touch()
    spec_file.write_text(json.dumps(_child_spec(course, events_file)), encoding="utf-8")
    new_events = follow(events_file)
    command = [str(spec.engine_python), str(CHILD), str(spec_file)]
    with Session(command, environment(spec, folder), cwd=folder, log=course.log) as session:
        while True:
            alive = course.wait(session)
            for event in map(json.loads, next(new_events)):
                if event["event"] == "progress":
                    course.say(event["text"])
                elif event["event"] == "error":
                    raise course.failure(session.exit_code(), enginelog.sentence(event["kind"], event["message"]))
                elif event["event"] == "done":
                    course.add(course.memory.event())
                    return
                else:
                    course.add(event)
                    if event["event"] == "ranks":
                        course.memory.mark("started", session.id)
            if not alive:
                raise course.failure(session.exit_code())


def _child_spec(course: Course, events_file: Path) -> dict[str, Any]:
    model, has_checkpoint = model_folder(course.spec, course.folder)
    args = {
        "skip_tokenizer_init": True,  # prompts are token ids
        **engine_args(course.spec, has_checkpoint),
        "model": str(model),
    }
    return {
        "events": str(events_file),
        "engine_args": args,
        "usage": course.spec.usage,
        "loads": [load.to_dict() for load in course.spec.loads],
    }
