"""What the checks look at. It is gathered before the first of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from taskobs.config.settings import Settings
from taskobs.errors import MissingExtraError, SettingError
from taskobs.relay.export.responses import ExportResult, ExportStatus

if TYPE_CHECKING:
    from taskobs.session.session import Session


@dataclass(frozen=True, slots=True)
class Response:
    """What a server said to one request."""

    signal: str
    """``traces``, ``metrics``, ``logs`` or ``errors``."""
    url: str
    """Where the request went; may contain secrets."""
    result: ExportResult


@dataclass(frozen=True, slots=True)
class Clock:
    """How far the clock of a server is ahead of this machine's, in seconds."""

    server: str
    ahead: float


@dataclass(frozen=True, slots=True)
class Connection:
    """Whether a broker or a result backend responds."""

    address: str
    problem: str | None = None
    """Why not; None if it does."""


class Counted(NamedTuple):
    """What a relay has counted of one kind: ``span`` or ``envelope``."""

    exported: int
    dropped: Mapping[str, int]
    """By the reason."""
    failing: str
    """Why it can't be sent at present; empty if nothing fails."""

    @classmethod
    def read(cls, relay: Mapping[str, Any], kind: str) -> Counted:
        """Read a relay's reply, as ``taskobs status`` has it."""
        exported: Mapping[str, int] = relay.get("exported", {})
        dropped: Mapping[str, Mapping[str, int]] = relay.get("dropped", {})
        failing: Mapping[str, str] = relay.get("failing", {})
        return cls(exported.get(kind, 0), dropped.get(kind, {}), failing.get(kind, ""))


@dataclass(slots=True)
class Probe:
    """What became of the probe task."""

    trace_id: str = ""
    """Of the doctor's own span, below which the probe is published."""
    publish_error: str | None = None
    publish_log: Sequence[str] = ()
    """Warnings of taskobs in the process that published."""
    flushed: bool = True
    """Whether that process has sent all it had in time."""
    sent_headers: Mapping[str, str] = field(default_factory=dict[str, str])
    ready: bool = False
    """Whether the worker was ready to consume."""
    initialised: bool = False
    """Whether ``init()`` was called in the worker by then."""
    exit_code: int | None = None
    """The worker's, if it ended by itself."""
    seconds: float = 0.0
    """How long it was waited for."""
    run: Mapping[str, Any] | None = None
    """What the task saw; None if it did not run."""
    event: Mapping[str, Any] | None = None
    """Its Sentry event; None if there was none."""
    relay: Mapping[str, Any] | None = None
    """What the worker's relay has counted, as ``taskobs status`` has it; None without a relay."""
    log: Sequence[str] = ()
    """Lines of the worker that say that something is wrong."""
    stored: bool | None = None
    """Whether its result was stored; None if there is nowhere to store it."""
    queue_left: str | None = None
    """Why the private queue could not be deleted."""


@dataclass(slots=True)
class Evidence:
    """What is known of an app and of what it uses; what was not found out is None."""

    name: str
    """The app, as ``celery -A`` takes it."""
    environ: Mapping[str, str]
    pool: str | None = None
    """The pool that was asked for; None for that of the app's configuration."""
    app: Any = None
    """Celery's object; None if it can't be imported."""
    load_error: BaseException | None = None
    session: Session | None = None
    settings: Settings | None = None
    setting_error: SettingError | MissingExtraError | None = None
    destination: str | None = None
    """Where telemetry goes, in a few words; None if nothing is recorded."""
    provider: object = None
    """The ``TracerProvider`` that the app has set; None if it is ours, or there is none."""
    sentry: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The options of the Sentry client that the app has made."""
    responses: list[Response] = field(default_factory=list[Response])
    clocks: list[Clock] = field(default_factory=list[Clock])
    broker: Connection | None = None
    backend: Connection | None = None
    relay_problem: str | None = None
    """Why no relay can start here."""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    log: list[str] = field(default_factory=list[str])
    """Warnings of taskobs in this process."""
    probe: Probe | None = None

    @property
    def dsn(self) -> str | None:
        """The DSN of the client that reports errors."""
        found = self.sentry.get("dsn") or (self.settings and self.settings.sentry_dsn)
        return str(found) if found else None

    @property
    def spans(self) -> bool:
        """Whether spans go anywhere."""
        return self.provider is not None or bool(self.settings and self.settings.traces)

    def said(self, signal: str) -> list[Response]:
        """Return what servers said to one signal."""
        return [one for one in self.responses if one.signal == signal]

    def accepted(self, signal: str) -> bool:
        """Tell whether a server was asked, and none refused."""
        said = self.said(signal)
        return bool(said) and all(one.result.status is ExportStatus.SUCCESS for one in said)
