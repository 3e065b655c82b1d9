"""A Django project in the usual layout."""

from tests.live.apps.django_site.celery import app as celery_app

__all__ = ["celery_app"]
