"""The extensions, each made once and bound to the app by the factory."""

from __future__ import annotations

from celery import Celery, Task
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

import taskobs

database = SQLAlchemy()


def make_celery(app: Flask) -> Celery:
    """Make the Celery app as Flask's documentation does, and observe it."""

    class ContextTask(Task):
        """Runs in the app's context."""

        def __call__(self, *args: object, **options: object) -> object:
            with app.app_context():
                return self.run(*args, **options)

    celery = Celery("flask_shop", task_cls=ContextTask)
    celery.config_from_object(app.config["CELERY"])
    celery.set_default()
    app.extensions["celery"] = celery
    taskobs.init(instrument=True)
    return celery
