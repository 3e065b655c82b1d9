"""Samplers, id generators and exporters that ``OTEL_*`` variables name.

OpenTelemetry's own configurator, which ``opentelemetry-instrument`` runs, reads the same variables.
A provider that is made in code, such as ours, reads the names of the SDK's own samplers only.
"""

from __future__ import annotations

import logging
import os
from importlib.metadata import entry_points
from typing import Any, Final

from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio, Sampler

from taskobs.config.otlp import TRACES_EXPORTER
from taskobs.config.settings import ID_GENERATOR, SAMPLER_ARG, TRACES_SAMPLER, Settings

_log: Final = logging.getLogger("taskobs")
_SDK_SAMPLERS: Final = frozenset(
    {
        *("always_on", "always_off", "traceidratio"),
        *("parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"),
    }
)


def sampler_of(settings: Settings) -> Sampler | None:
    """Return the sampler that the settings ask for; None lets the SDK choose one of its own.

    The SDK reads ``OTEL_TRACES_SAMPLER_ARG`` only beside ``OTEL_TRACES_SAMPLER``; here it works
    alone, too.
    """
    name = os.environ.get(TRACES_SAMPLER, "").strip()
    if settings.given["sample_rate"] != "argument" and name:
        return None if name.lower() in _SDK_SAMPLERS else _sampler(name)
    return None if settings.sample_rate is None else ParentBasedTraceIdRatio(settings.sample_rate)


def _sampler(name: str) -> Sampler | None:
    try:
        made = _load("opentelemetry_traces_sampler", name)(os.environ.get(SAMPLER_ARG))
    except Exception as error:  # noqa: BLE001  # somebody else's function
        _warn(TRACES_SAMPLER, name, f"the default sampler is used: {error!r}")
        return None
    if isinstance(made, Sampler):
        return made
    _warn(TRACES_SAMPLER, name, "the default sampler is used: it makes no sampler")
    return None


def id_generator() -> IdGenerator | None:
    """Return the generator that ``OTEL_PYTHON_ID_GENERATOR`` names; None for random ids."""
    name = os.environ.get(ID_GENERATOR, "").strip()
    if not name or name == "random":
        return None
    try:
        made = _load("opentelemetry_id_generator", name)()
    except Exception as error:  # noqa: BLE001  # somebody else's class
        _warn(ID_GENERATOR, name, f"ids are random: {error!r}")
        return None
    if isinstance(made, IdGenerator):
        return made
    _warn(ID_GENERATOR, name, "ids are random: it is no generator of ids")
    return None


def exporter_of(name: str) -> SpanExporter | None:
    """Return a new exporter named in ``OTEL_TRACES_EXPORTER``; None if it can't be made."""
    try:
        made = _load("opentelemetry_traces_exporter", name)()
    except Exception as error:  # noqa: BLE001  # somebody else's class
        _warn(TRACES_EXPORTER, name, f"nothing is sent there: {error!r}")
        return None
    return made if isinstance(made, SpanExporter) else None


def _load(group: str, name: str) -> Any:  # noqa: ANN401  # whatever a package registers
    found = next(iter(entry_points(group=group, name=name)), None)
    if found is None:
        raise LookupError(f"no installed package has an entry point {name!r} in {group}")
    return found.load()


def _warn(variable: str, name: str, what: str) -> None:
    _log.warning("taskobs: %s=%s cannot be used, so %s", variable, name, what)
