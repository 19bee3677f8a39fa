"""A Hugging Face Hub on 127.0.0.1, as much of it as the client needs, and a way to ask it in a process of its own.

huggingface_hub reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE when it is imported, so each test asks in a new process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_a_token_that_is_allowed"
_FILE = re.compile(r"/([^/]+/[^/]+|[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Hub:
    """The repositories, each a dict of files; `port` once it runs."""

    repos: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    broken: dict[str, int] = field(default_factory=dict)
    """Repositories that are answered with this HTTP status."""
    foreign: set[str] = field(default_factory=set)
    """Repositories that are answered without the Hub's headers, as a captive portal would."""
    requests: list[str] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Hub:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.server is not None
        self.server.shutdown()
        self.server.server_close()

    @property
    def endpoint(self) -> str:
        assert self.server is not None
        return f"http://127.0.0.1:{self.server.server_address[1]}"


def ask(
    home: Path, endpoint: str, calls: list[dict[str, Any]], before: tuple[str, ...] = (), **env: str
) -> list[dict[str, Any]]:
    """What each of `calls` gives in one new process: {"values": …} or {"error": sentence}.

    A call is {"load": model, …} for load_config or {"facts": repo, …} for hub_facts, with their keyword arguments.
    """
    kept = {key: value for key, value in os.environ.items() if not key.upper().startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [*before, sys.executable, "-c", _CHILD],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        timeout=120,
        env={**kept, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", **env},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "nothing of the client's own may reach the terminal"
    answers = json.loads(done.stdout)
    assert isinstance(answers, list)
    return answers


_CHILD = """
import json, sys, time
from planner.errors import InputError
from planner.model.checkpoint import hub_facts
from planner.model.source import load_config
answers = []
for call in json.load(sys.stdin):
    start = time.monotonic()
    try:
        if "load" in call:
            got = load_config(call.pop("load"), **call)
            answer = {"values": got.values, "quant": got.quant_config, "source": got.source.value}
            answer |= {"revision": got.revision, "name": got.name}
        else:
            facts = hub_facts(call.pop("facts"), **call)
            answer = {"facts": facts and {"bytes": facts.total_bytes, "parameters": facts.parameters}}
    except InputError as error:
        answer = {"error": str(error)}
    answers.append(answer | {"seconds": time.monotonic() - start})
print(json.dumps(answers))
"""


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            found = _FILE.fullmatch(self.path.partition("?")[0])
            if found is None:
                return self.refuse(404, "EntryNotFound")
            repo, revision, name = found.groups()
            authorization = self.headers.get("authorization", "")
            if authorization and authorization != f"Bearer {TOKEN}":
                self.send_response(401)
                self.send_header("X-Error-Message", "Invalid credentials in Authorization header")
                return self.close_answer()
            if repo in hub.broken:
                return self.refuse(hub.broken[repo], "")
            if repo not in hub.repos:
                # As the Hub does, which does not tell strangers what is private.
                return self.refuse(404 if authorization else 401, "RepoNotFound")
            if repo in hub.gated and not authorization:
                return self.refuse(401, "GatedRepo")
            if revision not in ("main", COMMIT):
                return self.refuse(404, "RevisionNotFound")
            if name not in hub.repos[repo]:
                return self.refuse(404, "EntryNotFound", commit=True)
            return self.give(hub.repos[repo][name], foreign=repo in hub.foreign, body=body)

        def refuse(self, status: int, code: str, *, commit: bool = False) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            if commit:
                self.send_header("X-Repo-Commit", COMMIT)
            self.close_answer()

        def close_answer(self) -> None:
            self.send_header("Content-Length", "0")
            self.end_headers()

        def give(self, content: bytes, *, foreign: bool, body: bool) -> None:
            etag = hashlib.sha1(content).hexdigest()
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
            if wanted:
                content = content[int(wanted[1]) : int(wanted[2]) + 1]
            self.send_response(206 if wanted else 200)
            if not foreign:
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{etag}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """Keep quiet."""

    return Handler
