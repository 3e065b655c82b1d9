"""The pytest plugin: the fixture ``taskobs_telemetry``, its options and its marker.

pytest imports this module in every run, before coverage is measured and before the app is
imported. So it imports nothing of taskobs but this package, until a test asks for the fixture.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from taskobs.testing.sources.process import TestProcess
    from taskobs.testing.telemetry import Telemetry

_FIXTURE: Final = "taskobs_telemetry"
_MARKER: Final = "taskobs"
_STRICT: Final = "taskobs_strict"
_TIMEOUT: Final = "taskobs_timeout"
_process: Final = pytest.StashKey["TestProcess"]()
_telemetry: Final = pytest.StashKey["Telemetry"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the options."""
    strict = f"fail tests with {_FIXTURE} for Sentry events and lost runs that they don't ask for"
    group = parser.getgroup("taskobs")
    group.addoption("--taskobs-strict", action="store_true", default=False, help=strict)
    parser.addini(_STRICT, strict, type="bool", default=False)
    seconds = "seconds that taskobs_telemetry waits for tasks that a test has published (5)"
    parser.addini(_TIMEOUT, seconds, default="")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    told = f"{_MARKER}(strict=True, timeout=5): for this test, in the place of the options"
    config.addinivalue_line("markers", told)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the receiver, if a test has asked for it."""
    process = config.stash.get(_process, None)
    if process is not None:
        process.close()


@pytest.fixture
def taskobs_telemetry(request: pytest.FixtureRequest) -> Generator[Telemetry]:
    """Record the spans, Sentry events, metrics and log records of this test's tasks.

    Nothing leaves the process. See `taskobs.testing.Telemetry`.
    """
    with _process_of(request.config).recorded(timeout=_timeout(request.node)) as telemetry:
        request.node.stash[_telemetry] = telemetry
        yield telemetry


def _process_of(config: pytest.Config) -> TestProcess:
    from taskobs.testing.sources import process

    if _process not in config.stash:
        config.stash[_process] = process.TestProcess()
    return config.stash[_process]


@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Fail a strict test that has passed, but did not ask for all events and lost runs."""
    if not _is_strict(item):
        return
    telemetry = item.stash.get(_telemetry, None)  # not `funcargs`: `getfixturevalue()` is not there
    if telemetry is not None:
        telemetry.check_all_asked_for()
    elif _given(item, "strict"):
        pytest.fail(
            f"a test that is marked {_MARKER}(strict=True) must use {_FIXTURE}", pytrace=False
        )


def _is_strict(item: pytest.Item) -> bool:
    given = _given(item, "strict")
    if given is None:
        given = item.config.getoption("--taskobs-strict") or item.config.getini(_STRICT)
    return bool(given)


def _timeout(item: pytest.Item) -> float:
    given = _given(item, "timeout")
    if given is None:
        given = item.config.getini(_TIMEOUT) or 5
    with suppress(ValueError):
        seconds = float(str(given))
        if 0 <= seconds < inf:
            return seconds
    raise pytest.UsageError(
        f"{_TIMEOUT} is {given!r}, which is no number of seconds. Write for example: 5"
    )


def _given(item: pytest.Item, name: str) -> object:
    marker = item.get_closest_marker(_MARKER)
    if marker is None:
        return None
    if marker.args or not marker.kwargs.keys() <= {"strict", "timeout"}:
        # A misspelt one would be a test that is not strict, and does not say so.
        given = [
            *map(repr, marker.args),
            *(f"{key}={value!r}" for key, value in marker.kwargs.items()),
        ]
        raise pytest.UsageError(
            f"the marker is {_MARKER}({', '.join(given)}). Write for example: "
            f"{_MARKER}(strict=True, timeout=5)"
        )
    return marker.kwargs.get(name)
