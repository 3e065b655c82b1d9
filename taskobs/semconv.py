"""Every name that leaves the process: spans, attributes, headers, Sentry tags, log fields.

The messaging attributes follow OpenTelemetry's semantic conventions for messaging, which are
in development, so the strings are written out here and not imported.
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
"""

from typing import Final

PUBLISH_SPAN: Final = "publish "
RUN_SPAN: Final = "run "

# OpenTelemetry's messaging conventions.
MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION_NAME: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_DESTINATION_NAME: Final = "messaging.destination.name"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
MESSAGING_BATCH_COUNT: Final = "messaging.batch.message_count"
MESSAGING_ROUTING_KEY: Final = "messaging.rabbitmq.destination.routing_key"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"
PROCESS_PID: Final = "process.pid"

# OpenTelemetry's conventions for log records.
RECORD_CODE_FILE: Final = "code.file.path"
RECORD_CODE_FUNCTION: Final = "code.function.name"
RECORD_CODE_LINE: Final = "code.line.number"
RECORD_CODE_STACKTRACE: Final = "code.stacktrace"
RECORD_THREAD_NAME: Final = "thread.name"
RECORD_EXCEPTION_TYPE: Final = "exception.type"
RECORD_EXCEPTION_MESSAGE: Final = "exception.message"
RECORD_EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

# Celery's own.
CELERY_TASK_ID: Final = "celery.task_id"
CELERY_TASK_NAME: Final = "celery.task_name"
CELERY_QUEUE: Final = "celery.queue"
CELERY_INNER_TASK: Final = "celery.inner_task_name"
CELERY_EXCHANGE: Final = "celery.exchange"
CELERY_ROUTING_KEY: Final = "celery.routing_key"
CELERY_ROOT_ID: Final = "celery.root_id"
CELERY_PARENT_ID: Final = "celery.parent_id"
CELERY_GROUP_ID: Final = "celery.group_id"
CELERY_ATTEMPT: Final = "celery.attempt"
CELERY_OUTCOME: Final = "celery.outcome"
CELERY_EXPECTED: Final = "celery.expected"
CELERY_REASON: Final = "celery.reason"
CELERY_REQUEUED: Final = "celery.requeued"
CELERY_QUEUE_LATENCY: Final = "celery.queue_latency"
CELERY_ETA: Final = "celery.eta"
CELERY_EXPIRES: Final = "celery.expires"
CELERY_PRIORITY: Final = "celery.priority"
CELERY_HOSTNAME: Final = "celery.hostname"
CELERY_ORIGIN: Final = "celery.origin"
CELERY_EAGER: Final = "celery.eager"
CELERY_REDELIVERED: Final = "celery.redelivered"
CELERY_DELIVERY_COUNT: Final = "celery.delivery_count"
CELERY_DEAD_LETTER_QUEUE: Final = "celery.dead_letter.queue"
CELERY_DEAD_LETTER_REASON: Final = "celery.dead_letter.reason"
CELERY_DEAD_LETTER_COUNT: Final = "celery.dead_letter.count"
CELERY_SCHEDULE_ENTRY: Final = "celery.schedule.entry"
CELERY_SIGNAL: Final = "celery.terminated.signal"
PROCESS_EXIT_CODE: Final = "process.exit.code"
CELERY_STATE: Final = "celery.state"
CELERY_RETRY_REASON: Final = "celery.retry.reason"
TASKOBS_LOST: Final = "taskobs.lost"
SENTRY_EVENT_ID: Final = "sentry.event_id"
LINK_KIND: Final = "celery.link"
LINK_RETRY_OF: Final = "retry_of"
LINK_CHORD_HEADER: Final = "chord_header"
LINK_PUBLISH: Final = "publish"

# Message headers, beside those of the propagator.
HEADER_PUBLISHED_AT: Final = "taskobs-published-at"
HEADER_LINKS: Final = "taskobs-links"
HEADER_SCHEDULE: Final = "taskobs-schedule"
HEADER_CHECK_IN: Final = "taskobs-check-in"
HEADER_RUN_SPAN: Final = "taskobs-run-span"
HEADER_QUEUE: Final = "taskobs-queue"
HEADER_BROKER: Final = "taskobs-broker"
HEADER_CONTEXT: Final = "taskobs-context"
HEADER_SENTRY_TRACE: Final = "sentry-trace"

# Sentry.
TAG_TASK: Final = "celery.task"
TAG_TASK_NAME: Final = "celery.task_name"
TAG_TASK_ID: Final = "celery.task_id"
TAG_QUEUE: Final = "celery.queue"
TAG_ATTEMPT: Final = "celery.attempt"
TAG_OUTCOME: Final = "celery.outcome"
TAG_ROOT_ID: Final = "celery.root_id"
TAG_HOSTNAME: Final = "celery.hostname"
TAG_STOCK_TASK_ID: Final = "celery_task_id"
SENTRY_CONTEXT: Final = "celery"
SENTRY_JOB: Final = "celery-job"

# Log records. The trace fields are those of OpenTelemetry for plain logs.
# https://opentelemetry.io/docs/specs/otel/compatibility/logging_trace_context/
LOG_TASK_ID: Final = "task_id"
LOG_TASK_NAME: Final = "task_name"
LOG_TRACE_ID: Final = "trace_id"
LOG_SPAN_ID: Final = "span_id"
LOG_TRACE_FLAGS: Final = "trace_flags"

# Metrics of a worker, which its relay sends, and of queues, which the monitor sends. Their
# attributes are among those above, but for two.
METRIC_RUNS: Final = "taskobs.runs"
METRIC_RUN_DURATION: Final = "taskobs.run.duration"
METRIC_QUEUE_MESSAGES: Final = "celery.queue.messages"
METRIC_QUEUE_OLDEST_AGE: Final = "celery.queue.oldest.age"
METRIC_QUEUE_CONSUMERS: Final = "celery.queue.consumers"
METRIC_MONITOR_CONNECTED: Final = "taskobs.monitor.connected"
METRIC_RELAY_RECEIVED: Final = "taskobs.relay.received"
METRIC_RELAY_EXPORTED: Final = "taskobs.relay.exported"
METRIC_RELAY_DROPPED: Final = "taskobs.relay.dropped"
METRIC_RELAY_RETRIED: Final = "taskobs.relay.retried"
METRIC_RELAY_SPOOLED: Final = "taskobs.relay.spooled"
METRIC_RELAY_LOST: Final = "taskobs.relay.lost"
METRIC_RELAY_DUPLICATE: Final = "taskobs.relay.duplicate"
METRIC_RELAY_BYTES: Final = "taskobs.relay.bytes"
METRIC_RELAY_PENDING: Final = "taskobs.relay.pending"
METRIC_RELAY_OPEN: Final = "taskobs.relay.open"
METRIC_RELAY_CLIENTS: Final = "taskobs.relay.clients"
RELAY_KIND: Final = "taskobs.kind"
RELAY_REASON: Final = "taskobs.reason"

# The stock instrumentation's scope and metric, kept.
STOCK_SCOPE: Final = "opentelemetry.instrumentation.celery"
STOCK_SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.11.0"
STOCK_HISTOGRAM: Final = "flower.task.runtime.seconds"
