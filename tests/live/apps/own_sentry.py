"""The shop of somebody who initialises Sentry himself, with all that it can send."""

from __future__ import annotations

import os

import sentry_sdk

before = os.environ["APP_SENTRY_INIT"] == "before"
if before:
    sentry_sdk.init(dsn=os.environ["APP_SENTRY_DSN"], send_default_pii=True)

from tests.live.apps.shop import *  # noqa: E402, F403  # it calls taskobs.init()
from tests.live.apps.shop import app as app  # noqa: E402, PLC0414

if not before:
    sentry_sdk.init(dsn=os.environ["APP_SENTRY_DSN"], send_default_pii=True)
