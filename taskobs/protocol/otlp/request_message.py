"""Sends OTLP requests of ours through OpenTelemetry's exporter over gRPC.

The exporter makes its channel with interceptors, one of which gives its calls another message. All
else stays as the exporter makes it: the address, metadata, certificates, compression and timeouts.
"""

# grpc ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from taskobs.internal.import_lock import importing

if TYPE_CHECKING:
    from typing_extensions import Self

_EXPORTER_MODULE: Final = "opentelemetry.exporter.otlp.proto.grpc.exporter"
_CHANNELS: Final = ("insecure_channel", "secure_channel")
"""What exporters of 1.28 to 1.45 import from grpc, and make their channel with."""


class RequestMessage(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # no types
    """What a channel sends instead of what the exporter has encoded. Not thread-safe."""

    was_sent = False
    """Whether the message of the last block was used."""

    def __init__(self) -> None:
        self._message: ExportTraceServiceRequest | None = None

    @contextmanager
    def of(self, content: bytes) -> Generator[Self]:
        """Send this request for spans for any call in this block.

        Raises:
            google.protobuf.message.DecodeError: it is none.
        """
        # Read by protobuf's C code, at a small part of what it takes to make the message of spans.
        self._message, self.was_sent = ExportTraceServiceRequest.FromString(content), False
        try:
            yield self
        finally:
            self._message = None

    def intercept_unary_unary(
        self,
        continuation: Callable[[Any, Any], Any],
        client_call_details: Any,  # noqa: ANN401  # as grpc has it
        request: Any,  # noqa: ANN401  # same
    ) -> Any:  # noqa: ANN401  # same
        """Call with the message of the block."""
        if self._message is None:
            return continuation(client_call_details, request)
        self.was_sent = True
        return continuation(client_call_details, self._message)


class MadeChannels:
    """The channels that were made in a block."""

    number = 0


@contextmanager
def intercepted(*interceptors: grpc.UnaryUnaryClientInterceptor) -> Generator[MadeChannels]:
    """Have exporters that this thread makes in this block use channels with these interceptors."""
    module, made, here = import_module(_EXPORTER_MODULE), MadeChannels(), get_ident()

    def intercepting(make: Callable[..., Any]) -> Callable[..., Any]:
        def with_interceptors(*args: Any, **named: Any) -> Any:  # noqa: ANN401  # as grpc has it
            channel = make(*args, **named)
            if get_ident() != here:  # another library's or the app's exporter, made just now
                return channel
            made.number += 1
            return grpc.intercept_channel(channel, *interceptors)

        return with_interceptors

    # The threads of spans and of metrics make theirs anew after a failure, and what a fork found
    # half made would stay so in the child. The exporter imports modules as well.
    with importing():
        # Read with the lock held: else one thread keeps, and puts back, what another has put there.
        makers = {name: getattr(module, name) for name in _CHANNELS if hasattr(module, name)}
        for name, make in makers.items():
            setattr(module, name, intercepting(make))
        try:
            yield made
        finally:
            for name, make in makers.items():
                setattr(module, name, make)
