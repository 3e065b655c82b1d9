"""Keeps out of the relay's process what its libraries import where it is installed, and can miss.

Imported by ``__main__`` alone, before those libraries, and by nothing else: the effect is meant
for that process. Without: 4 MB less. What ``sentry_sdk`` would bring with it, 20 MB, is kept out
by ``envelopes_out``, where that is imported.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from typing import Any, Final, cast

_MISSED: Final = {
    "charset_normalizer": "requests guesses the encoding of a text that says none",
    "chardet": "same",
    "simplejson": "requests reads JSON",
    "psutil": "the SDK detects resources",
}
"""Modules, and what for the relay does not do."""


def _import_slim() -> None:
    hidden_modules = [name for name in _MISSED if name not in sys.modules]
    for name in hidden_modules:
        sys.modules[name] = cast("Any", None)  # what makes an import fail
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # requests warns that it cannot guess
            import_module("requests")
            import_module("opentelemetry.sdk.resources")
    finally:
        for name in hidden_modules:
            del sys.modules[name]


_import_slim()
