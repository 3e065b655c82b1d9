"""Sends through OpenTelemetry's OTLP/gRPC exporter, and reads what the backend responds.

As in ``otlp_http``, the exporter is kept from repeating calls by itself: its channel gets an
interceptor. Where a release makes its channel in another way, it repeats calls in its own way
first, and tells only whether it went well.
"""

# grpc ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUntypedBaseClass=false

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import grpc
from google.rpc.error_details_pb2 import RetryInfo

from taskobs.internal.causes import masked, secrets_of_headers
from taskobs.protocol.otlp.request_message import RequestMessage, intercepted
from taskobs.relay.export import hints
from taskobs.relay.export.otlp_messages import REJECTED, REJECTED_FIELDS, SAID
from taskobs.relay.export.responses import ExportResult, ExportStatus

_CODES: Final = grpc.StatusCode
_RETRIED: Final = frozenset(
    {
        _CODES.CANCELLED,
        _CODES.DEADLINE_EXCEEDED,
        _CODES.ABORTED,
        _CODES.OUT_OF_RANGE,
        _CODES.UNAVAILABLE,
        _CODES.DATA_LOSS,
    }
)
"""And RESOURCE_EXHAUSTED, but only where the backend says when."""
_TOO_LARGE: Final = ("larger than max", "exceeds maximum")
"""How grpc's implementations word that a message is too large: RESOURCE_EXHAUSTED is not only that.
"""
_INFO: Final = "google.rpc.retryinfo-bin"
_DETAILS: Final = "grpc-status-details-bin"


class GrpcExporterAdapter:
    """Sends through one exporter, and a new one after the connection has failed.

    A channel that has failed for a while waits up to two minutes before it connects again.
    Not thread-safe.
    """

    def __init__(self, kind: Any, options: Mapping[str, object]) -> None:  # noqa: ANN401  # several exporters, no common class
        """``kind`` is an exporter's class."""
        self._results: list[ExportResult] = []
        self._kind = kind
        self._options = dict(options)
        self._exporter: Any = None
        self._message = RequestMessage()
        self._is_intercepted = False

    @property
    def encodes(self) -> bool:
        """Whether ``send_encoded`` works. To find out, the exporter is made."""
        try:
            self._make()
        except Exception:  # noqa: BLE001  # for variables that it can't read: each ``send`` raises it
            return False
        return self._is_intercepted

    def send_encoded(self, request: bytes) -> ExportResult | None:
        """Send an OTLP request for spans once, with the exporter's address and metadata."""
        with self._message.of(request) as message:
            result = self.send(())
        return result if message.was_sent else None

    def send(self, telemetry: object) -> ExportResult | None:
        """Export once; None if nothing was sent, for a reason that the exporter has logged."""
        self._results.clear()
        self._make()
        outcome = self._exporter.export(telemetry)
        if not self._results and getattr(outcome, "name", "") == "SUCCESS":
            return ExportResult(ExportStatus.SUCCESS)
        result = self._results[-1] if self._results else None
        if result is not None and result.reason == _reason(_CODES.UNAVAILABLE):
            self.close()
        return result

    def _make(self) -> None:
        if self._exporter is not None:
            return
        with intercepted(_Interceptor(self._results), self._message) as channels:
            self._exporter = self._kind(**self._options)
        self._is_intercepted = channels.number > 0

    def close(self) -> None:
        """Close its connection."""
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            exporter.shutdown()


class _FinalError(grpc.RpcError):  # type: ignore[misc]  # no types
    """What the exporter gets for any error: one that it does not repeat a call for."""

    def __init__(self, details: str) -> None:
        super().__init__(details)
        self._details = details

    def code(self) -> grpc.StatusCode:
        return _CODES.INVALID_ARGUMENT

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[()]:
        return ()


class _FailedCall:
    """A call that has ended with an error, as far as an intercepted stub looks at it."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def result(self) -> object:
        raise self._error


class _Interceptor(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # no types
    """Keeps the results of a channel's calls."""

    def __init__(self, results: list[ExportResult]) -> None:
        self._results = results

    def intercept_unary_unary(
        self,
        continuation: Any,  # noqa: ANN401  # as grpc has it
        client_call_details: Any,  # noqa: ANN401  # same
        request: Any,  # noqa: ANN401  # same
    ) -> Any:  # noqa: ANN401  # same
        call = continuation(client_call_details, request)
        error = call.exception()
        if isinstance(error, grpc.RpcError):
            sent = client_call_details.metadata or ()
            self._results.append(_of_error(error, {*secrets_of_headers(sent)}))
            return _FailedCall(_FinalError(self._results[-1].reason))
        if error is None:
            self._results.append(_of_response(call.result()))
        return call


def options_of_app(exporter: Mapping[str, Any]) -> dict[str, object]:
    """Return the options that only an exporter of the app's has settings for."""
    options: dict[str, object] = {}
    if "insecure" in exporter:
        options["insecure"] = bool(exporter["insecure"])
    if exporter.get("compression"):
        options["compression"] = getattr(grpc.Compression, exporter["compression"])
    if exporter.get("channel_options"):
        options["channel_options"] = tuple((k, v) for k, v in exporter["channel_options"])
    return options


def _reason(code: Any) -> str:  # noqa: ANN401  # as grpc has it
    return f"gRPC {code.name}"


def _of_response(response: object) -> ExportResult:
    partial = getattr(response, "partial_success", None)
    rejected = max(0, *(getattr(partial, name, 0) for name in REJECTED_FIELDS.values()))
    message = str(getattr(partial, "error_message", ""))[:SAID]
    return ExportResult(ExportStatus.SUCCESS, REJECTED, message, rejected=rejected)


def _of_error(error: Any, secrets: Iterable[str]) -> ExportResult:  # noqa: ANN401  # as grpc has it
    code, details = error.code(), str(error.details() or "")
    reason, wait = _reason(code), _wait(dict(error.trailing_metadata() or ()))
    said = masked(details, secrets)[:SAID]
    text = ": ".join(filter(None, (said, hints.of_grpc(details))))
    if code in _RETRIED or (code is _CODES.RESOURCE_EXHAUSTED and wait is not None):
        return ExportResult(ExportStatus.RETRY, reason, text, wait)
    if code is _CODES.RESOURCE_EXHAUSTED:
        too_large = any(words in details for words in _TOO_LARGE)
        return ExportResult(
            ExportStatus.TOO_LARGE if too_large else ExportStatus.SPLIT, reason, text
        )
    return ExportResult(ExportStatus.DROP, reason, text)


def _wait(metadata: Mapping[str, bytes]) -> float | None:
    """Return the seconds that the backend asked for."""
    from google.protobuf.message import DecodeError

    info = RetryInfo()
    try:
        if _INFO in metadata:
            info.ParseFromString(metadata[_INFO])
        elif _DETAILS not in metadata or not _unpack(metadata[_DETAILS], info):
            return None
    except DecodeError:
        return None
    wait: float = info.retry_delay.seconds + info.retry_delay.nanos / 1e9
    return max(0.0, wait)


def _unpack(details: bytes, info: RetryInfo) -> bool:
    from google.rpc.status_pb2 import Status

    status = Status()
    status.ParseFromString(details)
    return any(detail.Unpack(info) for detail in status.details)
