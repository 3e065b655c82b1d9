"""The settings of the app's own metric readers, with which the relay can export in their place.

As with spans, only of what is exactly OpenTelemetry's: see ``exporters``.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from opentelemetry import metrics

from taskobs.otel.app import _metrics_compat as compat
from taskobs.otel.app._metrics_compat import ReaderFields
from taskobs.otel.app.exporters import is_patched, settings_of_exporter
from taskobs.protocol.frames import pack
from taskobs.protocol.sanitize import UNEXPECTED, sanitize

HTTP: Final = "opentelemetry.exporter.otlp.proto.http.metric_exporter"
GRPC: Final = "opentelemetry.exporter.otlp.proto.grpc.metric_exporter"
_READERS: Final = "opentelemetry.sdk.metrics.export"
_INSTANCE: Final = "service.instance.id"
_DIGITS: Final = re.compile(r"\d+")
_FIRST: Final = "1"
"""The id of the first process of a container: not taken for one, as it is an ordinary number."""
_RANDOM: Final = 4
"""The version of a UUID that is random."""


def are_imported() -> bool:
    """Tell whether something has imported one of the exporters."""
    return HTTP in sys.modules or GRPC in sys.modules


def settings_of_reader(reader: object, resource: Any) -> bytes | None:  # noqa: ANN401  # the SDK's
    """Return how a reader exports, packed; None if nobody else can do that.

    The same in all processes of a worker, so without what the resource says of the process.
    """
    kind = getattr(sys.modules.get(_READERS), "PeriodicExportingMetricReader", None)
    if kind is None or type(reader) is not kind or is_patched(reader, compat.READER_CALLS):
        return None
    try:
        fields = ReaderFields(*compat.reader_fields(reader))
        exporter = settings_of_exporter(
            fields.exporter, "OTLPMetricExporter", (HTTP, GRPC), compat.READER_CALLS
        )
        delta, interval = _delta(fields.temporalities), float(fields.interval) / 1000
        if exporter is None or delta is None or fields.ended or not 0 < interval < math.inf:
            return None
        batch = compat.max_batch(fields.exporter)
        found = {
            "exporter": {**exporter, "max_export_batch_size": batch},
            "interval": interval,
            "delta": delta,
            "resource": of_worker(resource.attributes),
            "schema_url": sanitize(resource.schema_url),
        }
        return pack(found)
    except UNEXPECTED:  # another release, or settings that nobody expects
        return None


def _delta(temporalities: Mapping[type, Any]) -> bool | None:
    """Tell whether counters and histograms are exported as deltas; None for another mixture."""
    counter, histogram, updown = (
        next(str(one.name) for kind, one in temporalities.items() if issubclass(kind, wanted))
        for wanted in (metrics.Counter, metrics.Histogram, metrics.UpDownCounter)
    )
    if updown != "CUMULATIVE" or counter != histogram:
        return None
    return counter == "DELTA"


def of_worker(attributes: Mapping[str, Any]) -> dict[str, object]:
    """Return the attributes of a resource that all processes of a worker have in common.

    A random instance, which the SDK gives each process (seen in 1.44), is left out, and so is what
    is of the process or its id: many apps have one there, so that their processes' series differ.
    """
    pid = str(os.getpid())
    return {
        name: sanitize(value)
        for name, value in sorted(attributes.items())
        if not _is_of_process(name, str(value), pid)
    }


def _is_of_process(name: str, text: str, pid: str) -> bool:
    if name.startswith("process.") and not name.startswith("process.runtime."):
        return True
    if name == _INSTANCE and f"{_INSTANCE}=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        return _is_random(text) or (pid != _FIRST and pid in _DIGITS.findall(text))
    return text == pid != _FIRST


def _is_random(text: str) -> bool:
    try:
        return UUID(text).version == _RANDOM
    except ValueError:
        return False
