"""What a web server loads."""

from __future__ import annotations

import os

from django.core.wsgi import (  # type: ignore[import-untyped]  # it has no stubs here
    get_wsgi_application,
)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.live.apps.django_site.settings")
application = get_wsgi_application()
