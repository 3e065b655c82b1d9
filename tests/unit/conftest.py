"""What unit tests share: an app without a worker, and the spans that it makes."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from celery import Celery

from tests.recording import PrivateApp, Recorder, instrumented


@pytest.fixture
def app() -> Generator[Celery]:
    """Give an app on a broker in memory, which nobody consumes from."""
    app = PrivateApp("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def spans() -> Generator[Recorder]:
    """Give the spans that Celery makes while the test runs."""
    recorder = Recorder()
    with instrumented(recorder):
        yield recorder
