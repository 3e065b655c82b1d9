"""The arithmetic: from what one worker costs to what a thousand need. Nothing here measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DAY: Final = 86_400
EXPORT_INTERVAL: Final = 60.0
"""Seconds between two exports of metrics, by default."""
BATCH: Final = 256
"""Spans of a relay's batch at most; one batch is under way at a time."""
MAX_DELAY: Final = 1.0
"""Seconds that a relay waits for a batch to be full."""
UTILISATION: Final = 0.6
"""How much of a core is planned with: the rest is for what comes in bursts."""
MEMORY_SPANS: Final = 24_000
"""Spans of a task that a relay's memory holds (docs/relay.md)."""
SPOOL_SPANS: Final = 350_000
"""… a spool of the default size."""
BESIDE: Final = 2
"""Spans of a task beside those inside its run: the publish and the run."""


@dataclass(frozen=True)
class Costs:
    """What was measured, of one of each."""

    publish_bytes: float
    """Bytes of a span of a publish, as it is sent without compression."""
    run_bytes: float
    inside_bytes: float
    """… of a span inside a run."""
    gzip: float
    """The share of these bytes that compression leaves."""
    event_bytes: float
    message_bytes: float
    """What is added to a message."""
    fixed_series: float
    """Series, as Prometheus counts them, of a worker whatever it runs."""
    name_series: float
    """… for each name of a task."""
    few_series: float
    """… for each name, with few buckets."""
    fixed_bytes: float
    """Bytes of an export of metrics, whatever a worker runs."""
    name_bytes: float
    """… for each name of a task."""
    relay_cpu: float
    """Seconds of a relay's CPU for 1,000 spans."""
    plain_cpu: float
    """Seconds of a Collector's CPU for 1,000 spans, without tail sampling."""
    tail_cpu: float
    """… with it."""
    held_bytes: float
    """Bytes of a Collector's memory for each span that waits for its decision."""


@dataclass(frozen=True)
class Load:
    """What is to be observed, and the settings for it."""

    title: str
    workers: int
    rate: float
    """Tasks a second of each worker."""
    inside: int = 4
    """Spans inside each run."""
    failing: float = 0.01
    """The share of runs that fail."""
    names: int = 50
    """Names of tasks that each worker runs."""
    sampled: float = 1.0
    """``sample_rate``."""
    keep: bool = False
    """``keep=["failed"]``."""
    gzip: bool = False
    """``OTEL_EXPORTER_OTLP_COMPRESSION=gzip``."""
    few_buckets: bool = False
    """``metric_buckets`` with three bounds each."""
    events: float = 1.0
    """The share of failures that are sent to Sentry."""
    tail: float | None = None
    """The share that tail sampling keeps of what neither failed nor was slow; None without it."""
    decision_wait: float = 30.0
    """Seconds."""

    @property
    def tasks(self) -> float:
        """Tasks a second, of all workers."""
        return self.workers * self.rate


@dataclass(frozen=True)
class Sizing:
    """What a load takes. Bytes and counts are those of a second, unless they say otherwise."""

    tasks: float
    worker_spans: float
    """Spans of one worker."""
    spans: float
    requests: float
    """Requests with spans, of all relays."""
    span_bytes: float
    """As they are sent."""
    broker_bytes: float
    """What taskobs adds to messages."""
    events: float
    event_bytes: float
    series: float
    metric_bytes: float
    response: float
    """Seconds that the response to a relay's request may take before the relay falls behind."""
    memory_outage: float
    """Seconds for which a relay without a spool keeps what it can't send."""
    spool_outage: float
    """… with one of the default size."""
    first_tier: float
    """Cores of Collectors that take spans from relays."""
    second_tier: float
    """Cores of Collectors that sample; 0 without tail sampling."""
    held_traces: float
    """Traces that wait for their decision at any time."""
    held_bytes: float
    stored_spans: float
    stored_bytes: float
    """Bytes a day, without compression."""
    stored_gzip: float
    """Bytes a day, as gzip compresses them."""


def size(load: Load, costs: Costs) -> Sizing:
    """Work out what a load takes."""
    whole = load.inside + BESIDE
    kept = (1 - load.sampled) * load.failing if load.keep else 0.0
    of_run = load.sampled + kept
    """The share of runs whose spans are sent; of publishes it is ``sampled``."""
    worker_spans = load.rate * of_run * (load.inside + 1)
    spans = load.tasks * (load.sampled * whole + kept * (load.inside + 1))
    run_bytes = costs.run_bytes + load.inside * costs.inside_bytes
    plain_bytes = load.tasks * (load.sampled * costs.publish_bytes + of_run * run_bytes)
    events = load.tasks * load.failing * load.events
    stored = 1.0 if load.tail is None else load.failing + (1 - load.failing) * load.tail
    waiting = 0.0 if load.tail is None else load.decision_wait
    name_series = costs.few_series if load.few_buckets else costs.name_series
    return Sizing(
        tasks=load.tasks,
        worker_spans=worker_spans,
        spans=spans,
        requests=load.workers * requests(worker_spans),
        span_bytes=plain_bytes * (costs.gzip if load.gzip else 1),
        broker_bytes=load.tasks * costs.message_bytes,
        events=events,
        event_bytes=events * costs.event_bytes,
        series=load.workers * (costs.fixed_series + load.names * name_series),
        metric_bytes=load.workers
        * (costs.fixed_bytes + load.names * costs.name_bytes)
        / EXPORT_INTERVAL,
        response=response_time(worker_spans, costs.relay_cpu),
        memory_outage=MEMORY_SPANS / worker_spans,
        spool_outage=SPOOL_SPANS / worker_spans,
        first_tier=cores(spans, costs.plain_cpu),
        second_tier=0.0 if load.tail is None else cores(spans, costs.tail_cpu),
        held_traces=load.tasks * of_run * waiting,
        held_bytes=spans * waiting * costs.held_bytes,
        stored_spans=spans * stored,
        stored_bytes=plain_bytes * stored * DAY,
        stored_gzip=plain_bytes * stored * DAY * costs.gzip,
    )


def requests(spans: float) -> float:
    """Give the requests a second of a relay that sends so many spans: full, or one a second."""
    if not spans:
        return 0.0
    return max(spans / BATCH, min(1 / MAX_DELAY, spans))


def response_time(spans: float, cpu: float) -> float:
    """Give the seconds that a response may take if a relay is to send so many spans a second.

    A relay has one batch under way at a time, which it has to encode, too. 0: no response is fast
    enough.
    """
    return max(0.0, BATCH / spans - BATCH * cpu / 1000)


def ceiling(response: float, cpu: float) -> float:
    """Give the spans a second that a relay sends at most if each response takes so many seconds."""
    return BATCH / (response + BATCH * cpu / 1000)


def cores(spans: float, cpu: float) -> float:
    """Give the cores that so many spans a second take, at `UTILISATION`."""
    return spans * cpu / 1000 / UTILISATION


def per_name(one: float, many: float, names: int) -> tuple[float, float]:
    """Split what a worker has of one name, and of many, into what is fixed and what each adds."""
    each = (many - one) / (names - 1)
    return one - each, each


LOADS: Final = (
    Load("1,000 tasks/s", workers=100, rate=10, tail=0.1),
    Load("1,000,000 tasks/s, all of it", workers=1000, rate=1000, tail=0.1),
    Load(
        "1,000,000 tasks/s, set for it",
        workers=1000,
        rate=1000,
        sampled=0.01,
        keep=True,
        gzip=True,
        few_buckets=True,
        events=0.01,
    ),
)
"""The columns of the page."""
