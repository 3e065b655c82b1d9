"""What a command's environment is: that of the user, with telemetry led to the page."""

from __future__ import annotations

from taskobs.config.settings import resolve
from taskobs.view.command.variables import command_environment, page_variables, set_aside

MINE = {
    "HOME": "/home/me",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.example",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector.example/v1/traces",
    "OTEL_EXPORTER_OTLP_HEADERS": "api-key=secret",
    "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc",
    "OTEL_METRICS_EXPORTER": "prometheus",
    "OTEL_SDK_DISABLED": "true",
    "OTEL_SERVICE_NAME": "shop",
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_TRACES_SAMPLER": "always_off",
    "OTEL_TRACES_SAMPLER_ARG": "0",
    "SENTRY_DSN": "https://key@sentry.example/1",
    "SENTRY_ENVIRONMENT": "dev",
    "TASKOBS_ENABLED": "0",
    "TASKOBS_LOGS": "",
    "TASKOBS_RELAY_SPOOL": "/var/spool/taskobs",
    "TASKOBS_SEND_ARGUMENTS": "1",
}


def test_all_telemetry_goes_to_the_page() -> None:
    """Whatever my environment says, init() sends spans, errors and log lines there, all of them."""
    settings = resolve({}, command_environment(MINE, 7318))
    assert settings.traces_endpoint == "http://127.0.0.1:7318/v1/traces"
    assert settings.logs_endpoint == "http://127.0.0.1:7318/v1/logs"
    assert (settings.otlp_protocol, settings.logs_protocol) == ("http/protobuf", "http/protobuf")
    assert settings.sentry_dsn == "http://view@127.0.0.1:7318/1"
    assert settings.otlp_headers is None
    assert settings.sample_rate is None
    assert (settings.traces, settings.errors, settings.enabled) == (True, True, True)
    assert settings.relay_spool is None


def test_what_is_no_destination_stays() -> None:
    """The name of my service, its environment and my other settings are as they were."""
    given = command_environment(MINE, 7318)
    for name in ("HOME", "OTEL_SERVICE_NAME", "SENTRY_ENVIRONMENT", "TASKOBS_SEND_ARGUMENTS"):
        assert given[name] == MINE[name]
    assert "secret" not in str(given)


def test_what_is_set_aside_is_named_without_its_value() -> None:
    """I am told which of my variables don't count here; an empty one is none."""
    names = set_aside(MINE)
    assert "SENTRY_DSN" in names
    assert not {"HOME", "OTEL_SERVICE_NAME", "TASKOBS_LOGS", "SENTRY_ENVIRONMENT"} & set(names)


def test_a_proxy_is_not_asked_for_this_machine() -> None:
    """Behind a proxy, telemetry still reaches the page; my other exceptions stay."""
    given = command_environment({"NO_PROXY": "a.example,127.0.0.1", "HTTP_PROXY": "http://p"}, 1)
    assert (given["NO_PROXY"], given["no_proxy"]) == ("a.example,127.0.0.1", "127.0.0.1")


def test_a_delay_of_the_users_stays() -> None:
    """Spans of a web process come twice a second, or as I have set it."""
    assert command_environment({}, 1)["OTEL_BSP_SCHEDULE_DELAY"] == "500"
    given = command_environment({"OTEL_BSP_SCHEDULE_DELAY": "100"}, 1)
    assert given["OTEL_BSP_SCHEDULE_DELAY"] == "100"


def test_the_printed_variables_are_enough() -> None:
    """What is printed for processes that I start elsewhere says all that init() needs."""
    settings = resolve({}, page_variables(7318))
    assert (settings.traces, settings.errors) == (True, True)
    assert settings.logs_endpoint is not None
