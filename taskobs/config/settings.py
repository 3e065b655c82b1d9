# ruff: noqa: E501  # a setting is declared on one line
"""Settings: an argument of ``init()``, then a variable, then a default.

OpenTelemetry's and Sentry's own variables keep their names and their meaning; those of taskobs
begin with ``TASKOBS_``. An empty variable counts as unset, as in OpenTelemetry.

``init()`` imports this in each process, also in one that only publishes. So what few processes
need is imported where it is used, and no code is generated, as dataclasses and named tuples do.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from taskobs.config import checks, otlp
from taskobs.config.otlp import Source
from taskobs.protocol import spool_defaults

if TYPE_CHECKING:
    from typing_extensions import Self

    from taskobs.config.task_rules import TaskRule
    from taskobs.observers.hooks.protocols import PublishHook, RunHook  # import OpenTelemetry

T = TypeVar("T")

TRACES_SAMPLER: Final = "OTEL_TRACES_SAMPLER"
SAMPLER_ARG: Final = "OTEL_TRACES_SAMPLER_ARG"
ID_GENERATOR: Final = "OTEL_PYTHON_ID_GENERATOR"
SDK_DISABLED: Final = "OTEL_SDK_DISABLED"
RELAY_ADDRESS: Final = "TASKOBS_RELAY_ADDRESS"
"""Not a setting: a worker sets it, so that spawned children find its relay's socket."""
COUNTER_MEMORY: Final = "TASKOBS_COUNTER_MEMORY"
"""The same, so that they find the memory in which they count."""
DOCTOR: Final = "TASKOBS_DOCTOR"
"""The same: ``taskobs doctor`` sets it for the worker that it starts."""
OF_COMMANDS: Final = frozenset({"TASKOBS_BROKER_API", "TASKOBS_JAEGER_API"})
"""Not settings: options of ``taskobs monitor`` and ``taskobs trace`` alone."""
_RATIO_SAMPLERS = ("", "traceidratio", "parentbased_traceidratio")


class Setting:
    """The declaration of a setting."""

    def __init__(
        self,
        variable: str,
        default: object,
        value_check: checks.ValueCheck,
        meaning: str,
        traces_variable: str,
    ) -> None:
        self.variable = variable
        self.default = default
        self.value_check = value_check
        self.meaning = meaning
        self.traces_variable = traces_variable
        """OpenTelemetry's variable for traces alone, which takes precedence over the general one."""


def setting(
    variable: str,
    default: T,
    value_check: checks.ValueCheck,
    meaning: str,
    *,
    traces_variable: str = "",
) -> T:
    """Declare a setting of ``Settings``, whose default is that of the field."""
    return cast("T", Setting(variable, default, value_check, meaning, traces_variable))


class _Record:  # noqa: PLW1641  # of its fields, mappings have no hash
    """Has the fields that its class declares, from keyword arguments; they can't be set later."""

    def __init__(self, **values: object) -> None:
        fields = {name: getattr(type(self), name) for name in type(self).__annotations__}
        unknown = values.keys() - fields
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {min(unknown)!r}")
        vars(self).update((name, _default_of(field)) for name, field in fields.items())
        vars(self).update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} can't be changed")

    def replace(self, **values: object) -> Self:
        """Return a copy with other values of some fields."""
        return type(self)(**{**vars(self), **values})

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)


def _default_of(field: object) -> object:
    return field.default if isinstance(field, Setting) else field


