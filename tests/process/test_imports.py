"""What an import of taskobs imports, seen in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

IMPORTS = """
import sys
import taskobs.relay.__main__
from taskobs.relay.export.sentry import SentryPoster
SentryPoster("http://key@127.0.0.1:9/1", {})
large = ("sentry_sdk", "gevent", "eventlet", "httpcore", "psutil", "charset_normalizer", "celery")
print([name for name in large if name in sys.modules])
"""


@pytest.mark.parametrize("heavy", ["sentry_sdk", "opentelemetry.sdk", "celery"])
def test_import_loads_nothing_heavy(heavy: str) -> None:
    """I import taskobs in a process that never calls init(), and it costs next to nothing."""
    source = f"import sys, taskobs; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


def test_reading_settings_loads_no_sdk() -> None:
    """A setting is judged before anything heavy is loaded."""
    code = "import sys, taskobs.config; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert not {"celery", "sentry_sdk", "opentelemetry.sdk"} & set(done.stdout.split())


def test_what_is_large_and_of_no_use_is_not_imported() -> None:
    """Where gevent and eventlet are installed, the relay is as small as where they are not."""
    script = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
