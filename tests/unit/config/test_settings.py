"""Settings are what was asked for, or are refused in words that help."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
from opentelemetry.sdk import environment_variables
from sentry_sdk.utils import Dsn

from taskobs.config import settings
from taskobs.config.settings import Settings, misspelt, resolve
from taskobs.errors import MissingExtraError, SettingError, TaskobsError

DSN = "https://publickey@sentry.example/42"
ENDPOINT = "http://collector.example:4318"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


def refusal(name: str, value: object) -> SettingError:
    with pytest.raises(SettingError) as caught:
        resolve({name: value}, {})
    return caught.value


# Where a value comes from


def test_without_anything_the_defaults_hold() -> None:
    """An app that sets nothing sends nothing, and nothing is refused."""
    settings = resolve({}, {})
    assert settings == Settings(given=dict.fromkeys(settings.given, "default"))
    assert (settings.traces, settings.errors, settings.shutdown_timeout) == (False, False, 3.0)


def test_an_argument_wins_over_a_variable_and_that_over_the_default() -> None:
    environ = {"OTEL_SERVICE_NAME": "from-variable", "TASKOBS_LOG_IDS": "no"}
    settings = resolve({"service_name": "from-argument"}, environ)
    assert (settings.service_name, settings.given["service_name"]) == ("from-argument", "argument")
    assert (settings.log_ids, settings.given["log_ids"]) == (False, "variable")
    assert (settings.strict, settings.given["strict"]) == (False, "default")


def test_an_argument_spares_a_wrong_variable() -> None:
    """What isn't used needn't be right."""
    assert resolve({"sample_rate": 0.5}, {"OTEL_TRACES_SAMPLER_ARG": "most"}).sample_rate == 0.5


@pytest.mark.parametrize("empty", ["", "  "], ids=repr)
def test_a_variable_set_to_nothing_counts_as_unset(empty: str) -> None:
    environ = dict.fromkeys((one.variable for _, one in settings.declared()), empty)
    assert resolve({}, environ) == resolve({}, {})


def test_none_means_not_given() -> None:
    settings = resolve({"environment": None}, {"SENTRY_ENVIRONMENT": "staging"})
    assert settings.environment == "staging"


def test_an_argument_that_is_no_setting_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="sentry_dns"):
        resolve({"sentry_dns": DSN}, {})


def test_settings_cannot_be_changed_but_copied_and_pickled() -> None:
    settings = resolve({"otlp_headers": {"a": "b"}}, {})
    with pytest.raises(AttributeError):
        settings.strict = True
    assert copy.deepcopy(settings) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301  # made on this line


def test_the_traces_own_variables_win_over_the_general_ones() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_HEADERS": "a=general",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "a=traces",
    }
    settings = resolve({}, environ)
    assert (settings.otlp_protocol, settings.otlp_headers) == ("grpc", {"a": "traces"})


# Single checks


@pytest.mark.parametrize(("value", "rate"), [(0, 0.0), (1, 1.0), (0.25, 0.25), ("0.50", 0.5)])
def test_a_sample_rate_is_a_share(value: object, rate: float) -> None:
    assert resolve({"sample_rate": value}, {}).sample_rate == rate


@pytest.mark.parametrize(
    "value",
    [
        10,
        -0.1,
        1.01,
        True,
        False,
        math.nan,
        math.inf,
        "nan",
        "most",
        [],
        pytest.param(10**400, id="huge"),
    ],
    ids=repr,
)
def test_another_sample_rate_is_refused(value: object) -> None:
    """10 is not 10 %, and is not quietly taken for everything."""
    error = refusal("sample_rate", value)
    assert error.fix == "taskobs.init(sample_rate=0.1)"
    assert "from 0 (nothing) to 1" in str(error)


@pytest.mark.parametrize("sampler", ["", "traceidratio", "parentbased_traceidratio"])
def test_the_argument_of_a_ratio_sampler_is_a_share(sampler: str) -> None:
    environ = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    settings = resolve({}, environ)
    assert (settings.sample_rate, settings.given["sample_rate"]) == (0.5, "variable")
    with pytest.raises(SettingError, match=r"example: OTEL_TRACES_SAMPLER_ARG=0\.1"):
        resolve({}, environ | {"OTEL_TRACES_SAMPLER_ARG": "10"})


def test_the_argument_of_another_sampler_is_left_to_it() -> None:
    environ = {"OTEL_TRACES_SAMPLER": "jaeger_remote", "OTEL_TRACES_SAMPLER_ARG": "endpoint=x"}
    settings = resolve({}, environ)
    assert (settings.sample_rate, settings.given["sample_rate"]) == (None, "default")


DSNS = [DSN, "http://key:secret@localhost:9000/prefix/7", "https://key@o1.ingest.sentry.io/5?x=y"]
NOT_DSNS = [
    "publickey",
    "publickey@sentry.example/42",
    "ftp://publickey@sentry.example/42",
    "https://sentry.example/42",
    "https://@sentry.example/42",
    "https://publickey@/42",
    "https://publickey@sentry.example",
    "https://publickey@sentry.example/",
    "https://publickey@sentry.example/project",
    "https://publickey@sentry.example/42/",
    "https://publickey@sentry.example:port/42",
    "https://publickey@sentry.example:99999/42",
    "https://publickey@[sentry/42",
]


@pytest.mark.parametrize("dsn", DSNS)
def test_a_dsn_is_taken(dsn: str) -> None:
    settings = resolve({}, {"SENTRY_DSN": f" {dsn}\n"})
    assert settings.sentry_dsn == dsn
    assert settings.errors


@pytest.mark.parametrize("dsn", [*NOT_DSNS, "https://publickey x@sentry.example/42", 42], ids=repr)
def test_a_wrong_dsn_is_refused_without_showing_its_key(dsn: object) -> None:
    """The message ends up in logs; the key must not."""
    error = refusal("sentry_dsn", dsn)
    for shown in (str(error), repr(error), error.value):
        assert "publickey" not in shown
    assert "SENTRY_DSN" in str(error)


def test_no_chained_exception_tells_what_the_message_hides() -> None:
    error = refusal("sentry_dsn", "https://publickey@sentry.example:port/42")
    assert (error.__cause__, error.__context__) == (None, None)


def test_a_dsn_is_judged_as_sentry_would() -> None:
    """What passes here does not fail in sentry_sdk.init() later, and the other way round."""
    for dsn in DSNS:
        Dsn(dsn)
    for dsn in NOT_DSNS:
        with pytest.raises(ValueError):  # noqa: PT011  # BadDsn, or what urlsplit says
            Dsn(dsn)


def test_an_empty_dsn_argument_turns_errors_off() -> None:
    """As in sentry_sdk.init(dsn="")."""
    settings = resolve({"sentry_dsn": ""}, {"SENTRY_DSN": DSN})
    assert (settings.sentry_dsn, settings.errors) == (None, False)


@pytest.mark.parametrize(
    "endpoint", [ENDPOINT, "https://collector", "http://[::1]:4317/base", "http://u:p@h:1"]
)
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_an_endpoint_is_taken(endpoint: str, protocol: str) -> None:
    settings = resolve({"otlp_endpoint": endpoint, "otlp_protocol": protocol}, {})
    assert (settings.otlp_endpoint, settings.traces) == (endpoint, True)


@pytest.mark.parametrize(
    "endpoint",
    ["collector:4317", "unix:/run/otlp.sock", "dns:///collector:4317", "grpc://collector:4317"],
)
@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", TRACES_ENDPOINT])
def test_grpc_takes_what_its_exporter_takes(endpoint: str, name: str) -> None:
    """I give gRPC a name that it resolves, which is no URL."""
    settings = resolve({}, {name: endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert (settings.traces_endpoint, settings.traces) == (endpoint, True)


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "true"}, {"TASKOBS_ENABLED": "0"}])
def test_what_is_switched_off_is_not_read(off: dict[str, str]) -> None:
    """I switch telemetry off, and a wrong variable of it raises nothing."""
    wrong = {"OTEL_EXPORTER_OTLP_ENDPOINT": "nonsense", "OTEL_EXPORTER_OTLP_PROTOCOL": "nonsense"}
    assert not resolve({}, {**wrong, **off}).traces


@pytest.mark.parametrize(
    ("names", "otlp", "others"),
    [
        ("console", False, ("console",)),
        ("otlp", True, ()),
        ("otlp, console", True, ("console",)),
        ("none", False, ()),
    ],
)
def test_exporters_are_those_that_opentelemetry_names(
    *, names: str, otlp: bool, others: tuple[str, ...]
) -> None:
    """I name exporters as for OpenTelemetry's own configurator, without an endpoint."""
    settings = resolve({}, {"OTEL_TRACES_EXPORTER": names})
    assert (settings.otlp, settings.other_exporters) == (otlp, others)


