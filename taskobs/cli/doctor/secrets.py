"""Masks secrets in what is printed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

from taskobs.cli.doctor.evidence import Evidence

_MASK: Final = "***"
_CREDENTIALS: Final = re.compile(r"//[^/\s@]*@")
_ASSIGNED: Final = re.compile(
    r"""
    (?P<name> (?:password|passwd|secret|token|(?:api|access|account)[_-]?key) \w{0,40} ["']? )
    (?P<sign> = | \s{0,4} : \s{0,4} (?=["']) )
    (?: "[^"]*" | '[^']*' | [^\s,;&"'})\]]+ )
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""``password=...`` or ``"token": "..."`` in what a library or the app says."""
_LONG: Final = 8
"""Characters of a secret that is masked anywhere; a shorter one, where it is a whole word."""
_URLS: Final = ("broker_url", "broker_read_url", "broker_write_url", "result_backend")
_PASSWORDS: Final = ("broker_password", "redis_password")
_OPTIONS: Final = ("broker_transport_options", "result_backend_transport_options")
_SECRET: Final = re.compile("password|passwd|secret|token|(api|access|account)_?key", re.IGNORECASE)


class Secrets:
    """The secrets of an app and of the environment."""

    def __init__(self, values: Iterable[str]) -> None:
        found = sorted({value for value in values if value}, key=len, reverse=True)
        patterns = [_pattern(value) for value in found]
        self._found = re.compile("|".join(patterns)) if patterns else None

    @classmethod
    def of(cls, evidence: Evidence) -> Secrets:
        """Collect what must not be shown."""
        return cls(_secrets(evidence))

    def mask(self, text: str) -> str:
        """Return a text without them."""
        text = _CREDENTIALS.sub(f"//{_MASK}@", text)
        text = _ASSIGNED.sub(rf"\g<name>\g<sign>{_MASK}", text)
        return text if self._found is None else self._found.sub(_MASK, text)


def _pattern(value: str) -> str:
    escaped = re.escape(value)
    return escaped if len(value) >= _LONG else rf"(?<!\w){escaped}(?!\w)"


def _secrets(evidence: Evidence) -> Iterator[str]:
    yield from _of_environment(evidence.environ)
    settings = evidence.settings
    if settings is not None:
        yield from _of_headers((settings.otlp_headers or {}).values())
        for url in (settings.traces_endpoint, settings.metrics_endpoint, settings.logs_endpoint):
            yield from _of_url(url or "")
    yield from _of_url(evidence.dsn or "")
    if evidence.app is not None:
        yield from _of_app(evidence.app.conf)


def _of_environment(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        if name.startswith("OTEL_") and name.endswith("HEADERS"):
            pairs = (pair.partition("=")[2] for pair in value.split(","))
            yield from _of_headers(map(str.strip, pairs))
        elif "://" in value:
            yield from _of_url(value)
        elif len(value) >= _LONG and _SECRET.search(name):
            yield value


def _of_headers(values: Iterable[str]) -> Iterator[str]:
    for value in values:
        for one in (value, unquote(value)):
            yield one
            yield from one.split()[1:]  # what follows "Bearer" or "Basic"


def _of_app(conf: Any) -> Iterator[str]:  # noqa: ANN401  # Celery's configuration
    for name in _URLS:
        for url in _texts(getattr(conf, name, None)):
            yield from _of_url(url)
    yield from (text for name in _PASSWORDS for text in _texts(getattr(conf, name, None)))
    for name in _OPTIONS:
        yield from _of_options(getattr(conf, name, None))


def _of_options(value: object) -> Iterator[str]:
    """Yield the values below names that say that they are secret."""
    if isinstance(value, Mapping):
        for name, one in cast("Mapping[object, object]", value).items():
            yield from _texts(one) if _SECRET.search(str(name)) else _of_options(one)


def _texts(value: object) -> Iterator[str]:
    """Yield the texts of a setting: one, several that `;` separates, or a list."""
    if isinstance(value, str):
        yield from value.split(";")
    elif isinstance(value, (list, tuple)):
        for one in value:  # pyright: ignore[reportUnknownVariableType]  # anything may be in it
            yield from _texts(one)  # pyright: ignore[reportUnknownArgumentType]  # same


def _of_url(url: str) -> Iterator[str]:
    """Yield its password; for HTTP, also its user name and query, where a key may be."""
    try:
        parts = urlsplit(url)
        found = [parts.password]
        if parts.scheme in {"http", "https"}:
            found += [parts.username, *(pair.partition("=")[2] for pair in parts.query.split("&"))]
    except ValueError:
        found = [url.partition("://")[2].rpartition("@")[0]]
    for one in filter(None, found):
        yield one
        yield unquote(one)
