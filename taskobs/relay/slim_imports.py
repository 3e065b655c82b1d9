"""Keeps modules out of the relay's process that its libraries import only if they are installed.

Imported by ``__main__`` alone, before those libraries: the effect is meant for that process. It
saves 4 MB.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Final

from taskobs.internal.hidden_modules import hidden_modules

_UNUSED: Final = {
    "charset_normalizer": "requests guesses the encoding of a text that names none",
    "chardet": "same",
    "simplejson": "requests reads JSON",
    "psutil": "the SDK detects resources",
}
"""Modules, and what they are imported for: nothing that the relay does."""


def _import_slim() -> None:
    with hidden_modules(*_UNUSED), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # requests warns that it cannot guess
        import_module("requests")
        import_module("opentelemetry.sdk.resources")


_import_slim()
