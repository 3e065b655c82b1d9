"""A process of a worker that records what its standard input asks for, and is idle in between."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from typing_extensions import Self

    from tests.support.relay_process import RelayProcess

SCRIPT = """
import os, sys
import sentry_sdk
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from taskobs.otel.relay_processor import RelayProcessor
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.relay_client.client import RelayClient
from taskobs.sentry.relay_transport import RelayTransport

address, memory, dsn = sys.argv[1:]
hello = {"role": "pool child", "name": "", "resource": {"service.name": "shop"}, "schema_url": ""}
client = RelayClient(
    address, lambda: hello, memory=SharedMemory(int(memory)) if memory else None
)
options = {"dsn": dsn, "default_integrations": False, "auto_enabling_integrations": False}
plain = sentry_sdk.Client(**options)
errors = sentry_sdk.Client(**options, transport=RelayTransport(client, plain.options))
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(RelayProcessor(client, SpanProcessor()))
tracer = provider.get_tracer("shop")
for line in sys.stdin:
    what, count, size = line.split()
    for number in range(int(count)):
        if what == "fail":
            try:
                raise ValueError(f"{number}: " + "x" * int(size))
            except ValueError:
                event, hint = sentry_sdk.utils.event_from_exception(
                    sys.exc_info(), plain.options
                )
                event["extra"] = {"text": "y" * int(size)}
                errors.capture_event(event, hint)
        else:
            tracer.start_span(f"span {number}", attributes={"text": "x" * int(size)}).end()
    print("done", flush=True)
"""


class Reporter:
    """Records failures and spans when it is asked to; killed at the end of a ``with``."""

    def __init__(self, relay: RelayProcess, dsn: str) -> None:
        self._memory = relay.memory
        descriptors = [] if self._memory is None else [self._memory.descriptor]
        memory = str(descriptors[0]) if descriptors else ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, relay.address, memory, dsn],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=descriptors,
            cwd=ROOT,
        )

    def fail(self, count: int, *, size: int = 0) -> None:
        """Report so many failures, and then do nothing."""
        self._do(f"fail {count} {size}")

    def trace(self, count: int, *, size: int = 0) -> None:
        """Make so many spans, and then do nothing."""
        self._do(f"trace {count} {size}")

    def _do(self, line: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
