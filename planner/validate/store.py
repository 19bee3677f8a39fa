"""The results of validations in one SQLite file of the person's own: written as they come, whatever then happens."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import socket
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil

from planner.errors import InputError
from planner.files import data_folder
from planner.text import printable
from planner.validate.record import FINAL, Record, best_load

_SCHEMA_VERSION = 2
"""2: a digest of each run. A run of an earlier file has none and is believed."""
_WAIT_S = 30.0
"""For another process that writes."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    status TEXT NOT NULL,
    started TEXT NOT NULL,
    owner TEXT NOT NULL,
    model TEXT NOT NULL,
    device TEXT NOT NULL,
    record TEXT NOT NULL,
    digest TEXT
);
CREATE INDEX IF NOT EXISTS runs_by_key ON runs (key, status);
"""


def default_store() -> Path:
    """$XDG_DATA_HOME/vllm-fit/history.sqlite."""
    return data_folder() / "history.sqlite"


class Store:
    """A file of results; made when it is not there. InputError where it is no such file or cannot be used.

    Several processes and threads may use it at once: each call is a transaction of its own.
    """

    def __init__(self, path: Path | None = None, *, create: bool = True) -> None:
        self.path = default_store() if path is None else path
        self._empty = not create and (not self.path.exists() or self.path.stat().st_size == 0)
        if self._empty:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{printable(self.path.parent)}: cannot be made ({error.strerror})") from None
        with self._open() as database:
            self._prepare(database)

    def _prepare(self, database: sqlite3.Connection) -> None:
        # One statement, since another process may be making the file.
        found, tables = database.execute(
            "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
        ).fetchone()
        if found > _SCHEMA_VERSION:
            raise InputError(f"{printable(self.path)}: made by a newer vllm-fit; update, or pass another --store")
        if found == 0 and tables:
            raise InputError(f"{printable(self.path)}: another program's database; pass another --store")
        if found == 0:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")
        elif found == 1:
            database.execute("BEGIN IMMEDIATE")
            if database.execute("PRAGMA user_version").fetchone()[0] == 1:
                database.execute("ALTER TABLE runs ADD COLUMN digest TEXT")
                database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def add(self, record: Record) -> int:
        """A new run; its id."""
        columns = ("key", "status", "started", "owner", "model", "device", "record", "digest")
        text = json.dumps(record)
        values = {**record, "owner": _this_process(), "record": text, "digest": _digest(text)}
        with self._open() as database:
            marks = ", ".join("?" * len(columns))
            cursor = database.execute(
                f"INSERT INTO runs ({', '.join(columns)}) VALUES ({marks})", [values[name] for name in columns]
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def update(self, run: int, record: Record) -> None:
        """Replaces a run's record. Raises InputError where the history cannot be written."""
        with self._open() as database:
            text = json.dumps(record)
            database.execute(
                "UPDATE runs SET status = ?, record = ?, digest = ? WHERE id = ?",
                (record["status"], text, _digest(text), run),
            )

    def result(self, key: str) -> Record | None:
        """The last result of this launch that holds."""
        marks = ", ".join("?" * len(FINAL))
        found = self._select(f"WHERE key = ? AND status IN ({marks}) ORDER BY id DESC LIMIT 1", (key, *FINAL))
        return next(found, None)

    def get(self, run: int) -> Record | None:
        """The record of a run; None where there is none. Raises InputError where the history cannot be read."""
        return next(self._select("WHERE id = ?", (run,)), None) if 0 < run < 1 << 63 else None

    def runs(
        self,
        *,
        model: str | None = None,
        status: str | None = None,
        last: int | None = None,
        on_damage: Callable[[InputError], None] | None = None,
    ) -> list[Record]:
        """The oldest first. model: a part of its name. on_damage: told of each run that is damaged, which is left out;
        without it the first is raised."""
        found = [
            record
            for record in self._select("ORDER BY id", (), on_damage)
            if (model is None or model.lower() in record["model"].lower())
            and (status is None or record["status"] == status)
        ]
        return found[-last:] if last else found

    def _select(
        self, where: str, values: tuple[object, ...], on_damage: Callable[[InputError], None] | None = None
    ) -> Iterator[Record]:
        if self._empty:
            return
        with self._open() as database:
            database.text_factory = bytes
            rows = database.execute(f"SELECT id, owner, record, digest FROM runs {where}", values).fetchall()
        for row in rows:
            try:
                yield self._record(*row)
            except InputError as error:
                if on_damage is None:
                    raise
                on_damage(error)

    def _record(self, run: int, owner: bytes, text: bytes, digest: bytes | None) -> Record:
        try:
            if digest is not None and digest.decode() != _digest(text.decode()):
                raise ValueError("its text is not what was written")
            return _as_it_stands({"id": run, **json.loads(text)}, owner)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            take_out = shlex.join(["sqlite3", printable(self.path), f"DELETE FROM runs WHERE id = {run}"])
            raise InputError(
                f"{printable(self.path)}: run {run} is damaged ({printable(error, 100)}); take it out: {take_out}"
            ) from None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=_WAIT_S)) as database, database:
                yield database
        except sqlite3.Error as error:
            raise InputError(f"{printable(self.path)}: not usable as a history ({printable(error, 200)})") from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _this_process() -> str:
    return json.dumps([socket.gethostname(), os.getpid(), psutil.Process().create_time()])


def _as_it_stands(record: Record, owner: bytes) -> Record:
    """A run that its process can no longer end was interrupted."""
    if record["status"] != "running":
        return record
    host, pid, began = json.loads(owner)
    try:
        alive = host != socket.gethostname() or abs(psutil.Process(pid).create_time() - began) < 1
    except psutil.Error:
        alive = False
    return record if alive else {**record, "status": "interrupted"}


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """A run as one line of a table."""
    measurement = record["measurement"] or {}
    cache, load = measurement.get("kv_cache") or {}, best_load(record)
    return {
        "id": record.get("id"),
        "started": record["started"],
        "status": record["status"],
        "model": record["model"],
        "label": record["label"],
        "device": ", ".join(record["hardware"]["gpus"]) if record["device"] == "cuda" else "cpu",
        "way": record["way"],
        "vllm_version": record["versions"]["vllm"],
        "agrees": record["agrees"],
        "weights_bytes": (measurement.get("weights_bytes") or [None])[0],
        "kv_cache_tokens": cache.get("tokens"),
        "startup_s": round(measurement["startup_s"], 1) if measurement.get("startup_s") is not None else None,
        "concurrency": load["load"]["concurrency"] if load else None,
        "output_tokens_per_s": round(load["output_tokens_per_s"], 1) if load else None,
        "ttft_ms": round(load["ttft_ms"]["mean"], 1) if load else None,
        "error": (record["error"] or {}).get("message"),
    }
