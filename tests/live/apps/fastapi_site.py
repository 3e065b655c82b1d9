"""A FastAPI app over the shop."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

import taskobs
from tests.live.apps.request_span import request_span
from tests.live.apps.shop import add


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    """Flush at the end: uvicorn ends by the signal it was sent, and no ``atexit`` hook runs."""
    session = taskobs.init()
    yield
    session.flush()


web = FastAPI(lifespan=lifespan)


@web.get("/buy", response_class=PlainTextResponse)
async def buy(request: Request) -> str:
    """Publish from the event loop."""
    with request_span(request.headers.get("traceparent")):
        return str(add.delay(1, 2).id)


@web.get("/buy-sync", response_class=PlainTextResponse)
def buy_sync(request: Request) -> str:
    """Publish from a thread of the pool."""
    with request_span(request.headers.get("traceparent")):
        return str(add.delay(1, 2).id)
