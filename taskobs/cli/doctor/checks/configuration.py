"""Checks of what the app and the environment of this process say."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

from taskobs.cli.doctor.evidence import Evidence
from taskobs.cli.doctor.finding import Finding, broken, ok, unknown, warning
from taskobs.config import checks
from taskobs.config.settings import SDK_DISABLED, TRACES_SAMPLER, misspelt
from taskobs.errors import MissingExtraError, SettingError

NOT_IMPORTED: Final = "the app was not imported"
_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_PROTOCOL: Final = "OTEL_EXPORTER_OTLP_PROTOCOL"
_SIGNAL_PATH: Final = re.compile(r"/v1/(traces|metrics|logs)/*$")
_GRPC_PORT: Final = 4317
_HTTP_PORT: Final = 4318
_OFF: Final = frozenset({"always_off", "parentbased_always_off"})


def app(evidence: Evidence) -> Finding:
    """Look whether the app can be imported."""
    error = evidence.load_error
    if error is None:
        return ok(f"{evidence.name} is the app {evidence.app.main!r}")
    if evidence.setting_error is not None:
        return unknown("init() has refused a setting: see settings")
    return broken(str(error), _fix_of_import(evidence.name, error.__cause__ or error))


def _fix_of_import(name: str, error: BaseException) -> str:
    module = name.partition(":")[0]
    if isinstance(error, AttributeError) or getattr(error, "name", None) == name != module:
        return f"taskobs doctor -A {module}:<name of the app>"  # Celery takes it for a module
    if isinstance(error, ModuleNotFoundError) and error.name:
        if module == error.name or module.startswith(f"{error.name}."):
            return f"cd <the folder from which `celery -A {name}` starts>"
        return f"install what provides the module {error.name} in the environment of taskobs"
    return f"python -c 'import {module}'  # shows the whole traceback"


def init(evidence: Evidence) -> Finding:
    """Look whether importing the app calls ``taskobs.init()``."""
    if evidence.app is None:
        return unknown(NOT_IMPORTED)
    if evidence.session is None:
        what = f"importing {evidence.name} does not call taskobs.init()"
        fix = "import taskobs; taskobs.init()  # next to Celery(...)"
        if evidence.probe is not None and evidence.probe.initialised:
            return warning(f"{what}; its worker does, so publishes elsewhere make no spans", fix)
        return broken(what, fix)
    return ok("importing the app calls taskobs.init()")


def settings(evidence: Evidence) -> Finding:
    """Look whether each setting has a value that can work, and each variable a meaning."""
    error = evidence.setting_error
    if isinstance(error, SettingError):
        return broken(str(error), error.fix)
    if isinstance(error, MissingExtraError):
        return broken(str(error), f'pip install "taskobs[{error.extra}]"')
    found = misspelt(evidence.environ)
    if found:
        text, _, right = found[0].removesuffix("?").partition(" Did you mean ")
        return warning(text, f"export {right}=...")
    return ok("all settings are accepted")


def switched_on(evidence: Evidence) -> Finding:
    """Look whether taskobs or OpenTelemetry is switched off."""
    if evidence.environ.get(SDK_DISABLED, "").strip().lower() == "true":
        return broken(f"{SDK_DISABLED}=true: no spans are made", f"unset {SDK_DISABLED}")
    found = evidence.settings
    if found is None or found.enabled:
        return ok("nothing is switched off")
    if found.given.get("enabled") == "argument":
        return broken("init(enabled=False): nothing is recorded", "taskobs.init(enabled=True)")
    return broken("TASKOBS_ENABLED is off: nothing is recorded", "unset TASKOBS_ENABLED")


def destination(evidence: Evidence) -> Finding:
    """Look whether this process knows where telemetry goes."""
    if evidence.destination is not None:
        return ok(evidence.destination)
    if evidence.settings is not None and (evidence.settings.traces or evidence.settings.errors):
        return unknown("there are an endpoint or a DSN, and no session that uses them")
    what = "this process has neither an endpoint nor a DSN, so nothing is recorded"
    fix = f"export {_ENDPOINT}=http://localhost:4318  # and SENTRY_DSN; here, and for each process"
    return broken(what, fix)


def endpoint_path(evidence: Evidence) -> Finding:
    """Look whether a path is added twice, or not at all."""
    general = evidence.environ.get(_ENDPOINT, "").strip()
    found = _SIGNAL_PATH.search(general)
    if found and not _is_grpc(evidence) and _is_variable(evidence):
        shown = checks.without_credentials(general[: found.start()])
        what = f"{_ENDPOINT} ends in /v1/{found[1]}, and the path of each signal is added to it"
        return broken(what, f"export {_ENDPOINT}={shown}")
    return _path_of_traces(evidence)


def _path_of_traces(evidence: Evidence) -> Finding:
    endpoint = evidence.settings and evidence.settings.traces_endpoint
    if not endpoint or _is_grpc(evidence) or evidence.accepted("traces"):
        return ok("the paths of endpoints are right")
    path = urlsplit(endpoint).path.rstrip("/")
    if path.endswith("/v1/traces"):
        return ok("the paths of endpoints are right")
    name = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    what = f"{name} is used as it is, and does not end in /v1/traces"
    shown = checks.without_credentials(endpoint).rstrip("/")
    return warning(what, f"export {name}={shown}/v1/traces")


def endpoint_port(evidence: Evidence) -> Finding:
    """Look whether the protocol is that of the endpoint's usual port."""
    found = evidence.settings
    if found is None or not found.otlp:
        return ok("spans don't go over OTLP")
    port = _port(found.traces_endpoint or "")
    fits = port != (_HTTP_PORT if _is_grpc(evidence) else _GRPC_PORT)
    if fits or evidence.accepted("traces"):
        return ok(f"{found.otlp_protocol} at {found.shown_endpoint}")
    what = f"port {port} is usually not for {found.otlp_protocol}, which is what is sent"
    return broken(what, f"export {_PROTOCOL}={'http/protobuf' if _is_grpc(evidence) else 'grpc'}")


