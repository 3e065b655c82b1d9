"""Which private names of Celery and OpenTelemetry this process's releases of them lack.

Those of Sentry are looked at when Sentry is first used: it is not imported for that.
"""

from __future__ import annotations

from typing import Final

from taskobs.celery import _compat
from taskobs.internal.private_names import warn_of_missing
from taskobs.otel import _sdk_compat
from taskobs.otel.app import _compat as _exporter_compat

_NAMES: Final = (*_compat.NAMES, *_sdk_compat.NAMES, *_exporter_compat.NAMES)


def warn_of_missing_names() -> None:
    """Log a warning for each name that an imported module lacks, once a process.

    Call it again when more modules may have been imported.
    """
    warn_of_missing(_NAMES)