class Settings(_Record):
    """The settings of a session, checked. ``repr()`` shows no secret."""

    # fmt: off
    service_name: str | None = setting("OTEL_SERVICE_NAME", None, checks.TEXT, "The name of this service in traces. Without it: the name of the Celery app.")
    otlp_endpoint: str | None = setting("OTEL_EXPORTER_OTLP_ENDPOINT", None, checks.ENDPOINT, "Where traces, metrics and, with `logs`, log records go, for example `http://localhost:4318`. Without it, or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`: no traces.")
    otlp_protocol: checks.OtlpProtocol = setting("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", checks.PROTOCOL, "How they go: `http/protobuf`, or `grpc` (needs `taskobs[grpc]`).", traces_variable="OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
    otlp_headers: Mapping[str, str] | None = setting("OTEL_EXPORTER_OTLP_HEADERS", None, checks.HEADERS, "Headers sent with them: a mapping, or `name=value,name=value`.", traces_variable="OTEL_EXPORTER_OTLP_TRACES_HEADERS")
    sample_rate: float | None = setting("OTEL_TRACES_SAMPLER_ARG", None, checks.SHARE, "The share of new traces that is kept, 0 to 1. Without it, as `OTEL_TRACES_SAMPLER` says: all.")
    keep: Sequence[str] | None = setting("TASKOBS_KEEP", None, checks.check_in("keep_checks.KEEP"), "Runs that a worker records though their trace is not sampled, with all that is inside them: `failed`, `lost`, `retried`, `slower than 5s`; in the variable separated by commas.")
    sentry_dsn: str | None = setting("SENTRY_DSN", None, checks.DSN, "Where errors go. Without it: no errors are sent, unless the app called `sentry_sdk.init()`.")
    resource: Mapping[str, object] | None = setting("OTEL_RESOURCE_ATTRIBUTES", None, checks.RESOURCE, "More attributes of this service in traces: a mapping, or `name=value,name=value`. `release` and `environment` are there already, as `service.version` and `deployment.environment.name`.")
    environment: str | None = setting("SENTRY_ENVIRONMENT", None, checks.TEXT, "The environment that errors are filed under, for example `production`; in traces `deployment.environment.name`.")
    release: str | None = setting("SENTRY_RELEASE", None, checks.TEXT, "The version of your code that errors are filed under; in traces `service.version`.")
    send_arguments: bool = setting("TASKOBS_SEND_ARGUMENTS", default=False, value_check=checks.SWITCH, meaning="Send the arguments of a failed task to Sentry, scrubbed and cut short.")
    tasks: Mapping[str, TaskRule] | None = setting("TASKOBS_TASKS", None, checks.check_in("rule_checks.TASKS"), "Rules for single tasks, by patterns of their names, of which the first that matches decides: `sample_rate`, `errors`, `link`, `send_arguments` ([rules](../rules.md)); in the variable as JSON.")
    crons: bool = setting("TASKOBS_CRONS", default=False, value_check=checks.SWITCH, meaning="Send check-ins for the entries of beat's schedule to Sentry Crons.")
    crons_exclude: Sequence[str] | None = setting("TASKOBS_CRONS_EXCLUDE", None, checks.check_in("cron_checks.CRONS_EXCLUDE"), "Entries without check-ins: names, or regular expressions that match whole names; in the variable separated by commas.")
    crons_options: Mapping[str, Mapping[str, object]] | None = setting("TASKOBS_CRONS_OPTIONS", None, checks.check_in("cron_checks.CRONS_OPTIONS"), "By the name of an entry: `checkin_margin` and `max_runtime` in minutes, `timezone`, `failure_issue_threshold`, `recovery_threshold`; in the variable as JSON.")
    on_publish: PublishHook | None = setting("", None, checks.check_in("hook_checks.PUBLISH_HOOK"), "A function that is called with each publish and its span, before the message is sent.")
    on_run: RunHook | None = setting("", None, checks.check_in("hook_checks.RUN_HOOK"), "A function that is called with each run and its span, when the run begins.")
    on_run_end: RunHook | None = setting("", None, checks.check_in("hook_checks.RUN_HOOK"), "A function that is called with each run and its span, when the run has ended.")
    context_keys: Collection[str] | None = setting("TASKOBS_CONTEXT_KEYS", None, checks.check_in("context_checks.CONTEXT_KEYS"), "The keys of `taskobs.context()` that a run takes from its message; in the variable separated by commas. Without it: none.")
    instrument: bool | Sequence[str] = setting("TASKOBS_INSTRUMENT", default=False, value_check=checks.check_in("instrument_checks.INSTRUMENT"), meaning="Activate OpenTelemetry's instrumentations of other libraries, where they are installed: `True` for all, or a list of names, such as `flask,redis` in the variable.")
    metrics_port: int | None = setting("TASKOBS_METRICS_PORT", None, checks.check_in("metric_checks.PORT"), "Serve a worker's metrics to Prometheus at this port, at `/metrics`; 0 is any free one, which the log says. Needs `taskobs[prometheus]`. Without it: metrics go over OTLP alone.")
    metrics_address: str = setting("TASKOBS_METRICS_ADDRESS", "127.0.0.1", checks.TEXT, "The address to serve them at. There is no login: who reaches it may read it.")
    metric_buckets: Mapping[str, Sequence[float]] | None = setting("TASKOBS_METRIC_BUCKETS", None, checks.check_in("metric_checks.BUCKETS"), "By the name of a histogram (`celery.task.duration`, `celery.task.queue.wait`, `celery.task.prefetch.wait`), the upper bounds of its buckets in seconds; in the variable as JSON.")
    stock_attributes: bool = setting("TASKOBS_STOCK_ATTRIBUTES", default=True, value_check=checks.SWITCH, meaning="Keep the span attributes of OpenTelemetry's own Celery instrumentation.")
    log_ids: bool = setting("TASKOBS_LOG_IDS", default=True, value_check=checks.SWITCH, meaning="Put the ids of the task and of the trace on every log record.")
    logs: str | None = setting("TASKOBS_LOGS", None, checks.LOGS, "`otlp`: send log records over OTLP, too, with the ids of the task and of the trace. Without it: they go nowhere but to the app's own handlers.")
    log_format: str | None = setting("TASKOBS_LOG_FORMAT", None, checks.LOG_FORMAT, "`json`: have the handlers of Celery's processes write each log record as one line of JSON, with the fields of OpenTelemetry's log data model. Without it: as the app or Celery formats them.")
    trace_url: str | None = setting("TASKOBS_TRACE_URL", None, checks.TRACE_URL, "A page that shows a trace, such as `https://jaeger.example/trace/{trace_id}`: put on Sentry's events, with the ids of their trace (`{trace_id}`, `{span_id}`).")
    event_url: str | None = setting("TASKOBS_EVENT_URL", None, checks.EVENT_URL, "A page that shows an event of Sentry or Bugsink, such as `https://bugsink.example/issues/event/{event_id}/`: put on the span of a failed run, with the id of its event (`{event_id}`).")
    relay: bool = setting("TASKOBS_RELAY", default=True, value_check=checks.SWITCH, meaning="Hand what a worker's processes record to one helper process beside them, which sends it. Off, or where there are no Unix sockets: each process sends its own.")
    relay_providers: bool = setting("TASKOBS_RELAY_PROVIDERS", default=True, value_check=checks.SWITCH, meaning="Have that process send the spans of the app's own `TracerProvider` and the metrics of its `MeterProvider`, too, with the settings of its OTLP exporters. Off: these go on exporting from each process.")
    relay_spool: str | None = setting("TASKOBS_RELAY_SPOOL", None, checks.TEXT, "A directory where the helper process keeps what is not yet sent, over restarts. Without it: in memory.")
    relay_spool_bytes: int = setting("TASKOBS_RELAY_SPOOL_BYTES", spool_defaults.BYTES, checks.BYTES, "Bytes that one worker may keep in `relay_spool`, 1 MiB or more; beyond them the oldest is dropped.")
    relay_spool_age: float = setting("TASKOBS_RELAY_SPOOL_AGE", spool_defaults.AGE, checks.AGE, "Seconds after which what is kept in `relay_spool` is dropped unsent: 60 or more.")
    gc_freeze: bool = setting("TASKOBS_GC_FREEZE", default=False, value_check=checks.SWITCH, meaning="Call `gc.freeze()` in a prefork worker before its children are forked, so that they share more of its memory ([how much](../performance.md#children-that-share-more)).")
    shutdown_timeout: float = setting("TASKOBS_SHUTDOWN_TIMEOUT", 3.0, checks.SECONDS, "Seconds that a process may spend on sending what is left when it ends: above 0, up to 60.")
    strict: bool = setting("TASKOBS_STRICT", default=False, value_check=checks.SWITCH, meaning="Raise what goes wrong inside taskobs, instead of logging it. For tests.")
    enabled: bool = setting("TASKOBS_ENABLED", default=True, value_check=checks.SWITCH, meaning="Off: `init()` changes nothing in the process.")
    # fmt: on

    traces_endpoint: str | None = None
    """The full URL that spans are sent to; None for the exporter's default."""
    metrics_endpoint: str | None = None
    """Where a worker's metrics are sent over OTLP; None if they aren't."""
    logs_endpoint: str | None = None
    """Where log records are sent over OTLP; None if they aren't."""
    logs_protocol: checks.OtlpProtocol = "http/protobuf"
    otlp: bool = False
    """Spans are sent over OTLP."""
    metrics: bool = False
    """A worker's metrics have somewhere to go."""
    other_exporters: Sequence[str] = ()
    """Other exporters of spans, by the names that their packages give them, such as ``console``."""
    traces: bool = False
    """Spans have somewhere to go and are not turned off."""
    errors: bool = False
    """Errors have somewhere to go and are not turned off."""
    given: Mapping[str, Source] = {}
    """Where each setting's value came from."""

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={one.value_check.show(getattr(self, name))}" for name, one in declared()
        )
        return f"Settings({shown}, traces={self.traces}, errors={self.errors})"

    @property
    def shown_endpoint(self) -> str:
        """Where spans go over OTLP, without secrets."""
        return otlp.shown_endpoint(self.otlp_protocol, self.traces_endpoint)

    @property
    def shown_metrics_endpoint(self) -> str | None:
        """Where a worker's relay sends metrics, without secrets; None if it sends none."""
        endpoint = self.metrics_endpoint
        return None if endpoint is None else checks.without_credentials(endpoint)

    @property
    def shown_logs_endpoint(self) -> str | None:
        """Where log records go, without secrets; None if they aren't sent."""
        endpoint = self.logs_endpoint
        return None if endpoint is None else checks.without_credentials(endpoint)

    def given_as(self, name: str) -> str | None:
        """Return how a setting was given: its argument or its variable; None if it was not."""
        match self.given.get(name):
            case "argument":
                return f"{name}={dict(declared())[name].value_check.show(getattr(self, name))}"
            case "variable":
                return dict(declared())[name].variable
            case _:
                return None


