"""A FastAPI app over the shop, which sets telemetry up when it starts, or at the first request."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

from tests.live.apps.late_setup import set_up_provider, set_up_sentry
from tests.live.apps.request_span import request_span
from tests.live.apps.shop import add, session

AT_START = os.environ["APP_SET_UP"] == "at the start"
done = False


def set_up() -> None:
    """Set telemetry up, once."""
    global done  # noqa: PLW0603  # of this process
    if not done:
        done = True
        set_up_provider()
        set_up_sentry()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    """Begin and end."""
    if AT_START:
        set_up()
    yield
    session.flush()


web = FastAPI(lifespan=lifespan)


@web.get("/buy", response_class=PlainTextResponse)
async def buy(request: Request) -> str:
    """Publish from the event loop."""
    set_up()
    with request_span(request.headers.get("traceparent")):
        return str(add.delay(1, 2).id)