def protocol(evidence: Evidence) -> Finding:
    """Look whether the exporter of the protocol is installed."""
    found = evidence.settings
    if found is None or not found.otlp:
        return ok("spans don't go over OTLP")
    if _is_grpc(evidence) and not _can_grpc():
        what = "grpc needs packages that are not installed"
        return broken(what, f'pip install "taskobs[grpc]"  # or {_PROTOCOL}=http/protobuf')
    return ok(f"the exporter for {found.otlp_protocol} is installed")


def sampling(evidence: Evidence) -> Finding:
    """Look whether any trace is recorded."""
    found = evidence.settings
    if found is None or not found.traces or evidence.provider is not None:
        return ok("nothing is left out by settings of taskobs")
    sampler = evidence.environ.get(TRACES_SAMPLER, "").strip().lower()
    if sampler in _OFF and not found.keep:
        what = f"{TRACES_SAMPLER}={sampler}: no trace is recorded"
        return broken(what, f"export {TRACES_SAMPLER}=parentbased_always_on")
    if found.sample_rate == 0 and not found.keep:
        return broken("sample_rate is 0: no trace is recorded", "taskobs.init(sample_rate=0.1)")
    rate = found.sample_rate
    return ok("all traces are recorded" if rate is None else f"{rate:.0%} of traces are recorded")


def eager(evidence: Evidence) -> Finding:
    """Look whether tasks are published at all."""
    if evidence.app is None:
        return unknown(NOT_IMPORTED)
    if evidence.app.conf.task_always_eager:
        what = "task_always_eager is on: tasks run in the process that calls them, and no worker"
        return warning(f"{what} gets any", "app.conf.task_always_eager = False")
    return ok("tasks are published")


def _is_grpc(evidence: Evidence) -> bool:
    return evidence.settings is not None and evidence.settings.otlp_protocol == "grpc"


def _is_variable(evidence: Evidence) -> bool:
    found = evidence.settings
    return found is None or found.given.get("otlp_endpoint") != "argument"


def _port(endpoint: str) -> int | None:
    try:
        return urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").port
    except ValueError:
        return None


def _can_grpc() -> bool:
    try:
        return bool(find_spec("grpc") and find_spec("opentelemetry.exporter.otlp.proto.grpc"))
    except ImportError:
        return False