def declared() -> Iterator[tuple[str, Setting]]:
    """Every setting by its argument's name, in the order of the table."""
    for name, one in vars(Settings).items():
        if isinstance(one, Setting):
            yield name, one


def resolve(arguments: Mapping[str, object], environ: Mapping[str, str]) -> Settings:
    """Return the settings; an argument that is None was not given.

    Raises:
        SettingError: a value is invalid.
        TypeError: an argument is not one of the settings.
    """
    settings = dict(declared())
    unknown = sorted(set(arguments) - set(settings))
    if unknown:
        raise TypeError(f"taskobs has no setting {unknown[0]!r}")
    variables = {name: text.strip() for name, text in environ.items() if text.strip()}
    values: dict[str, Any] = {name: one.default for name, one in settings.items()}
    given: dict[str, Source] = dict.fromkeys(settings, "default")
    for name in _read(settings, arguments, variables):
        values[name], given[name] = _value(name, settings[name], arguments.get(name), variables)
    if not values["enabled"]:
        return Settings(enabled=False, given=given)
    disabled = variables.get(SDK_DISABLED, "").lower() == "true"
    derived = {} if disabled else otlp.derived(values, given, variables)
    errors = values["sentry_dsn"] is not None
    exported = derived.get("metrics_endpoint") is not None or values["metrics_port"] is not None
    metrics = exported and not disabled
    return Settings(**{**values, **derived}, errors=errors, metrics=metrics, given=given)


