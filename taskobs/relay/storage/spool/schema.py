"""The tables and statements of a spool's file, and how it is opened and checked."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from taskobs.relay.storage.spool.destinations import DSN_DIGEST

APPLICATION_ID: Final = 0x7461_736B  # "task"
VERSION: Final = 2
_CACHE_KIB: Final = 512
_BUSY_TIMEOUT: Final = 2.0

SPAN: Final = 0
ENVELOPE: Final = 1
PARKED: Final = 2
LOG: Final = 3
"""The kind of a row; a parked one is an envelope that can't be sent anywhere yet."""
# One transaction, with the two numbers, which are in the file's header: after a kill, the file is
# empty or complete. ``about`` has each resource and destination once; items refer to its rows.
_TABLES: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE about (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, value BLOB NOT NULL);
CREATE TABLE item (
    id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, since REAL NOT NULL,
    about INTEGER NOT NULL, payload BLOB NOT NULL
);
CREATE INDEX item_by_kind ON item (kind, id);
CREATE TABLE start (
    key BLOB PRIMARY KEY, payload BLOB NOT NULL, about INTEGER NOT NULL, client BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE ended (id INTEGER PRIMARY KEY, key BLOB NOT NULL);
CREATE TABLE clock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    now REAL NOT NULL, boot TEXT NOT NULL, ticks REAL NOT NULL, wall REAL NOT NULL
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
COMMIT;
"""

WAITING: Final = """
SELECT count(*), coalesce(sum(length(payload)), 0), coalesce(max(id), 0) FROM item
WHERE kind = ? AND id > ?
"""
ADD_BLOB: Final = """
INSERT INTO about (digest, value) VALUES (?, ?)
ON CONFLICT (digest) DO UPDATE SET value = excluded.value
"""
ADD_ITEM: Final = "INSERT INTO item VALUES (?, ?, ?, ?, ?)"
ADD_START: Final = "INSERT OR REPLACE INTO start VALUES (?, ?, ?, ?)"
ADD_ENDED: Final = "INSERT INTO ended (key) VALUES (?)"
DROP_START: Final = "DELETE FROM start WHERE key = ?"
TRIM_ENDED: Final = "DELETE FROM ended WHERE id <= (SELECT max(id) FROM ended) - ?"
NEXT: Final = """
SELECT item.id, item.since, item.payload, about.value FROM item JOIN about ON about.id = item.about
WHERE item.kind = ? AND item.id > ?{but} ORDER BY item.id
"""
FIRST: Final = "SELECT min(id) FROM item WHERE kind = ? AND id > ?"
NEWEST: Final = "SELECT coalesce(max(id), 0) FROM item"
READ_CLOCK: Final = "SELECT now, boot, ticks, wall FROM {schema}.clock"
SET_CLOCK: Final = "INSERT OR REPLACE INTO clock VALUES (1, ?, ?, ?, ?)"
WEIGHTS: Final = "SELECT id, kind, since, length(payload) FROM item ORDER BY id"
STARTS: Final = """
SELECT start.key, start.payload, about.value, start.client
FROM start JOIN about ON about.id = start.about
"""
SWEEP_BLOBS: Final = """
DELETE FROM about WHERE id NOT IN (SELECT about FROM item UNION SELECT about FROM start)
"""
_OURS: Final = """
(SELECT ours.id FROM main.about ours JOIN old.about theirs ON theirs.digest = ours.digest
 WHERE theirs.id = it.about)
"""
TAKE_OVER: Final = (
    "INSERT OR IGNORE INTO main.about (digest, value) SELECT digest, value FROM old.about",
    f"""
    INSERT OR IGNORE INTO main.start
    SELECT it.key, it.payload, {_OURS}, it.client FROM old.start it
    """,  # noqa: S608  # all of it is written here
    "INSERT INTO main.ended (key) SELECT key FROM old.ended ORDER BY id",
)
"""Copies what is in the attached file ``old``, before its items."""
_SENDABLE: Final = f"""
(it.kind NOT IN ({ENVELOPE}, {PARKED}) OR it.about IN
 (SELECT id FROM old.about WHERE substr(value, 1, {DSN_DIGEST}) IN ({{dsns}})))
"""  # noqa: S608  # same
TAKE_OVER_ITEMS: Final = f"""
INSERT INTO main.item
SELECT it.id + ?, CASE it.kind WHEN {PARKED} THEN {ENVELOPE} ELSE it.kind END, it.since + ?,
 {_OURS}, it.payload
FROM old.item it WHERE {_SENDABLE} ORDER BY it.id
"""  # noqa: S608  # same
STAYS: Final = f"SELECT count(*) FROM old.item it WHERE NOT {_SENDABLE}"  # noqa: S608  # same
TOO_OLD_THERE: Final = "SELECT kind, count(*) FROM old.item WHERE since < ? GROUP BY kind"
TAKEN_OVER: Final = (
    "DELETE FROM old.start",
    "DELETE FROM old.ended",
    f"DELETE FROM old.item AS it WHERE {_SENDABLE}",  # noqa: S608  # same
    "DELETE FROM old.about WHERE id NOT IN (SELECT about FROM old.item)",
)
"""Takes out of the attached file what was copied."""
PARK: Final = f"UPDATE item SET kind = {PARKED} WHERE kind = {ENVELOPE}"  # noqa: S608  # same
CLAIM: Final = f"""
UPDATE item SET kind = {ENVELOPE} WHERE kind = {PARKED} AND about IN
(SELECT id FROM about WHERE substr(value, 1, {DSN_DIGEST}) = ?)
"""  # noqa: S608  # same
CLAIMABLE: Final = f"""
SELECT item.id, length(item.payload) FROM item JOIN about ON about.id = item.about
WHERE item.kind = {PARKED} AND substr(about.value, 1, {DSN_DIGEST}) = ? ORDER BY item.id
"""  # noqa: S608  # same
EMPTY: Final = (
    "DELETE FROM {schema}.item",
    "DELETE FROM {schema}.start",
    "DELETE FROM {schema}.ended",
    "DELETE FROM {schema}.about",
)
THEIR_STARTS: Final = """
SELECT it.key, it.payload, theirs.value, it.client
FROM old.start it JOIN old.about theirs ON theirs.id = it.about
"""


class NotASpoolError(Exception):
    """A file is another program's database, of another release, or damaged."""


def is_damage(error: Exception) -> bool:
    """Return whether an error means that a file is no spool, or a damaged one."""
    # SQLITE_CORRUPT and SQLITE_NOTADB are of this class itself; errors of a class below it say
    # nothing about the file: a full disk, a lock, a mistake of ours.
    return isinstance(error, NotASpoolError) or type(error) is sqlite3.DatabaseError


def connect(path: Path) -> sqlite3.Connection:
    """Open a spool, or make one of an empty file.

    Raises ``NotASpoolError`` or ``sqlite3.Error``; ``is_damage`` tells damage from other trouble.
    """
    # Without an isolation level, as the module would begin transactions by itself before each
    # INSERT. Several threads use the connection, one at a time: the store's lock sees to it.
    db = sqlite3.connect(
        path,
        timeout=_BUSY_TIMEOUT,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=32,
    )
    try:
        _prepare(db)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection) -> None:
    db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    if not _figure(db, "schema_version"):  # 0: a file without tables
        # Before the transaction: inside of one, SQLite does not change the journal mode.
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(_TABLES)
    else:
        _check(db)  # before WAL is set, which writes to the file: it may be another program's
        db.execute("PRAGMA journal_mode = WAL")
    # With WAL, a commit is then not synced: it survives a kill, and maybe not a power failure.
    db.execute("PRAGMA synchronous = NORMAL")


def _check(db: sqlite3.Connection) -> None:
    if _figure(db, "application_id") != APPLICATION_ID:
        raise NotASpoolError("it is another program's database")
    if _figure(db, "user_version") != VERSION:
        raise NotASpoolError("another release has written it")
    # ``quick_check`` skips the comparison of indexes with tables: it takes time linear in the file.
    problem = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    if problem != "ok":
        raise NotASpoolError(f"it is damaged: {problem}")


def _figure(db: sqlite3.Connection, pragma: str) -> int:
    return int(db.execute(f"PRAGMA {pragma}").fetchone()[0])
