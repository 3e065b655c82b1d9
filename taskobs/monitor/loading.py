"""Finds a Celery app by what is given to ``-A``."""

# Celery ships no types, and those of its stubs are generic.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from celery import Celery


class AppNotFound(Exception):  # noqa: N818  # no error of ours: what was given is wrong
    """There is no app by that name; the message says why."""


def load_app(name: str) -> Celery:
    """Import an app, by a name as ``celery -A`` takes it.

    Raises:
        AppNotFound: its module can't be imported, or has no app.
    """
    from celery.app.utils import find_app

    sys.path.insert(0, "")  # as `celery` does, whose script is not in the app's folder either
    try:
        found: Any = find_app(name)
    except Exception as error:
        raise AppNotFound(f"{name!r} can't be loaded: {type(error).__name__}: {error}") from error
    finally:
        with suppress(ValueError):  # the app has removed it
            sys.path.remove("")
    if not isinstance(found, Celery):
        raise AppNotFound(f"{name!r} is no Celery app, but {type(found).__name__}")
    app: Celery = found
    return app
