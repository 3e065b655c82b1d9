"""Reads the clocks of servers: the date of an HTTP response."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Final
from urllib.parse import urlsplit

from taskobs.cli.doctor.asking.waiting import within_time
from taskobs.cli.doctor.evidence import Clock

_TIMEOUT: Final = 2.0
_HALF_A_SECOND: Final = 0.5


def clock_of(url: str) -> Clock | None:
    """Return the clock of an HTTP server; None if it does not say what time it is."""
    return within_time(lambda: _clock(url), None, 2 * _TIMEOUT)


def _clock(url: str) -> Clock | None:
    parts = urlsplit(url)
    server = parts.netloc.rpartition("@")[2]
    if parts.scheme not in {"http", "https"} or not server:
        return None
    # Of the root, without a path or credentials: any response has a date, also an error.
    request = urllib.request.Request(f"{parts.scheme}://{server}/", method="HEAD")  # noqa: S310  # checked above
    began = time.time()
    date = _date(request)
    now = (began + time.time()) / 2
    if date is None:
        return None
    with suppress(TypeError, ValueError):
        # A date has whole seconds: on average it is half a second old.
        ahead = parsedate_to_datetime(date).timestamp() + _HALF_A_SECOND - now
        return Clock(server, ahead)
    return None


def _date(request: urllib.request.Request) -> str | None:
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:  # noqa: S310  # as above
            return str(response.headers.get("Date") or "") or None
    except urllib.error.HTTPError as error:
        with error:
            return error.headers.get("Date")
    except (OSError, HTTPException, ValueError):
        return None
