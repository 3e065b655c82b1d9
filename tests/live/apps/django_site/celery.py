"""The project's Celery app."""

from __future__ import annotations

import os

from celery import Celery

import taskobs

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.live.apps.django_site.settings")
app = Celery("django_site")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["tests.live.apps.django_site"])
taskobs.init()
