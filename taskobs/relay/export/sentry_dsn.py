"""A Sentry DSN, and what follows from it: the address of a request, and how it authenticates.

https://develop.sentry.dev/sdk/foundations/transport/authentication/
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final, NamedTuple
from urllib.parse import urlsplit

_PROTOCOL: Final = 7
_PORTS: Final = {"http": 80, "https": 443}


class DsnError(ValueError):
    """A text is no DSN. The message has no part of it, as that may be a secret."""


class Dsn(NamedTuple):
    """The parts of ``{scheme}://{public_key}[:{secret_key}]@{host}[:{port}]{path}/{project}``."""

    scheme: str
    host: str
    port: int
    path: str
    """What stands before the project, with a slash at both ends."""
    project: str
    public_key: str
    secret_key: str | None

    @property
    def address(self) -> str:
        """Host and port, as they stand in a URL: without the port that the scheme implies."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def envelope_url(self) -> str:
        """Where envelopes are posted to."""
        return f"{self.scheme}://{self.address}{self.path}api/{self.project}/envelope/"

    @property
    def headers(self) -> dict[str, str]:
        """What authenticates a request, and says which SDK made its content."""
        client = f"sentry.python/{_sdk_version()}"
        auth = f"sentry_key={self.public_key}, sentry_version={_PROTOCOL}, sentry_client={client}"
        if self.secret_key is not None:
            auth += f", sentry_secret={self.secret_key}"
        return {"User-Agent": client, "X-Sentry-Auth": f"Sentry {auth}"}


def parse_dsn(text: str) -> Dsn:
    """Read a DSN.

    Raises:
        DsnError: it is none.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise DsnError("the DSN is not a URL") from None
    path, _, project = parts.path.rpartition("/")
    if parts.scheme not in _PORTS or not parts.hostname or not parts.username:
        raise DsnError("the DSN has no http or https, no host, or no key")
    if not (project.isascii() and project.isdigit()):
        raise DsnError("the DSN does not end in the number of a project")
    return Dsn(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        path=f"{path}/",
        project=project,
        public_key=parts.username,
        secret_key=parts.password,
    )


def _sdk_version() -> str:
    """Return the release of the SDK that makes the envelopes, which is not imported for it."""
    try:
        return version("sentry-sdk")
    except PackageNotFoundError:  # a frozen application without its metadata
        return "unknown"
