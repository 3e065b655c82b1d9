"""The span of a publish without OpenTelemetry: what our provider and tracer would make of it.

It is encoded as it is, or made again by the process's tracer, with the same ids and times.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from taskobs import semconv
from taskobs.config.settings import Settings

if TYPE_CHECKING:
    from taskobs.observers.attributes import Attributes

_SDK: Final = "opentelemetry-sdk"
_STOCK: Final = "opentelemetry-instrumentation-celery"
_KNOWN_SDKS: Final = ("1.45.",)
"""Releases whose resource and flags are written here; those of others may differ."""
_FLAGS: Final = 3  # sampled, and the trace id is random
_PRODUCER: Final = 3  # `SpanKind`
_UNSET: Final = 0  # `StatusCode`
_UNNAMED: Final = "unknown_service"  # what the SDK calls a service that has no name
_DEFAULT_NAME: Final = "celery"


class PlainSpan:
    """A span of kind PRODUCER that begins a trace, with random ids."""

    def __init__(self, name: str, attributes: Attributes) -> None:
        self.name = name
        self.attributes = attributes
        self.ids = os.urandom(24).hex()
        """The trace id and the span id."""
        self.start_time = time.time_ns()
        self.end_time = 0

    @property
    def trace_id(self) -> str:
        """The id of the trace, in hex."""
        return self.ids[:32]

    @property
    def span_id(self) -> str:
        """The id of the span, in hex."""
        return self.ids[32:]

    @property
    def traceparent(self) -> str:
        """The span's address, as a header."""
        return f"00-{self.trace_id}-{self.span_id}-{_FLAGS:02x}"

    def end(self) -> None:
        """Note the time of its end."""
        self.end_time = time.time_ns()

    def encode(self, settings: Settings, app_name: str | None) -> bytes:
        """Return it as an OTLP request, with the resource and scope that the SDK would give it."""
        from taskobs.protocol.otlp.spans import (
            EncodedSpan,
            encode_request,
            encode_span,
            resource_frame,
            scope_frame,
        )

        row = (
            *(self.name, bytes.fromhex(self.trace_id), bytes.fromhex(self.span_id)),
            *(None, False, _FLAGS, "", _PRODUCER, self.start_time, self.end_time),
            *(self.attributes, (), (), _UNSET, None, None),
            *(0, 0, 0),
        )
        resource = resource_frame(_resource(settings, app_name), "")
        scope = scope_frame(semconv.STOCK_SCOPE, _version(_STOCK), semconv.STOCK_SCHEMA_URL, {})
        return encode_request([EncodedSpan(resource, scope, encode_span(row))])

    def repeat(self, error: BaseException | None) -> None:
        """Make it again, with the process's tracer; ``error`` is why it was refused."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        from taskobs.internal.span_ids import NEXT
        from taskobs.observers.attributes import record_error
        from taskobs.otel.task_spans import tracer_of

        token = NEXT.set(self.ids)
        try:
            span = tracer_of(None).start_span(
                self.name, Context(), SpanKind.PRODUCER, self.attributes, start_time=self.start_time
            )
        finally:
            NEXT.reset(token)
        if error is not None:
            record_error(span, error)
        span.end(self.end_time)


def is_known() -> bool:
    """Tell whether the installed SDK makes of a span what is written here."""
    try:
        return _version(_SDK).startswith(_KNOWN_SDKS) and bool(_version(_STOCK))
    except PackageNotFoundError:  # the app is bundled without its packages' metadata
        return False


@lru_cache(maxsize=2)
def _version(package: str) -> str:
    """Return the release of a package, from the head of its metadata.

    ``importlib.metadata.version`` parses all of them as an e-mail, the package's readme too.
    """
    found = distribution(package)
    for line in (found.read_text("METADATA") or "").splitlines():
        if line.startswith("Version:"):
            return line.partition(":")[2].strip()
        if not line:
            break
    return found.version  # of another form of installation


def _resource(settings: Settings, app_name: str | None) -> Mapping[str, Any]:
    """Return what ``taskobs.otel.resource`` makes of the settings, if ``resource`` is not given."""
    name = settings.service_name or _UNNAMED
    found: dict[str, Any] = {
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": _version(_SDK),
        "service.instance.id": str(uuid4()),
        "service.name": (app_name or _DEFAULT_NAME) if name.startswith(_UNNAMED) else name,
    }
    if settings.release:
        found["service.version"] = settings.release
    if settings.environment:
        found["deployment.environment.name"] = settings.environment
    return found
