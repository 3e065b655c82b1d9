"""Check the values of settings, whether they come as arguments or as text from a variable.

Each check returns the value in its final type, or raises ``Refused``. It never puts the value
into a message: ``taskobs.config.settings`` does, masked where it is secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Final, Literal, cast
from urllib.parse import SplitResult, unquote, urlsplit

OtlpProtocol = Literal["http/protobuf", "grpc"]

_ON = ("1", "true", "yes", "on")
_OFF = ("0", "false", "no", "off")
_HEADER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_LONGEST_SHOWN = 200
_EXAMPLE_DSN = "https://<key>@<host>/<project>"
_EXAMPLE_HEADERS = "name=value,other-name=value"
_EXAMPLE_ENDPOINT = "http://localhost:4318"
_EXAMPLE_GRPC = "http://localhost:4317"
_EXAMPLE_RESOURCE = "name=value,other-name=value"
_EXAMPLE_TRACE_URL = "https://jaeger.example/trace/{trace_id}"
_EXAMPLE_EVENT_URL = "https://bugsink.example/issues/event/{event_id}/"


class Refused(Exception):  # noqa: N818  # never leaves taskobs: it becomes a SettingError
    """A value is invalid: the reason, and an example of a valid one."""

    def __init__(self, problem: str, example: object) -> None:
        super().__init__(problem)
        self.problem = problem
        self.example = example


class ValueCheck:
    """How a setting's values are checked, and how they are shown without secrets."""

    def __init__(self, check: Callable[[object], object], show: Callable[[object], str]) -> None:
        self.check: Final = check
        self.show: Final = show


def check_in(path: str) -> ValueCheck:
    """Return the check ``module.NAME`` of this package, which is imported when it is used.

    The modules of all checks take several times as long to import as ``init()`` takes to run.
    """

    def check(value: object) -> object:
        return _find(path).check(value)

    def show(value: object) -> str:
        return _find(path).show(value)

    return ValueCheck(check, show)


def _find(path: str) -> ValueCheck:
    module, _, name = path.partition(".")
    found: ValueCheck = getattr(import_module(f"taskobs.config.{module}"), name)
    return found


def checked(name: str, variable: str, value_check: ValueCheck, value: object, fix: str) -> object:
    """Return a value in its setting's type; ``fix`` sets it, with ``{}`` for the value.

    Raises:
        SettingError: the value is invalid.
    """
    try:
        return value_check.check(value)
    except Refused as refused:
        problem, line = refused.problem, fix.format(refused.example)
    from taskobs.errors import SettingError  # for a value that is refused

    # Outside of the except block: a chained exception could show what is masked here.
    raise SettingError(name, variable, value_check.show(value), problem, line)


def _text(value: object, example: str = "some-text") -> str:
    if not isinstance(value, str):
        raise Refused("not a string", example)
    if not value.strip():
        raise Refused("empty; leave it out instead", example)
    return value.strip()


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in _ON + _OFF:
        raise Refused("neither true nor false", example=True)
    return word in _ON


