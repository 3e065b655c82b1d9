"""Derives where spans, metrics and logs go from the settings and OpenTelemetry's variables."""

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
_PROTOCOL: Final = "OTEL_EXPORTER_OTLP_PROTOCOL"
_METRICS_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
_METRICS_EXPORTER: Final = "OTEL_METRICS_EXPORTER"
_LOGS_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"
_LOGS_PROTOCOL: Final = "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL"
_LOGS_EXPORTER: Final = "OTEL_LOGS_EXPORTER"
_GRPC: Final = "grpc"
_PROTOCOL_OF: Final[dict[str, OtlpProtocol]] = {
    "otlp_proto_grpc": "grpc",
    "otlp_proto_http": "http/protobuf",
}
_OTLP: Final = frozenset({"otlp", *_PROTOCOL_OF})
_NONE: Final = "none"
_TRACES_PATH: Final = "/v1/traces"
_METRICS_PATH: Final = "/v1/metrics"
_LOGS_PATH: Final = "/v1/logs"
_DEFAULTS: Final = {"grpc": "http://localhost:4317", "http/protobuf": "http://localhost:4318"}
"""The default endpoint of OpenTelemetry's exporters."""


def derived(
    values: Mapping[str, Any], given: Mapping[str, Source], variables: Mapping[str, str]
) -> dict[str, Any]:
    """Return the fields of ``Settings`` that are derived from the settings.

    Raises:
        SettingError: an endpoint is invalid for its protocol, or missing.
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
        **_logs(values, given, variables),
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


def _logs(
    values: Mapping[str, Any], given: Mapping[str, Source], variables: Mapping[str, str]
) -> dict[str, Any]:
    """Return where log records go, and how; nothing if they aren't to be sent.

    Raises:
        SettingError: they are, and no endpoint says where to.
    """
    if values["logs"] is None or variables.get(_LOGS_EXPORTER, "").lower() == _NONE:
        return {}
    protocol = _logs_protocol(values, given, variables)
    value_check = checks.GRPC_ENDPOINT if protocol == _GRPC else checks.HTTP_ENDPOINT
    argument = given["otlp_endpoint"] == "argument"
    if not argument and _LOGS_ENDPOINT in variables:
        found = _checked(_LOGS_ENDPOINT, value_check, variables[_LOGS_ENDPOINT], "{}={{}}")
        return {"logs_endpoint": found, "logs_protocol": protocol}
    base = values["otlp_endpoint"] if argument else variables.get(_ENDPOINT)
    if base is None:
        problem = f"without an endpoint: set {_ENDPOINT} or {_LOGS_ENDPOINT} too"
        fix = "taskobs.init(logs='otlp', otlp_endpoint='http://localhost:4318')"
        from taskobs.errors import SettingError

        raise SettingError("logs", "TASKOBS_LOGS", repr(values["logs"]), problem, fix)
    fix = "taskobs.init(otlp_endpoint={{!r}})" if argument else "{}={{}}"
    found = _checked(_ENDPOINT, value_check, base, fix)
    path = found if protocol == _GRPC else _with_path(found, _LOGS_PATH)
    return {"logs_endpoint": path, "logs_protocol": protocol}


def _logs_protocol(
    values: Mapping[str, Any], given: Mapping[str, Source], variables: Mapping[str, str]
) -> OtlpProtocol:
    """Return how log records go: as OpenTelemetry's variables for logs say, or the general one."""
    if given["otlp_protocol"] == "argument":
        return cast("OtlpProtocol", values["otlp_protocol"])
    name = _LOGS_PROTOCOL if _LOGS_PROTOCOL in variables else _PROTOCOL
    if name not in variables:
        return "http/protobuf"
    found = checks.checked("otlp_protocol", name, checks.PROTOCOL, variables[name], f"{name}={{}}")
    return cast("OtlpProtocol", found)


def _checked(variable: str, value_check: checks.ValueCheck, value: object, fix: str) -> str:
    line = fix.format(variable)
    return cast("str", checks.checked("otlp_endpoint", variable, value_check, value, line))


def _with_path(base: str, signal_path: str = _TRACES_PATH) -> str:
    url = urlsplit(base)
    path = url.path.rstrip("/")
    if signal_path != _TRACES_PATH:  # whoever gives the path of spans means the base before it
        path = path.removesuffix(_TRACES_PATH)
    return url._replace(path=path if path.endswith(signal_path) else path + signal_path).geturl()


def shown_endpoint(protocol: OtlpProtocol, endpoint: str | None) -> str:
    """Return where spans go, without secrets; also the exporter's default."""
    return checks.without_credentials(endpoint or _DEFAULTS[protocol])
