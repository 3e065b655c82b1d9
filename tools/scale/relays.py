"""Simulated relays: a real relay's requests, each relay over a connection of its own.

``python -m tools.scale.relays FILE ENDPOINT NUMBER`` reads a request as a relay has encoded it from
the file. For each line ``RATE SECONDS`` on its standard input it sends it again and again with new
trace ids, RATE spans a second from all relays together, and answers with a line of JSON.

It is sent without OpenTelemetry's exporter, which takes as much CPU as the Collector does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from taskobs.testing.http_server import PROTOBUF

ID: Final = 16
"""Bytes of a trace id."""


@dataclass
class Sent:
    """What some relays have sent."""

    accepted: int = 0
    """Spans."""
    refused: int = 0
    """Requests that would be sent again."""
    latencies: list[float] = field(default_factory=list[float])
    """Of each request, from when it was due to its response: what waits for its turn waits here."""

    def add(self, other: Sent) -> None:
        """Add what others have sent."""
        self.accepted += other.accepted
        self.refused += other.refused
        self.latencies += other.latencies


class Template:
    """A request whose trace ids can be replaced."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        request = ExportTraceServiceRequest.FromString(body)
        spans = [
            span
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        self.spans = len(spans)
        self._offsets = [list(_offsets(body, one)) for one in {span.trace_id for span in spans}]

    @property
    def traces(self) -> int:
        """How many traces its spans are of."""
        return len(self._offsets)

    def renewed(self) -> bytes:
        """Return the request with new trace ids."""
        body = bytearray(self._body)
        ids = os.urandom(ID * len(self._offsets))
        for number, offsets in enumerate(self._offsets):
            new = ids[number * ID : (number + 1) * ID]
            for offset in offsets:
                body[offset : offset + ID] = new
        return bytes(body)


def _offsets(body: bytes, trace_id: bytes) -> Sequence[int]:
    found: list[int] = []
    offset = body.find(trace_id)
    while offset >= 0:
        found.append(offset)
        offset = body.find(trace_id, offset + ID)
    return found


class Relay:
    """Sends requests at a steady rate, one at a time, as a relay does."""

    def __init__(self, template: Template, endpoint: str) -> None:
        self._template = template
        url = urlsplit(endpoint)
        self._path = url.path
        self._connection = HTTPConnection(url.netloc, timeout=60)

    def send(self, first: float, every: float, until: float, sent: Sent) -> None:
        """Send a request each ``every`` seconds; one that is late goes out at once."""
        due = first
        while (wait := due - time.monotonic()) > 0 or time.monotonic() < until:
            if due >= until:
                return
            time.sleep(max(0.0, wait))
            accepted = self._post(self._template.renewed())
            sent.latencies.append(time.monotonic() - due)
            if accepted:
                sent.accepted += self._template.spans
            else:
                sent.refused += 1
            due += every

    def _post(self, body: bytes) -> bool:
        self._connection.request("POST", self._path, body, {"Content-Type": PROTOBUF})
        response = self._connection.getresponse()
        response.read()
        return response.status == HTTPStatus.OK


def drive(relays: Sequence[Relay], spans: int, rate: float, seconds: float) -> Sent:
    """Have all relays send ``rate`` spans a second together, ``spans`` in each request."""
    every = len(relays) * spans / rate
    began = time.monotonic()
    sent = [Sent() for _ in relays]
    threads = [
        threading.Thread(
            target=relay.send,
            args=(began + every * number / len(relays), every, began + seconds, into),
        )
        for number, (relay, into) in enumerate(zip(relays, sent, strict=True))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = Sent()
    for one in sent:
        total.add(one)
    return total


def main() -> None:
    """Answer each line of the standard input."""
    template = Template(Path(sys.argv[1]).read_bytes())
    relays = [Relay(template, sys.argv[2]) for _ in range(int(sys.argv[3]))]
    print("ready", flush=True)
    for line in sys.stdin:
        rate, seconds = map(float, line.split())
        sent = drive(relays, template.spans, rate, seconds)
        print(json.dumps(asdict(sent)), flush=True)


if __name__ == "__main__":
    main()