def _read(
    settings: Mapping[str, Setting], arguments: Mapping[str, object], variables: Mapping[str, str]
) -> Iterator[str]:
    """Give the names of the settings to read: what is disabled isn't even checked.

    Only "true" disables the SDK, as OpenTelemetry's specification requires.
    """
    enabled, _ = _value("enabled", settings["enabled"], arguments.get("enabled"), variables)
    if not enabled:
        yield "enabled"
        return
    disabled = variables.get(SDK_DISABLED, "").lower() == "true"
    for name, one in settings.items():
        if not (disabled and one.variable.startswith("OTEL_")):
            yield name


def _value(
    name: str, one: Setting, argument: object, variables: Mapping[str, str]
) -> tuple[object, Source]:
    if argument is not None:
        fix = f"taskobs.init({name}={{!r}})"
        return checks.checked(name, one.variable, one.value_check, argument, fix), "argument"
    for variable in (one.traces_variable, one.variable):
        if variable in variables and _counts(variable, variables):
            text = variables[variable]
            fix = f"{variable}={{}}"
            return checks.checked(name, variable, one.value_check, text, fix), "variable"
    return one.default, "default"


def _counts(variable: str, variables: Mapping[str, str]) -> bool:
    """Tell whether a variable means its setting: a sampler's argument may be another value."""
    is_of_sampler = variable == SAMPLER_ARG
    return not is_of_sampler or variables.get(TRACES_SAMPLER, "").lower() in _RATIO_SAMPLERS