def _number(value: object, problem: str, example: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise Refused(problem, example)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise Refused(problem, example) from None
    if not math.isfinite(number):
        raise Refused(problem, example)
    return number


def _share(value: object) -> float:
    problem = "not a number from 0 (nothing) to 1 (everything)"
    number = _number(value, problem, 0.1)
    if not 0 <= number <= 1:
        raise Refused(problem, 0.1)
    return number


def _seconds(value: object) -> float:
    problem = "not a number of seconds above 0 and up to 60"
    number = _number(value, problem, 3.0)
    if not 0 < number <= 60:  # noqa: PLR2004  # the limit is named in the problem above
        raise Refused(problem, 3.0)
    return number


def _bytes(value: object) -> int:
    problem = "not a number of bytes from 1048576 (1 MiB) upwards"
    number = _number(value, problem, 268435456)
    if number < 1024 * 1024 or number != int(number):
        raise Refused(problem, 268435456)
    return int(number)


def _age(value: object) -> float:
    problem = "not a number of seconds from 60 upwards"
    number = _number(value, problem, 86400)
    if number < 60:  # noqa: PLR2004  # the limit is named in the problem above
        raise Refused(problem, 86400)
    return number


def _protocol(value: object) -> OtlpProtocol:
    match _text(value, "http/protobuf").lower():
        case "http/protobuf":
            return "http/protobuf"
        case "grpc":
            return "grpc"
        case "http/json":
            problem = "not what OpenTelemetry's exporters for Python can send"
        case _:
            problem = "neither http/protobuf nor grpc"
    raise Refused(problem, "http/protobuf")


def _one_of(*words: str) -> Callable[[object], str]:
    """Return the check of a setting that takes a few words."""

    def check(value: object) -> str:
        word = _text(value, words[0]).lower()
        if word not in words:
            raise Refused("not " + " or ".join(map(repr, words)), words[0])
        return word

    return check


def _url(text: str, example: str) -> SplitResult:
    """Split a URL that has a scheme, a host and, if any, a possible port."""
    if any(character.isspace() for character in text):
        raise Refused("a URL with white space in it", example)
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise Refused("a URL with an impossible host or port", example) from None
    if url.scheme not in ("http", "https"):
        raise Refused("a URL that begins with neither http:// nor https://", example)
    if not url.hostname:
        raise Refused("a URL without a host", example)
    if port == 0:
        raise Refused("a URL with an impossible host or port", example)
    return url


def _page_with(placeholder: str, example: str) -> Callable[[object], str]:
    """Return the check of the URL of a page about one thing, whose id is put into it."""

    def check(value: object) -> str:
        text = _text(value, example)
        if _url(text, example).username is not None:
            raise Refused("a URL with credentials, which whoever sees the link could read", example)
        if placeholder not in text:
            raise Refused(f"a URL without {placeholder} where the id belongs", example)
        return text

    return check


def _endpoint(value: object) -> str:
    """Accept any text: what is valid depends on the protocol."""
    return _text(value, _EXAMPLE_ENDPOINT)


def _http_endpoint(value: object) -> str:
    """Accept the URL of an endpoint for OTLP over HTTP."""
    text = _text(value, _EXAMPLE_ENDPOINT)
    if "://" not in text:
        example = f"http://{text.rpartition('@')[2]}"
        raise Refused("without http:// or https://", example)
    scheme, _, rest = text.partition("://")
    host = rest.rpartition("@")[2]
    is_http = scheme.lower() in ("http", "https")
    _url(text, _EXAMPLE_ENDPOINT if is_http or not host else f"http://{host}")
    return text


def _grpc_endpoint(value: object) -> str:
    """Accept an endpoint for OTLP over gRPC: a URL, or any other name that gRPC resolves.

    For example ``host:port``, ``dns:///host:port``, ``unix:/path`` and ``grpc://host:port``:
    https://grpc.github.io/grpc/core/md_doc_naming.html
    """
    text = _text(value, _EXAMPLE_GRPC)
    if any(character.isspace() for character in text):
        raise Refused("an address with white space in it", _EXAMPLE_GRPC)
    if text.lower().startswith(("http:", "https:")):
        _url(text, _EXAMPLE_GRPC)
    return text


def _resource(value: object) -> Mapping[str, object]:
    """Accept attributes: a mapping, or text, of which malformed parts are skipped."""
    if isinstance(value, str):
        pairs = (entry.partition("=") for entry in value.split(","))
        return {unquote(k.strip()): unquote(v.strip()) for k, equals, v in pairs if equals}
    if not isinstance(value, Mapping):
        raise Refused("neither a mapping nor name=value pairs", _EXAMPLE_RESOURCE)
    items = list(cast("Mapping[object, object]", value).items())
    for position, (name, one) in enumerate(items, start=1):
        many = isinstance(one, (list, tuple))
        parts = list(cast("Sequence[object]", one)) if many else [one]
        supported = all(isinstance(part, (str, bool, int, float)) for part in parts)
        if not isinstance(name, str) or not name or not supported:
            problem = f"not text to text, numbers, booleans or lists of them in entry {position}"
            raise Refused(problem, _EXAMPLE_RESOURCE)
    return {str(name): one for name, one in items}


def _dsn(value: object) -> str | None:
    if value == "":  # as in Sentry, an empty DSN turns it off; an empty variable counts as unset
        return None
    text = _text(value, _EXAMPLE_DSN)
    url = _url(text, _EXAMPLE_DSN)
    if not url.username:
        raise Refused("a DSN without a public key", _EXAMPLE_DSN)
    project = url.path.rpartition("/")[2]
    if not project:
        raise Refused("a DSN without a project at its end", _EXAMPLE_DSN)
    if not (project.isascii() and project.isdigit()):  # sentry_sdk would refuse it later
        raise Refused("a DSN whose project is not a number", _EXAMPLE_DSN)
    return text


def _pairs(text: str) -> dict[str, str]:
    """Read ``name=value,name=value``, percent-encoded, as OpenTelemetry writes headers."""
    pairs: dict[str, str] = {}
    for position, entry in enumerate(text.split(","), start=1):
        name, equals, value = entry.partition("=")
        if not entry.strip():
            continue
        if not equals:
            raise Refused(f"without a '=' in entry {position}", _EXAMPLE_HEADERS)
        pairs[unquote(name.strip())] = unquote(value.strip())
    return pairs


def _headers(value: object) -> Mapping[str, str]:
    """Return the headers with lower-case names, which gRPC requires."""
    if isinstance(value, str):
        items = list(cast("Mapping[object, object]", _pairs(value)).items())
    elif isinstance(value, Mapping):
        items = list(cast("Mapping[object, object]", value).items())
    else:
        raise Refused("neither a mapping nor name=value pairs", _EXAMPLE_HEADERS)
    return dict(_header(*item, position=number) for number, item in enumerate(items, start=1))


def _header(name: object, value: object, *, position: int) -> tuple[str, str]:
    if not isinstance(name, str) or not isinstance(value, str):
        raise Refused(f"not text to text in entry {position}", _EXAMPLE_HEADERS)
    if not re.fullmatch(_HEADER_NAME, name):
        raise Refused(f"not named as a header can be in entry {position}", _EXAMPLE_HEADERS)
    if any(ord(character) < ord(" ") or character == "\x7f" for character in value):
        raise Refused(f"with a line break or the like in entry {position}", _EXAMPLE_HEADERS)
    return name.lower(), value


def shown(value: object) -> str:
    """Show a value that isn't secret, truncated."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _hidden(value: object) -> str:
    return "'***'" if value else shown(value)


def _without_credentials(value: object) -> str:
    """Show a URL without its credentials, query and fragment."""
    if not isinstance(value, str):
        return shown(value)
    before, at, rest = value.rpartition("@")
    scheme = re.match(r"\s*https?://", before)
    mask = f"{scheme[0] if scheme else ''}***@" if at else ""
    return shown(mask + re.split(r"[?#]", rest)[0])


def without_credentials(url: str) -> str:
    """Return a URL without secrets, for logs; not quoted."""
    return _without_credentials(url)[1:-1]


def _dsn_without_key(value: object) -> str:
    """Show a DSN without its key; nothing of it if the key can't be located."""
    clear = isinstance(value, str) and "@" in value
    return _without_credentials(value) if clear else _hidden(value)


TEXT = ValueCheck(_text, shown)
SWITCH = ValueCheck(_switch, shown)
SHARE = ValueCheck(_share, shown)
SECONDS = ValueCheck(_seconds, shown)
BYTES = ValueCheck(_bytes, shown)
AGE = ValueCheck(_age, shown)
PROTOCOL = ValueCheck(_protocol, shown)
LOGS = ValueCheck(_one_of("otlp"), shown)
LOG_FORMAT = ValueCheck(_one_of("json"), shown)
TRACE_URL = ValueCheck(_page_with("{trace_id}", _EXAMPLE_TRACE_URL), _without_credentials)
EVENT_URL = ValueCheck(_page_with("{event_id}", _EXAMPLE_EVENT_URL), _without_credentials)
ENDPOINT = ValueCheck(_endpoint, _without_credentials)
HTTP_ENDPOINT = ValueCheck(_http_endpoint, _without_credentials)
GRPC_ENDPOINT = ValueCheck(_grpc_endpoint, _without_credentials)
RESOURCE = ValueCheck(_resource, shown)
DSN = ValueCheck(_dsn, _dsn_without_key)
HEADERS = ValueCheck(_headers, _hidden)