@pytest.mark.parametrize(
    ("endpoint", "fix"),
    [
        ("collector:4317", "http://collector:4317"),
        ("collector", "http://collector"),
        ("user:password@collector:4317", "http://collector:4317"),
        ("grpc://collector:4317", "http://collector:4317"),
        ("http://", "http://localhost:4318"),
        ("http://:4318", "http://localhost:4318"),
        ("http://collector:no", "http://localhost:4318"),
        ("http://collector:70000", "http://localhost:4318"),
        ("http://collector:0", "http://localhost:4318"),
        ("http://col lector", "http://localhost:4318"),
        ("http://user:password@[collector", "http://localhost:4318"),
        ("", "http://localhost:4318"),
        (4318, "http://localhost:4318"),
    ],
)
def test_another_endpoint_is_refused_with_a_line_that_works(endpoint: object, fix: str) -> None:
    error = refusal("otlp_endpoint", endpoint)
    assert error.fix == f"taskobs.init(otlp_endpoint={fix!r})"
    assert resolve({"otlp_endpoint": fix}, {}).traces
    assert "password" not in str(error)


@pytest.mark.parametrize("protocol", ["http/json", "http", "GRPCS", 1])
def test_another_protocol_is_refused(protocol: object) -> None:
    assert "http/protobuf" in refusal("otlp_protocol", protocol).fix


