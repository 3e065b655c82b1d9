"""The project's pages."""

from __future__ import annotations

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


urlpatterns = [path("buy", buy)]
