"""A worker that a script starts, without the command ``celery``."""

from __future__ import annotations

import sys

from tests.live.apps.kinds import app

if __name__ == "__main__":
    app.worker_main(sys.argv[1:])
