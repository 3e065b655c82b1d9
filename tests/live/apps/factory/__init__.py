"""A Flask app in the usual layout, with an extension each for Celery, Sentry and OpenTelemetry.

``taskobs.init()`` stands at one of five places, as ``APP_INIT_AT`` says.
"""

from __future__ import annotations

from tests.live.apps.factory.place import here

here("before all else")
