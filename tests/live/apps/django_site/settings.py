"""The project's settings."""

from __future__ import annotations

import os

if "APP_SENTRY_DSN" in os.environ:
    import sentry_sdk

    sentry_sdk.init(dsn=os.environ["APP_SENTRY_DSN"])

SECRET_KEY = "of a test"  # noqa: S105  # it guards nothing
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "tests.live.apps.django_site.urls"
WSGI_APPLICATION = "tests.live.apps.django_site.wsgi.application"
USE_TZ = True
CELERY_BROKER_URL = os.environ["APP_BROKER"]
CELERY_RESULT_BACKEND = os.environ["APP_BACKEND"]
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_PROC_ALIVE_TIMEOUT = 120.0
