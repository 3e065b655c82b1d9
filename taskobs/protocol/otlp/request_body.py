"""Sends OTLP requests of ours through OpenTelemetry's exporter over HTTP.

The exporter gets a session of ``requests``, whose requests are given another body. All else stays
as the exporter makes it: the address, headers, certificates, compression, timeouts and retries.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    import requests
    from typing_extensions import Self

_ENCODING: Final = "Content-Encoding"
_COMPRESS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": partial(gzip.compress, compresslevel=6),
    "deflate": zlib.compress,
}
"""At zlib's usual level: gzip's highest takes twice as long, for one percent."""


class RequestBody:
    """What a session sends instead of what the exporter has encoded. Not thread-safe."""

    was_sent = False
    """Whether the body of the last block was used."""

    def __init__(self, session: requests.Session) -> None:
        self._content: bytes | None = None
        self._session = session
        # Replaced before it is prepared: the session of a credential provider may sign it.
        self._send: Callable[..., requests.Response] = session.request
        session.request = cast("Any", self._request)  # type: ignore[method-assign]

    @contextmanager
    def of(self, content: bytes) -> Generator[Self]:
        """Send this, compressed as the exporter would, for any request in this block."""
        self._content, self.was_sent = content, False
        try:
            yield self
        finally:
            self._content = None

    def _request(self, method: str, url: str, **options: Any) -> requests.Response:  # noqa: ANN401  # as requests has it
        if self._content is not None:
            # The exporter has them in the session, since 1.44 in each request.
            headers: Mapping[str, Any] = options.get("headers") or {}
            used = headers.get(_ENCODING) or cast("Any", self._session.headers).get(_ENCODING)
            options["data"] = _COMPRESS.get(used, bytes)(self._content)
            self.was_sent = True
        return self._send(method, url, **options)
