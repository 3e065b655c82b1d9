"""Taskobs in a Django project: the line is in ``celery.py``, which is imported here."""

from .celery import app as celery_app

__all__ = ["celery_app"]
