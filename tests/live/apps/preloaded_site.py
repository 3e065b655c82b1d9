"""A Flask app that publishes while gunicorn loads it, before any of its workers is forked."""

from __future__ import annotations

from tests.live.apps.flask_site import create_app
from tests.live.apps.shop import add

early = [add.delay(n, n).id for n in range(3)]
web = create_app()


@web.get("/early")
def tell() -> list[str]:
    """Give the ids of what was published before the fork."""
    return [str(task_id) for task_id in early]