def test_json_is_refused_with_the_reason() -> None:
    assert "exporters for Python" in str(refusal("otlp_protocol", "http/json"))


@pytest.mark.parametrize(
    "value",
    [
        {"Authorization": "Basic a=b", "X-Team": "ä/b"},
        "Authorization=Basic%20a=b, X-Team = %C3%A4/b,",
        "authorization=Basic a=b,x-team=ä/b",
    ],
)
def test_headers_are_a_mapping_or_pairs(value: object) -> None:
    settings = resolve({"otlp_headers": value}, {})
    assert settings.otlp_headers == {"authorization": "Basic a=b", "x-team": "ä/b"}


@pytest.mark.parametrize(
    "value",
    [
        "s3cret",
        "a=b,s3cret",
        "s3 cret=x",
        "a=s3cret%0D%0AHost: other",
        {"a": "s3cret\nHost: other"},
        {"a\n": "s3cret"},
        {"a": b"s3cret"},
        {1: "s3cret"},
        {"": "s3cret"},
        ["s3cret"],
    ],
)
def test_wrong_headers_are_refused_without_showing_them(value: object) -> None:
    error = refusal("otlp_headers", value)
    assert error.value == "'***'"
    assert "cret" not in str(error)


@pytest.mark.parametrize("on", [True, "1", "true", "YES", " on "], ids=repr)
@pytest.mark.parametrize("off", [False, "0", "False", "no", "OFF"], ids=repr)
def test_a_switch_is_on_or_off(on: object, off: object) -> None:
    settings = resolve({"send_arguments": on, "stock_attributes": off}, {})
    assert (settings.send_arguments, settings.stock_attributes) == (True, False)


@pytest.mark.parametrize("value", ["maybe", "2", "", 1, 0, []], ids=repr)
def test_another_switch_is_refused(value: object) -> None:
    assert refusal("strict", value).fix == "taskobs.init(strict=True)"


@pytest.mark.parametrize("value", [0, -1, 60.5, math.nan, math.inf, True, "soon"], ids=repr)
def test_a_stop_is_bounded(value: object) -> None:
    assert "up to 60" in str(refusal("shutdown_timeout", value))


@pytest.mark.parametrize("value", [0, -1, 1024, 2**21 + 0.5, math.nan, True, "all"], ids=repr)
def test_a_spool_has_room_for_something(value: object) -> None:
    assert "1 MiB" in str(refusal("relay_spool_bytes", value))


