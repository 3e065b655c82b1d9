"""The resource of our spans: the attributes of the process that made them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, cast
from uuid import UUID, uuid5

from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_VERSION,
    TELEMETRY_SDK_LANGUAGE,
    TELEMETRY_SDK_NAME,
    TELEMETRY_SDK_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.version import __version__ as sdk_version
from opentelemetry.util.types import AttributeValue

from taskobs.config.settings import Settings

_ENVIRONMENT: Final = "deployment.environment.name"
_OLD_ENVIRONMENT: Final = "deployment.environment"
_DEFAULT_NAME: Final = "celery"
_UNNAMED: Final = "unknown_service"
"""Prefix of the SDK's default service name."""

_INSTANCES: Final = UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")
"""The namespace that OpenTelemetry's conventions give for ``service.instance.id``."""

AppName = Callable[[], "str | None"]


def resource_of(settings: Settings, app_name: AppName) -> Resource:
    """Return the resource of the settings and of ``OTEL_RESOURCE_ATTRIBUTES``.

    A service without a name gets the name of the Celery app, once there is one.
    """
    found = _created(_given(settings))
    found = found.merge(Resource(_of_sentry(settings, found.attributes)))
    if str(found.attributes.get(SERVICE_NAME, _UNNAMED)).startswith(_UNNAMED):
        return LateResource(found, app_name)
    return found


def _created(attributes: Mapping[str, AttributeValue]) -> Resource:
    try:
        return Resource.create(attributes)
    except RuntimeError:  # exit hooks run, and the SDK's detectors need threads, which can't start
        sdk: dict[str, AttributeValue] = {
            TELEMETRY_SDK_LANGUAGE: "python",
            TELEMETRY_SDK_NAME: "opentelemetry",
            TELEMETRY_SDK_VERSION: sdk_version,
        }
        return Resource(sdk).merge(OTELResourceDetector().detect()).merge(Resource(attributes))


def _given(settings: Settings) -> dict[str, AttributeValue]:
    # The SDK reads the variable of the setting by itself.
    by_argument = settings.given["resource"] == "argument"
    given = dict(
        cast("Mapping[str, AttributeValue]", settings.resource or {} if by_argument else {})
    )
    named_by_argument = settings.given["service_name"] == "argument"
    if settings.service_name and (named_by_argument or SERVICE_NAME not in given):
        given[SERVICE_NAME] = settings.service_name
    return given


def _of_sentry(settings: Settings, attributes: Mapping[str, object]) -> dict[str, AttributeValue]:
    """Return Sentry's release and environment, where the resource has no such attribute."""
    found: dict[str, AttributeValue] = {}
    if settings.release and SERVICE_VERSION not in attributes:
        found[SERVICE_VERSION] = settings.release
    if settings.environment and not {_ENVIRONMENT, _OLD_ENVIRONMENT} & attributes.keys():
        found[_ENVIRONMENT] = settings.environment
    return found


def with_instance(resource: Resource, name: str) -> Resource:
    """Return a resource with an instance that has this name: the same one after a restart.

    The SDK gives a random id (seen in 1.44), so only the variable counts as the user's choice.
    """
    if f"{SERVICE_INSTANCE_ID}=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        return resource
    return resource.merge(Resource({SERVICE_INSTANCE_ID: str(uuid5(_INSTANCES, name))}))


class LateResource(Resource):
    """A resource that finds the service's name when it is read: by then the app exists.

    Spans refer to the resource, so earlier spans get the name too. It is equal only to itself:
    exporters group spans by resource, and the SDK's ``__hash__`` serializes it to JSON each time.
    """

    def __init__(self, resource: Resource, app_name: AppName) -> None:
        super().__init__(resource.attributes, resource.schema_url)
        self._app_name = app_name

    @property
    def attributes(self) -> Any:  # noqa: ANN401  # its type has another name in each release
        """Return the attributes, with the app's name, or a default while there is no app."""
        return {**super().attributes, SERVICE_NAME: self._app_name() or _DEFAULT_NAME}

    def merge(self, other: Resource) -> Resource:
        """Return this resource with another one's attributes, which may name the service."""
        merged = Resource(super().attributes, self.schema_url).merge(other)
        return merged if SERVICE_NAME in other.attributes else LateResource(merged, self._app_name)

    def to_json(self, indent: int | None = 4) -> str:
        """Return it as JSON."""
        fields = {"attributes": self.attributes, "schema_url": self.schema_url}
        return json.dumps(fields, indent=indent)

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other
