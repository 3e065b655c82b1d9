"""A FastAPI app that publishes a task that fails, and fails itself."""

from __future__ import annotations

from fastapi import FastAPI

from tests.live.apps.errors import fails_and_calls
from tests.live.apps.web_errors import TRACED, fail

web = FastAPI()
if TRACED:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    FastAPIInstrumentor.instrument_app(web)


@web.get("/boom")
async def boom() -> None:
    """Fail in the event loop."""
    fail()


@web.get("/boom-sync")
def boom_sync() -> None:
    """Fail in a thread of the pool."""
    fail()


@web.get("/buy")
async def buy() -> None:
    """Publish, and fail."""
    fails_and_calls.delay()
    fail()
