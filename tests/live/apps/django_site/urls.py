"""The project's pages."""

from __future__ import annotations

import json
from typing import cast

from django.http import (  # type: ignore[import-untyped]  # it has no stubs here
    HttpRequest,
    HttpResponse,
)
from django.urls import path  # type: ignore[import-untyped]  # see above

from tests.live.apps.django_site.tasks import add
from tests.live.apps.request_span import request_span


def buy(request: HttpRequest) -> HttpResponse:
    """Publish."""
    headers = cast("dict[str, str]", request.META)  # pyright: ignore[reportUnknownMemberType]
    with request_span(headers.get("HTTP_TRACEPARENT")):
        return HttpResponse(str(add.delay(1, 2).id).encode())


def buy_many(request: HttpRequest) -> HttpResponse:
    """Publish a hundred tasks."""
    del request
    return HttpResponse(json.dumps([add.delay(1, 2).id for _ in range(100)]).encode())


urlpatterns = [path("buy", buy), path("buy-many", buy_many)]
