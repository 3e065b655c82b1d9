"""A Flask app factory over the shop; each call sets telemetry up once more, as factories do."""

from __future__ import annotations

import json

from flask import Flask, request

import taskobs
from tests.live.apps.request_span import request_span
from tests.live.apps.shop import add


def create_app() -> Flask:
    """Make the app."""
    taskobs.init()
    taskobs.init()
    web = Flask(__name__)

    @web.get("/buy")
    def buy() -> str:  # pyright: ignore[reportUnusedFunction]
        with request_span(request.headers.get("traceparent")):
            return str(add.delay(1, 2).id)

    @web.get("/buy-many")
    def buy_many() -> str:  # pyright: ignore[reportUnusedFunction]
        return json.dumps([add.delay(1, 2).id for _ in range(100)])

    return web
