"""Derives where spans and metrics go from the settings and OpenTelemetry's variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

from taskobs.config import checks
from taskobs.config.checks import OtlpProtocol

Source = Literal["argument", "variable", "default"]

TRACES_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
TRACES_EXPORTER: Final = "OTEL_TRACES_EXPORTER"
_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_METRICS_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
_METRICS_EXPORTER: Final = "OTEL_METRICS_EXPORTER"
_GRPC: Final = "grpc"
_PROTOCOL_OF: Final[dict[str, OtlpProtocol]] = {
    "otlp_proto_grpc": "grpc",
    "otlp_proto_http": "http/protobuf",
}
_OTLP: Final = frozenset({"otlp", *_PROTOCOL_OF})
_NONE: Final = "none"
_TRACES_PATH: Final = "/v1/traces"
_METRICS_PATH: Final = "/v1/metrics"
_DEFAULTS: Final = {"grpc": "http://localhost:4317", "http/protobuf": "http://localhost:4318"}
"""The default endpoint of OpenTelemetry's exporters."""


def derived(
    values: Mapping[str, Any], given: Mapping[str, Source], variables: Mapping[str, str]
) -> dict[str, Any]:
    """Return the fields of ``Settings`` that are derived from the settings.

    Raises:
        SettingError: the endpoint is invalid for the protocol.
    """
    names = _exporters(variables)
    protocol = _protocol(names, values, given)
    endpoint = _traces_endpoint(protocol, values, given, variables)
    otlp = endpoint is not None if names is None else not _OTLP.isdisjoint(names)
    others = tuple(name for name in names or () if name not in _OTLP)
    return {
        "otlp_protocol": protocol,
        "traces_endpoint": endpoint,
        "metrics_endpoint": _metrics_endpoint(protocol, endpoint, given, variables),
        "otlp": otlp,
        "other_exporters": others,
        "traces": otlp or bool(others),
    }


def _exporters(variables: Mapping[str, str]) -> list[str] | None:
    """Return the exporters that ``OTEL_TRACES_EXPORTER`` names; None if it isn't set."""
    text = variables.get(TRACES_EXPORTER)
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    return [name for name in names if name and name.lower() != _NONE]


def _protocol(
    names: list[str] | None, values: Mapping[str, Any], given: Mapping[str, Source]
) -> OtlpProtocol:
    """Return the protocol: an exporter's name that includes it takes precedence."""
    if given["otlp_protocol"] != "argument":
        for name in names or ():
            if name in _PROTOCOL_OF:
                return _PROTOCOL_OF[name]
    return cast("OtlpProtocol", values["otlp_protocol"])


def _traces_endpoint(
    protocol: OtlpProtocol,
    values: Mapping[str, Any],
    given: Mapping[str, Source],
    variables: Mapping[str, str],
) -> str | None:
    """Return where spans go: the traces' endpoint is used as it is, the general one gets a path."""
    value_check = checks.GRPC_ENDPOINT if protocol == _GRPC else checks.HTTP_ENDPOINT
    argument = given["otlp_endpoint"] == "argument"
    if not argument and TRACES_ENDPOINT in variables:
        return _checked(TRACES_ENDPOINT, value_check, variables[TRACES_ENDPOINT], "{}={{}}")
    if values["otlp_endpoint"] is None:
        return None
    fix = "taskobs.init(otlp_endpoint={{!r}})" if argument else "{}={{}}"
    base = _checked(_ENDPOINT, value_check, values["otlp_endpoint"], fix)
    return base if protocol == _GRPC else _with_path(base)


def _metrics_endpoint(
    protocol: OtlpProtocol,
    endpoint: str | None,
    given: Mapping[str, Source],
    variables: Mapping[str, str],
) -> str | None:
    """Return where metrics go: derived from the argument's endpoint, or from the variables."""
    if variables.get(_METRICS_EXPORTER, "").lower() == _NONE:
        return None
    if given["otlp_endpoint"] == "argument" and endpoint is not None:
        path, other = _TRACES_PATH, _METRICS_PATH
        return endpoint if protocol == _GRPC else endpoint.removesuffix(path) + other
    general = variables.get(_ENDPOINT)
    if general is not None and protocol != _GRPC:
        general = general.rstrip("/") + _METRICS_PATH
    return variables.get(_METRICS_ENDPOINT, general)


def _checked(variable: str, value_check: checks.ValueCheck, value: object, fix: str) -> str:
    line = fix.format(variable)
    return cast("str", checks.checked("otlp_endpoint", variable, value_check, value, line))


def _with_path(base: str) -> str:
    url = urlsplit(base)
    path = url.path.rstrip("/")
    return url._replace(path=path if path.endswith(_TRACES_PATH) else path + _TRACES_PATH).geturl()


def shown_endpoint(protocol: OtlpProtocol, endpoint: str | None) -> str:
    """Return where spans go, without secrets; also the exporter's default."""
    return checks.without_credentials(endpoint or _DEFAULTS[protocol])