@pytest.mark.parametrize("value", [0, 59.9, math.inf, "a day"], ids=repr)
def test_what_is_spooled_lives_for_a_minute_at_least(value: object) -> None:
    assert "60 upwards" in str(refusal("relay_spool_age", value))


def test_a_spool_is_set_by_variables() -> None:
    variables = {"TASKOBS_RELAY_SPOOL": "/var/spool", "TASKOBS_RELAY_SPOOL_BYTES": "2097152"}
    settings = resolve({}, {**variables, "TASKOBS_RELAY": "0", "TASKOBS_RELAY_SPOOL_AGE": "60"})
    assert (settings.relay, settings.relay_spool) == (False, "/var/spool")
    assert (settings.relay_spool_bytes, settings.relay_spool_age) == (2**21, 60.0)


@pytest.mark.parametrize("value", ["", "  ", 5, b"name"], ids=repr)
@pytest.mark.parametrize("name", ["service_name", "environment", "release"])
def test_a_text_is_text(name: str, value: object) -> None:
    assert refusal(name, value).setting == name


# What is derived


@pytest.mark.parametrize(
    ("arguments", "environ", "url"),
    [
        ({}, {}, None),
        ({"otlp_endpoint": ENDPOINT}, {}, f"{ENDPOINT}/v1/traces"),
        ({"otlp_endpoint": f"{ENDPOINT}/"}, {}, f"{ENDPOINT}/v1/traces"),
        ({"otlp_endpoint": f"{ENDPOINT}/base?k=v"}, {}, f"{ENDPOINT}/base/v1/traces?k=v"),
        ({"otlp_endpoint": f"{ENDPOINT}/v1/traces"}, {}, f"{ENDPOINT}/v1/traces"),
        ({"otlp_endpoint": ENDPOINT, "otlp_protocol": "grpc"}, {}, ENDPOINT),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}, f"{ENDPOINT}/v1/traces"),
        ({}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ENDPOINT}, ENDPOINT),
        (
            {},
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://general",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{ENDPOINT}/own",
            },
            f"{ENDPOINT}/own",
        ),
        (
            {"otlp_endpoint": ENDPOINT},
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://other"},
            f"{ENDPOINT}/v1/traces",
        ),
    ],
)
def test_spans_go_where_opentelemetry_would_send_them(
    arguments: dict[str, object], environ: dict[str, str], url: str | None
) -> None:
    settings = resolve(arguments, environ)
    assert (settings.traces_endpoint, settings.traces) == (url, url is not None)


def test_a_wrong_endpoint_of_the_traces_is_refused_under_its_own_name() -> None:
    with pytest.raises(SettingError, match="variable OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") as caught:
        resolve({}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "collector:4318"})
    assert caught.value.fix == "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://collector:4318"


@pytest.mark.parametrize(
    ("name", "value", "traces"),
    [
        ("OTEL_SDK_DISABLED", "True", False),
        ("OTEL_SDK_DISABLED", "1", True),  # only "true" counts, as OpenTelemetry has it
        ("OTEL_TRACES_EXPORTER", "none", False),
        ("OTEL_TRACES_EXPORTER", "otlp", True),
        ("TASKOBS_ENABLED", "off", False),
    ],
)
def test_traces_can_be_turned_off(name: str, value: str, traces: bool) -> None:  # noqa: FBT001
    assert resolve({"otlp_endpoint": ENDPOINT}, {name: value}).traces is traces


def test_turned_off_means_errors_too() -> None:
    assert not resolve({"sentry_dsn": DSN, "enabled": False}, {}).errors


# Secrets and messages


def test_the_repr_shows_no_secret() -> None:
    """Settings can be logged."""
    settings = resolve(
        {
            "sentry_dsn": "https://s3cret:s3cret@sentry.example/42",
            "otlp_headers": {"authorization": "s3cret"},
            "otlp_endpoint": "http://user:s3cret@collector:4318/?token=s3cret",
        },
        {},
    )
    for shown in (repr(settings), str(settings), f"{settings}"):
        assert "s3cret" not in shown
        assert "https://***@sentry.example/42" in shown
        assert "http://***@collector:4318/" in shown


