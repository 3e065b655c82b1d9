"""Records of logging become entries of OpenTelemetry's log data model, bounded and clean."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from celery import Celery

from taskobs.celery.active import current_run
from taskobs.observers.context import accept as accept_context_keys
from taskobs.observers.context import values as context_values
from taskobs.observers.json_logs import JsonLines
from taskobs.observers.log_entries import entry_of, severity_number
from taskobs.observers.logs import add_fields
from taskobs.protocol.frames import unpack
from taskobs.protocol.log_entries import MAX_BODY, MAX_LOG, LogEntry, pack_entry, unpack_entry
from tests.support.recording import Recorder, context_of

PRIVATE = "what nobody else may read"


def record(message: object = "hello", *args: object, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("shop", logging.INFO, "shop.py", 7, message, args, None, "pack")
    made.__dict__.update(extra)
    return made


def as_line(one: logging.LogRecord) -> dict[str, Any]:
    line = JsonLines(current_run, lambda: {"service.name": "shop"}).format(one)
    assert "\n" not in line
    assert line.isascii()
    found: dict[str, Any] = json.loads(line, parse_constant=_refuse)
    return found


def _refuse(constant: str) -> None:
    raise AssertionError(constant)


def sent(one: logging.LogRecord) -> LogEntry:
    """Give what arrives of a record that is packed."""
    return unpack_entry(pack_entry(entry_of(one, None)))


@pytest.mark.parametrize(
    ("level", "number"),
    [
        (0, 0),
        *((5, 4), (10, 5), (15, 8), (20, 9), (25, 12), (30, 13), (40, 17), (50, 21), (60, 24)),
    ],
)
def test_levels_have_the_severity_numbers_of_the_data_model(level: int, number: int) -> None:
    """DEBUG is 5, INFO 9, WARNING 13, ERROR 17, CRITICAL 21, and a level between is between."""
    assert severity_number(level) == number


def test_an_entry_has_time_text_and_place() -> None:
    """I find when, what, how severe, by which logger, and in which line."""
    one = record("%s packed", 3, order=12)
    found = sent(one)
    assert found.timestamp_ns == int(one.created * 1e9)
    assert found.observed_ns >= found.timestamp_ns - 1_000_000_000
    assert (found.body, found.severity_text, found.severity_number) == ("3 packed", "INFO", 9)
    assert found.scope == "shop"
    assert found.attributes["order"] == 12
    assert found.attributes["code.line.number"] == 7
    assert found.attributes["code.function.name"] == "pack"


def test_a_record_within_a_task_has_the_ids_of_its_run(app: Celery, spans: Recorder) -> None:
    """Each record that my task logs says which task and which trace it belongs to."""
    found: list[LogEntry] = []

    @app.task(name="speak")
    def speak() -> None:
        found.append(entry_of(record(), current_run()))

    speak.apply(task_id="id-1")
    run = context_of(spans.one("run speak"))
    [entry] = found
    assert (entry.trace_id, entry.span_id) == (f"{run.trace_id:032x}", f"{run.span_id:016x}")
    assert entry.trace_flags == run.trace_flags
    assert entry.attributes["task_id"] == "id-1"
    assert entry.attributes["task_name"] == "speak"


def test_a_record_outside_has_no_ids() -> None:
    """Outside of tasks and spans, no ids are made up."""
    found = entry_of(record(), None)
    assert (found.trace_id, found.span_id, found.trace_flags) == ("", "", 0)
    assert "task_id" not in found.attributes


def test_ids_that_are_no_ids_are_left_out() -> None:
    """My own field happens to be called trace_id: it breaks nothing."""
    found = sent(record(trace_id="order-7", span_id=None, trace_flags="yes"))
    assert (found.trace_id, found.span_id, found.trace_flags) == ("", "", 0)


def test_a_message_of_5_mb_is_cut_and_says_so() -> None:
    """A task logs a whole file: the beginning arrives, and how long it was."""
    found = sent(record("x" * 5_000_000))
    assert len(found.body.encode()) <= MAX_BODY
    assert found.body.startswith("xxx")
    assert found.body.endswith("[cut by taskobs: 5000000 characters in all]")


def test_whatever_is_given_a_payload_is_bounded() -> None:
    """Texts, attributes and stack traces are long: the record fits into its frame all the same."""
    try:
        raise ValueError("y" * 1_000_000)  # noqa: TRY301  # it is caught here
    except ValueError:
        info = sys.exc_info()
    one = record("ü" * 1_000_000, **{f"field{n}": "z" * 100_000 for n in range(200)})
    one.exc_info, one.stack_info = info, "s" * 1_000_000
    payload = pack_entry(entry_of(one, None))
    assert len(payload) <= MAX_LOG
    found = unpack_entry(payload)
    assert found.dropped_attributes >= 150
    assert found.body.startswith("üü")


def test_lone_surrogates_and_odd_values_are_cleaned() -> None:
    """Half of a character, a huge number, not-a-number, bytes, an object: all of it can be sent."""
    one = record("a\ud800b", half="\udfff", huge=1 << 100, nan=float("nan"), raw=b"\xff", it=object)
    one.__dict__.update({7: "no name", "\ud800": "half a name"})  # type: ignore[dict-item]
    found = sent(one)
    assert found.body == "a?b"
    assert found.attributes["half"] == "?"
    assert found.attributes["huge"] == str(1 << 100)
    assert as_line(one)["Attributes"]["nan"] == "nan"


def test_a_message_that_does_not_fit_its_values_is_sent_as_it_is() -> None:
    """A wrong format is the app's mistake, and no reason to fail."""
    assert sent(record("%d packed", "three")).body == "%d packed"


