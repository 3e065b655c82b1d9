"""Sends through a stock OTLP/gRPC exporter, and hears what the backend answers.

As in ``http_out``, the exporter is kept from trying again by itself: its stub is wrapped. Where a
release has none under the name known here, the exporter tries again in its own way first.
"""

# grpc ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUntypedBaseClass=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc
from google.rpc.error_details_pb2 import RetryInfo

from taskobs.relay.export.responses import ExportResult, ExportStatus

_SAID: Final = 200
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
_INFO: Final = "google.rpc.retryinfo-bin"
_DETAILS: Final = "grpc-status-details-bin"


class GrpcExporterAdapter:
    """Sends through one exporter, and a new one after the connection has failed.

    A channel that has failed for a while waits up to two minutes before it connects again.
    Not thread-safe.
    """

    def __init__(self, kind: Any, options: Mapping[str, object]) -> None:  # noqa: ANN401  # several exporters, no common class
        """``kind`` is an exporter's class."""
        self._heard: list[ExportResult] = []
        self._kind = _listening(kind, self._heard)
        self._options = dict(options)
        self._exporter: Any = None

    def send(self, telemetry: object) -> ExportResult | None:
        """Export once; None if nothing went out, for a reason that the exporter has logged."""
        self._heard.clear()
        if self._exporter is None:
            self._exporter = self._kind(**self._options)
        self._exporter.export(telemetry)
        result = self._heard[-1] if self._heard else None
        if result is not None and result.reason == _reason(_CODES.UNAVAILABLE):
            self.close()
        return result

    def close(self) -> None:
        """Close its connection."""
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            exporter.shutdown()


class _FinalError(grpc.RpcError):  # type: ignore[misc]  # no types
    """What the exporter sees of any error: one that it does not try again after."""

    def __init__(self, details: str) -> None:
        super().__init__(details)
        self._details = details

    def code(self) -> grpc.StatusCode:
        return _CODES.INVALID_ARGUMENT

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[()]:
        return ()


class _Stub:
    """Keeps what comes back, in place of the stub that does the work."""

    def __init__(self, inner: Any, heard: list[ExportResult]) -> None:  # noqa: ANN401  # as grpc has it
        self._inner = inner
        self._heard = heard

    def Export(self, **call: Any) -> Any:  # noqa: ANN401, N802  # as grpc has it
        try:
            response = self._inner.Export(**call)
        except grpc.RpcError as error:
            self._heard.append(_of_error(error))
            raise _FinalError(self._heard[-1].reason) from error
        partial = getattr(response, "partial_success", None)
        rejected = max(0, getattr(partial, "rejected_spans", 0))
        said = str(getattr(partial, "error_message", ""))[:_SAID]
        self._heard.append(
            ExportResult(ExportStatus.SUCCESS, "rejected by the backend", said, rejected=rejected)
        )
        return response


def _listening(kind: Any, heard: list[ExportResult]) -> Any:  # noqa: ANN401  # as grpc has it
    """Return a subclass of an exporter whose stub keeps the answers in ``heard``."""

    def get(self: Any) -> Any:  # noqa: ANN401  # as grpc has it
        return self.__dict__.get("_client")

    def put(self: Any, stub: Any) -> None:  # noqa: ANN401  # as grpc has it
        self.__dict__["_client"] = None if stub is None else _Stub(stub, heard)

    return type(kind.__name__, (kind,), {"_client": property(get, put)})


def _reason(code: Any) -> str:  # noqa: ANN401  # as grpc has it
    return f"gRPC {code.name}"


def _of_error(error: Any) -> ExportResult:  # noqa: ANN401  # as grpc has it
    code, said = error.code(), str(error.details() or "")[:_SAID]
    wait = _wait(dict(error.trailing_metadata() or ()))
    if code in _RETRIED or (code is _CODES.RESOURCE_EXHAUSTED and wait is not None):
        return ExportResult(ExportStatus.RETRY, _reason(code), said, wait)
    if code is _CODES.RESOURCE_EXHAUSTED:
        return ExportResult(
            ExportStatus.SPLIT, _reason(code), said
        )  # also what too long a message gets
    return ExportResult(ExportStatus.DROP, _reason(code), said)


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
