"""The Celery app, and the line."""

import os

from celery import Celery

import taskobs

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
app = Celery("django_shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
taskobs.init(instrument=True)
