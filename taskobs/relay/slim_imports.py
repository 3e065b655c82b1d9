"""Keeps modules out of the relay's process that its libraries import only if they are installed.

Imported by ``__main__`` alone, before those libraries: the effect is meant for that process. It
saves 4 MB.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from typing import Any, Final, cast

_UNUSED: Final = {
    "charset_normalizer": "requests guesses the encoding of a text that names none",
    "chardet": "same",
    "simplejson": "requests reads JSON",
    "psutil": "the SDK detects resources",
}
"""Modules, and what they are imported for: nothing that the relay does."""


def _import_slim() -> None:
    hidden_modules = [name for name in _UNUSED if name not in sys.modules]
    for name in hidden_modules:
        sys.modules[name] = cast("Any", None)  # an import of it raises ImportError
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # requests warns that it cannot guess
            import_module("requests")
            import_module("opentelemetry.sdk.resources")
    finally:
        for name in hidden_modules:
            del sys.modules[name]


_import_slim()
