"""The shop, with the trouble at its start that a test asks for."""

from __future__ import annotations

import os
from importlib import import_module

from celery import signals

from tests.live.apps.shop import app

TROUBLE = os.environ["APP_TROUBLE"]

if TROUBLE == "autodiscover":
    app.autodiscover_tasks(["tests.live.apps"], related_name="broken_tasks")
if TROUBLE == "load":
    import_module("tests.live.apps.broken_tasks")


@signals.worker_init.connect
def _prepare(**_: object) -> None:
    if TROUBLE == "worker_init":
        msg = "no licence for this warehouse"
        raise RuntimeError(msg)