def test_a_message_names_the_setting_the_value_and_the_fix() -> None:
    assert str(refusal("sample_rate", 10)) == (
        "sample_rate (variable OTEL_TRACES_SAMPLER_ARG) is 10: not a number from 0 (nothing) to 1 "
        "(everything). Write for example: taskobs.init(sample_rate=0.1)"
    )


def test_a_message_stays_short() -> None:
    assert len(str(refusal("otlp_protocol", "x" * 10_000))) < 500


@pytest.mark.parametrize("kind", [TaskobsError, ValueError])
def test_a_setting_error_is_a_value_error(kind: type[Exception]) -> None:
    assert isinstance(refusal("strict", "maybe"), kind)


@pytest.mark.parametrize("error", [refusal("strict", "maybe"), MissingExtraError("grpc", "grpc")])
def test_errors_survive_a_pickle(error: TaskobsError) -> None:
    """Result backends and pools pickle exceptions."""
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # made on this line
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_a_missing_extra_says_what_to_install() -> None:
    error = MissingExtraError("otlp_protocol='grpc'", "grpc")
    assert isinstance(error, ImportError)
    assert str(error) == (
        "otlp_protocol='grpc' needs packages that are not installed: pip install \"taskobs[grpc]\""
    )


# Misspelt variables


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TASKOBS_SEND_ARGUMENT", "TASKOBS_SEND_ARGUMENTS"),
        ("TASKOBS_LOGIDS", "TASKOBS_LOG_IDS"),
        ("TASKOBS_TIMEOUT", "TASKOBS_SHUTDOWN_TIMEOUT"),
        ("OTEL_EXPORTER_OTLP_ENDPIONT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("OTEL_EXPORTER_OTLP_TRACE_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ("OTEL_SERVICENAME", "OTEL_SERVICE_NAME"),
        ("SENTRY_DNS", "SENTRY_DSN"),
        ("SENTRY_ENVIROMENT", "SENTRY_ENVIRONMENT"),
    ],
)
def test_a_misspelt_variable_is_named_with_the_right_one(name: str, meant: str) -> None:
    assert misspelt({name: "x"}) == [f"The variable {name} has no effect. Did you mean {meant}?"]


def test_a_slip_beside_the_right_one_is_left_alone() -> None:
    assert misspelt({"SENTRY_DNS": "x", "SENTRY_DSN": DSN}) == []


def test_every_unknown_variable_of_ours_is_named() -> None:
    assert len(misspelt({"TASKOBS_X": "", "TASKOBS_": "", "TASKOBS_STRICT": "1"})) == 2


OTHERS = """
    OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT OTEL_EXPORTER_OTLP_METRIC_ENDPOINT
    OTEL_EXPORTER_OTLP_SPAN_ENDPOINT OTEL_EXPORTER_OTLP_METRICS_PROTOCOL
    OTEL_EXPORTER_JAEGER_ENDPOINT OTEL_EXPORTER_PROMETHEUS_PORT OTEL_LOG_LEVEL OTEL_CONFIG_FILE
    OTEL_JAVAAGENT_ENABLED OTEL_DOTNET_AUTO_HOME OTEL_NODE_RESOURCE_DETECTORS OTEL_GO_X_EXEMPLAR
    OTEL_PROPAGATORS OTEL_ENTITIES OTEL_PROFILES_EXPORTER OTEL_METRICS_EXPORTER OTEL_SERVICE_VERSION
    SENTRY_DSN_2 SENTRY_DSN2 SENTRY_DSN_WEB SENTRY_DIST SENTRY_DEBUG SENTRY_ORG SENTRY_PROJECT
    SENTRY_AUTH_TOKEN SENTRY_URL SENTRY_TRACES_SAMPLE_RATE SENTRY_PROFILES_SAMPLE_RATE
    SENTRY_SPOTLIGHT
    SENTRY_KEEP_ALIVE SENTRY_SERVER_NAME SENTRY_LOG_LEVEL SENTRY_PROPERTIES SENTRY_RELEASE_NAME
    SENTRY_ENV SENTRY_ENVIRONMENT_NAME SENTRY_BAGGAGE SENTRY_TRACE SENTRY_HOME SENTRY_CONF
    PATH DSN CELERY_BROKER_URL TASKOBSERVER
"""


