"""A Django project in one file that publishes a task that fails, and fails itself."""

from __future__ import annotations

from typing import Any

import django  # type: ignore[import-untyped]  # it has no stubs here
from django.conf import settings  # type: ignore[import-untyped]  # as above
from django.core.wsgi import get_wsgi_application  # type: ignore[import-untyped]  # as above
from django.http import HttpRequest, HttpResponse  # type: ignore[import-untyped]  # as above
from django.urls import path  # type: ignore[import-untyped]  # as above

from tests.live.apps.web_errors import TRACED, fail

settings.configure(  # pyright: ignore[reportUnknownMemberType]  # as above
    SECRET_KEY="of a test",  # noqa: S106  # it guards nothing
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[],
)
if TRACED:
    from opentelemetry.instrumentation.django import DjangoInstrumentor

    DjangoInstrumentor().instrument()
django.setup()

from tests.live.apps.errors import fails_and_calls  # noqa: E402  # it calls taskobs.init()


def boom(_: HttpRequest) -> HttpResponse:
    """Fail."""
    fail()
    return HttpResponse()


def buy(_: HttpRequest) -> HttpResponse:
    """Publish, and fail."""
    fails_and_calls.delay()
    fail()
    return HttpResponse()


urlpatterns: list[Any] = [path("boom", boom), path("buy", buy)]
application = get_wsgi_application()
