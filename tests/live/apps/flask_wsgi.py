"""The Flask app as servers want it that take no factory."""

from __future__ import annotations

from tests.live.apps.flask_site import create_app

application = create_app()