def test_no_warning_for_the_right_variables_of_others() -> None:
    """OpenTelemetry and Sentry have many variables that taskobs doesn't read."""
    names = [name for name in vars(environment_variables) if name.startswith("OTEL_")]
    assert len(names) > 50
    assert misspelt(dict.fromkeys([*names, *OTHERS.split()], "x")) == []


# The table, and the weight


def test_the_table_has_a_row_for_every_setting() -> None:
    rows = settings.settings_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [name for name, _ in settings.declared()]
    assert all(row.count(" | ") == 3 for row in rows)


@pytest.mark.parametrize(
    ("variables", "endpoint", "protocol"),
    [
        ({"ENDPOINT": "http://c:4318"}, "http://c:4318/v1/logs", "http/protobuf"),
        ({"ENDPOINT": "http://c:4318/base/"}, "http://c:4318/base/v1/logs", "http/protobuf"),
        ({"LOGS_ENDPOINT": "http://c/own"}, "http://c/own", "http/protobuf"),
        (
            {"ENDPOINT": "http://c:4317", "PROTOCOL": "grpc"},
            "http://c:4317",
            "grpc",
        ),
        (
            {"ENDPOINT": "http://c:4317", "LOGS_PROTOCOL": "grpc"},
            "http://c:4317",
            "grpc",
        ),
    ],
)
def test_log_records_go_where_opentelemetrys_variables_say(
    variables: dict[str, str], endpoint: str, protocol: str
) -> None:
    """With `logs="otlp"`, the variables for logs count, and then the general ones."""
    environ = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()}
    found = resolve({"logs": "otlp"}, environ)
    assert (found.logs_endpoint, found.logs_protocol) == (endpoint, protocol)
    assert resolve({}, environ).logs_endpoint is None


def test_log_records_go_beside_the_spans_of_an_argument() -> None:
    """An endpoint in the code is for all that is sent."""
    for given in ("http://c:4318", "http://c:4318/v1/traces"):
        found = resolve({"logs": "otlp", "otlp_endpoint": given}, {})
        assert found.logs_endpoint == "http://c:4318/v1/logs"


def test_log_records_without_an_endpoint_are_refused() -> None:
    """I ask for logs and forget where to: the error says what to set."""
    with pytest.raises(SettingError, match=r"logs .*OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"):
        resolve({"logs": "otlp"}, {})


def test_log_records_can_be_turned_off_by_opentelemetrys_variable() -> None:
    """OTEL_LOGS_EXPORTER=none means for taskobs what it means for others."""
    environ = {"OTEL_LOGS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}
    assert resolve({"logs": "otlp"}, environ).logs_endpoint is None


@pytest.mark.parametrize(("setting", "fix"), [("logs", "otlp"), ("log_format", "json")])
def test_other_words_for_logs_are_refused(setting: str, fix: str) -> None:
    """A word that is none of the choices gets an error with one that is."""
    with pytest.raises(SettingError, match=rf"{setting} .*{fix}"):
        resolve({setting: "console"}, {})


# Pages to link to


def test_pages_may_have_braces_of_their_own() -> None:
    """Grafana's addresses hold JSON."""
    page = 'https://grafana.example/explore?left={"queries":["{trace_id}"]}'
    assert resolve({"trace_url": page}, {}).trace_url == page
    assert resolve({}, {"TASKOBS_EVENT_URL": "http://b/{event_id}/"}).event_url is not None


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("trace_url", "https://jaeger.example/trace/", "without {trace_id}"),
        ("trace_url", "https://jaeger.example/trace/{event_id}", "without {trace_id}"),
        ("event_url", "https://sentry.example/{trace_id}", "without {event_id}"),
        ("trace_url", "jaeger.example/{trace_id}", "neither http:// nor https://"),
        ("trace_url", "https://anna:secret@jaeger.example/{trace_id}", "with credentials"),
        ("event_url", 7, "not a string"),
    ],
)
def test_a_page_without_its_id_is_refused(name: str, value: object, problem: str) -> None:
    """I forget where the id belongs, or leave my password in: I read what works."""
    error = refusal(name, value)
    assert problem in error.problem
    assert "{trace_id}" in error.fix or "{event_id}" in error.fix
    assert "secret" not in str(error)
    assert resolve({name: error.fix.split("'")[1]}, {})
