"""What the tests share: the app on a broker in memory, and a worker in a thread for all of them."""

from __future__ import annotations

import pytest
import shop
from celery import Celery

pytest_plugins = ("celery.contrib.pytest",)


@pytest.fixture(scope="session")
def celery_session_app() -> Celery:
    """Give the app itself to ``celery_session_worker``."""
    shop.app.conf.update(
        broker_url="memory://",
        result_backend="cache+memory://",
        broker_transport_options={"polling_interval": 0.01},
    )
    return shop.app


@pytest.fixture(scope="session")
def celery_worker_parameters() -> dict[str, object]:
    """Start that worker without a task of Celery's own."""
    return {"perform_ping_check": False}
