"""What the page asks for, as JSON: the list, what has changed, one trace."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Final

from taskobs.view.page_data import issue_data, trace_data
from taskobs.view.serving.users import Users
from taskobs.view.storage.records import issue_of, log_of, span_of
from taskobs.view.storage.store import Found, Query, Store
from taskobs.view.traces import assemble

PAGE: Final = 100
"""Traces of one answer to a list."""
CHANGES: Final = 500
"""Traces of one answer about changes."""
LONGEST_WAIT: Final = 20.0
"""Seconds that a browser's request waits for what is new."""
INTERVAL: Final = 0.5
"""Seconds between two looks at whether the browser still asks."""


class Api:
    """Answers the requests of the page. Thread-safe."""

    def __init__(self, store: Store, users: Users) -> None:
        self._store = store
        self._users = users
        self.instance = secrets.token_hex(8)
        """Another one each time: by it a page sees that it talks to a new server."""
        self.refused = 0
        """Requests that sent what could not be read."""
        self.grpc = 0
        """Connections that began to speak gRPC."""

    def traces(self, options: Mapping[str, str]) -> dict[str, object]:
        """Return the traces that began last, or those that began before ``below``."""
        below = _number(options.get("below"))
        found = self._store.newest(_query(options), below=below, limit=PAGE)
        return self._answer(found)

    def changes(
        self, options: Mapping[str, str], is_asking: Callable[[], bool]
    ) -> dict[str, object]:
        """Return what has changed after the revision ``after``; wait for it ``wait`` seconds.

        It returns when the browser no longer asks, so that a closed one doesn't count as a user.
        """
        query, after = _query(options), _number(options.get("after")) or 0
        left = min(float(_number(options.get("wait")) or 0), LONGEST_WAIT)
        with self._users.browser():
            while True:
                found = self._store.changed(
                    query, after=after, limit=CHANGES, timeout=min(left, INTERVAL)
                )
                left -= INTERVAL
                if found.cursor > after or left <= 0 or not is_asking():
                    return self._answer(found)

    def trace(self, trace_id: str) -> dict[str, object] | None:
        """Return all that is kept of a trace; None if nothing is."""
        kept = self._store.trace(trace_id)
        if kept is None:
            return None
        summary, records = kept
        bodies = {
            kind: [record.body for record in records if record.kind == kind]
            for kind in ("span", "event", "log")
        }
        spans = assemble(map(span_of, bodies["span"]))
        return {
            "summary": summary,
            "trace": trace_data(spans[0]) if spans else None,
            "issues": [issue_data(issue_of(body)) for body in bodies["event"]],
            "logs": sorted(map(log_of, bodies["log"]), key=lambda line: line["seconds"]),
        }

    def identity(self) -> dict[str, object]:
        """Return what tells another ``taskobs view`` that this is one."""
        return {"program": "taskobs view", "instance": self.instance, "pid": os.getpid()}

    def _answer(self, found: Found) -> dict[str, object]:
        return {
            **asdict(found),
            "instance": self.instance,
            "totals": self._store.totals() | {"refused": self.refused, "grpc": self.grpc},
            "commands": [f"{one.name} ({one.pid})" for one in self._users.commands()],
        }


def _query(options: Mapping[str, str]) -> Query:
    return Query(options.get("q", ""), options.get("outcome", ""))


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
