"""Metrics and labels by the names that Prometheus has for them."""

from __future__ import annotations

from typing import Final

from taskobs import semconv
from taskobs.metrics.families import Family, Kind, plain_name


def _name(name: str, kind: Kind, unit: str = "") -> str:
    prometheus = Family(name=name, kind=kind, meaning="", unit=unit).prometheus_name
    return f"{prometheus}_total" if kind == "counter" else prometheus


PUBLISHED: Final = _name(semconv.METRIC_TASK_PUBLISHED, "counter")
RECEIVED: Final = _name(semconv.METRIC_TASK_RECEIVED, "counter")
DISCARDED: Final = _name(semconv.METRIC_TASK_DISCARDED, "counter")
FAILURES: Final = _name(semconv.METRIC_TASK_FAILURES, "counter")
RETRIES: Final = _name(semconv.METRIC_TASK_RETRIES, "counter")
CPU_TIME: Final = _name(semconv.METRIC_TASK_CPU_TIME, "counter", "s")
RUN_TIME: Final = _name(semconv.METRIC_TASK_DURATION, "histogram", "s")
QUEUE_WAIT: Final = _name(semconv.METRIC_TASK_QUEUE_WAIT, "histogram", "s")
PREFETCH_WAIT: Final = _name(semconv.METRIC_TASK_PREFETCH_WAIT, "histogram", "s")
TASKS: Final = _name(semconv.METRIC_WORKER_TASKS, "gauge")
POOL_LIMIT: Final = _name(semconv.METRIC_WORKER_POOL_LIMIT, "gauge")
OLDEST_RUN: Final = _name(semconv.METRIC_WORKER_ACTIVE_OLDEST, "gauge", "s")
PROCESS_EXITS: Final = _name(semconv.METRIC_WORKER_PROCESS_EXITS, "counter")
MEMORY: Final = _name(semconv.METRIC_WORKER_MEMORY, "gauge", "By")
RECONNECTS: Final = _name(semconv.METRIC_WORKER_RECONNECTS, "counter")
HEARTBEAT: Final = _name(semconv.METRIC_WORKER_HEARTBEAT, "gauge", "s")
MESSAGES: Final = _name(semconv.METRIC_QUEUE_MESSAGES, "gauge")
OLDEST_MESSAGE: Final = _name(semconv.METRIC_QUEUE_OLDEST_AGE, "gauge", "s")
CONSUMERS: Final = _name(semconv.METRIC_QUEUE_CONSUMERS, "gauge")
CONNECTED: Final = _name(semconv.METRIC_MONITOR_CONNECTED, "gauge")

TASK: Final = plain_name(semconv.CELERY_TASK_NAME)
QUEUE: Final = plain_name(semconv.CELERY_QUEUE)
OUTCOME: Final = plain_name(semconv.CELERY_OUTCOME)
STATE: Final = plain_name(semconv.CELERY_STATE)
REASON: Final = plain_name(semconv.CELERY_REASON)
EXPECTED: Final = plain_name(semconv.CELERY_EXPECTED)
ERROR: Final = plain_name(semconv.ERROR_TYPE)
PROCESS: Final = plain_name(semconv.WORKER_PROCESS)