def misspelt(environ: Mapping[str, str]) -> list[str]:
    """Return a warning for each variable that looks like a setting but is none.

    Every unknown ``TASKOBS_`` variable is named. OpenTelemetry and Sentry know many variables that
    taskobs doesn't read, so theirs are named only if they look like a typo of one that it reads,
    and that one is not set.
    """
    read = _variables_read()
    ours = [name for name in read if name.startswith("TASKOBS_")]
    theirs = [name for name in read if name not in ours and not environ.get(name)]
    warnings: list[str] = []
    for name in sorted(environ):
        if name in read or name in {RELAY_ADDRESS, COUNTER_MEMORY, DOCTOR, *OF_COMMANDS}:
            continue
        nearest = _nearest(name, ours, theirs)
        if nearest:
            warnings.append(f"The variable {name} has no effect. Did you mean {nearest}?")
    return warnings


def _variables_read() -> frozenset[str]:
    of_settings = {
        name for _, one in declared() for name in (one.variable, one.traces_variable) if name
    }
    return frozenset(
        of_settings
        | {otlp.TRACES_ENDPOINT, otlp.TRACES_EXPORTER, TRACES_SAMPLER, ID_GENERATOR, SDK_DISABLED}
    )


def _nearest(name: str, ours: list[str], theirs: list[str]) -> str | None:
    import difflib  # for a name that may be a slip, which few processes have

    if name.startswith("TASKOBS_"):
        return difflib.get_close_matches(name, ours, n=1, cutoff=0)[0]
    if not name.startswith(("OTEL_", "SENTRY_")) or re.fullmatch(_OTHERS, name):
        return None
    near = difflib.get_close_matches(name, theirs, n=1, cutoff=0.9)
    # SENTRY_DSN_2 and SENTRY_DSN2 are somebody's own variables, not slips.
    return near[0] if near and not re.match(rf"{near[0]}[_\d]", name) else None


_OTHERS: Final = r"OTEL_EXPORTER_OTLP_(SPAN|METRIC|METRICS|LOGS|PROFILES)_.+|OTEL_(METRICS|LOGS|PROFILES)_EXPORTER"
"""Valid names of other libraries that are as similar to ours as a typo would be."""


def settings_table() -> str:
    """Return the settings as a Markdown table, for docs/reference/settings.md."""
    rows = [
        f"| `{name}` | {f'`{one.variable}`' if one.variable else ''} | {_default(one.default)} | {one.meaning} |"
        for name, one in declared()
    ]
    return "\n".join(["| Argument | Variable | Default | Meaning |", "|---|---|---|---|", *rows])


def _default(value: object) -> str:
    return "" if value is None else f"`{value}`"
