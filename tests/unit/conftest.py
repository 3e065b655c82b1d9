"""Unit tests start no process."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
from collections.abc import Generator
from importlib.util import find_spec
from typing import Any

import pytest

from tests.support.fixtures import app, peer, receiver, spans
from tests.support.integrations import ask_git_once, import_missing_ones_once

__all__ = ["app", "peer", "receiver", "spans"]

# Stubs and servers of gRPC need the extra `grpc`.
collect_ignore_glob = [] if find_spec("grpc") else ["*_grpc.py"]


def made_again(record: logging.LogRecord) -> bool:
    """Let through all but the warning of an instrument that an earlier test has made.

    SDKs before 1.30 have it, where that test has set the process's meter provider, which stays.
    """
    return "has been created already" not in str(record.msg)


logging.getLogger("opentelemetry.sdk.metrics._internal").addFilter(made_again)


def pytest_configure() -> None:
    """Look for no garbage while the tests are imported: there is next to none."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave out of each later collection of garbage what the imports have made: it stays.

    And out of each later ``sentry_sdk.init()`` what it can't import, and what git says.
    """
    import_missing_ones_once()
    ask_git_once()
    gc.collect()
    gc.freeze()
    # Most of what a test leaves is gone with the next; to look through all of it took a tenth of
    # the time. What is about garbage collects it.
    gc.set_threshold(7_000, 10, 50)
    gc.enable()


@pytest.fixture(autouse=True)
def no_process() -> Generator[None]:
    """Fail a test that starts a process: such a test belongs into ``tests/process``."""
    start = subprocess.Popen.__init__

    def popen(self: Any, args: Any, *more: Any, **named: Any) -> None:
        # Sentry asks git for a release when it is initialised.
        assert list(args)[:1] == ["git"], f"starts {args}"
        start(self, args, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", popen)
        patch.setattr(os, "fork", refuse)
        patch.setattr(os, "posix_spawn", refuse)
        yield


def refuse(*_: object, **__: object) -> int:
    pytest.fail("starts a process")
