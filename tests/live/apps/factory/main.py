"""What web server, worker and beat load."""

from __future__ import annotations

from tests.live.apps.factory.ext_celery import celery
from tests.live.apps.factory.place import here
from tests.live.apps.factory.web import create_app

web = create_app()
app = celery
here("after the factory")