def test_the_code_of_a_value_is_not_called() -> None:
    """A lazy query in `extra` is not run by logging."""

    class Query:
        def __str__(self) -> str:
            raise AssertionError("was run")

        __repr__ = __str__

    assert "Query" in str(sent(record(query=Query())).attributes["query"])


def test_values_with_secret_names_are_filtered() -> None:
    """A password that somebody logs as a field leaves by no channel."""
    one = record(password=PRIVATE, headers={"Authorization": PRIVATE})
    assert PRIVATE not in repr(sent(one))
    assert PRIVATE not in json.dumps(as_line(one))


@pytest.mark.parametrize("log_ids", [True, False])
def test_context_values_are_attributes(*, log_ids: bool) -> None:
    """I set a tenant, and find its lines by it, as text; a key without a value is left out."""
    accept_context_keys(frozenset({"tenant", "shard"}))
    token = context_values.put(None, {"tenant": 7, "of_my_own": "x"})
    one = record(order=12)
    if log_ids:
        add_fields(one, None)
    found = sent(one).attributes
    context_values.restore(None, token)
    assert {name: found.get(name) for name in ("tenant", "shard", "of_my_own", "order")} == {
        "tenant": "7",
        "shard": None,
        "of_my_own": "x",
        "order": 12,
    }


def test_celerys_records_have_no_arguments() -> None:
    """Celery writes arguments and results into its log: over OTLP they don't leave the process."""
    context = {"id": "7", "name": "shop.pack", "runtime": "0.1", "hostname": "h"}
    context |= dict.fromkeys(("args", "kwargs", "return_value"), PRIVATE)
    text = "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s"
    one = record(text, context, data=context)
    one.name = "celery.app.trace"
    found = sent(one)
    assert PRIVATE not in repr(found)
    assert "shop.pack[7] succeeded in 0.1s" in found.body
    assert "data" not in as_line(one)["Attributes"]


def test_an_exception_is_in_the_attributes_of_the_conventions() -> None:
    """Type, message and stack trace have OpenTelemetry's names."""
    try:
        raise KeyError("sku")  # noqa: TRY301  # it is caught here
    except KeyError:
        one = record()
        one.exc_info = sys.exc_info()
    found = sent(one).attributes
    assert found["exception.type"] == "builtins.KeyError"
    assert found["exception.message"] == "'sku'"
    assert "test_log_entries.py" in str(found["exception.stacktrace"])


def test_structlogs_events_have_their_text_and_fields() -> None:
    """With structlog in front of logging, the event is the body and its fields are attributes."""
    event = {"event": "packed", "order": 12, "level": "info"}
    one = record(event, _logger=object(), _name="info")
    found = sent(one)
    assert found.body == "packed"
    assert found.attributes["order"] == 12
    assert structlog.stdlib.ProcessorFormatter.wrap_for_formatter is not None


def test_a_line_of_json_has_the_fields_of_the_data_model() -> None:
    """I parse a line, and find what the specification names."""
    line = as_line(
        record("two\nlines", order=12, trace_id="1" * 32, span_id="2" * 16, trace_flags="01")
    )
    assert line["Body"] == "two\nlines"
    assert line["TraceId"] == "1" * 32
    assert line["SpanId"] == "2" * 16
    assert line["TraceFlags"] == 1
    assert line["Resource"] == {"service.name": "shop"}
    assert line["InstrumentationScope"] == {"Name": "shop"}
    assert int(line["ObservedTimestamp"]) >= int(line["Timestamp"]) > 1_600_000_000_000_000_000
    assert (line["SeverityText"], line["SeverityNumber"]) == ("INFO", 9)


def _broken_name(one: logging.LogRecord) -> None:
    one.__dict__["created"] = "yesterday"


def _broken_args(one: logging.LogRecord) -> None:
    one.args = ("a", "b")


@pytest.mark.parametrize("damage", [_broken_name, _broken_args])
def test_json_is_written_whatever_a_record_holds(
    damage: Callable[[logging.LogRecord], None],
) -> None:
    """A record that other code has damaged is still a line, and raises nothing."""
    one = record("still here")
    damage(one)
    assert as_line(one)["Body"] == "still here"


def test_a_payload_is_a_list() -> None:
    """Both programs read the same fields."""
    assert len(unpack(pack_entry(entry_of(record(), None)))) == len(LogEntry._fields)
