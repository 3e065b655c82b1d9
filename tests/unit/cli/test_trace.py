"""``taskobs trace``: from the id of a task, an event or a trace to its tree."""

from __future__ import annotations

import dataclasses
import re
import time
import uuid

import pytest
from click.testing import CliRunner, Result

from taskobs.cli.main import main
from taskobs.testing.wire import ReceivedSpan
from taskobs.view.traces import assemble
from taskobs.view.tree import lines
from tests.live.services import free_port
from tests.support import demo
from tests.support.jaeger import query_api, trace_of

TASK = str(uuid.uuid4())
EVENT = uuid.uuid4().hex


def order(task: str = "charge", *, trace_id: str = demo.TRACE) -> list[ReceivedSpan]:
    """A request that publishes a task, a minute ago; its second attempt fails."""
    moved = time.time_ns() - 60_000_000_000 - demo.START
    made = [
        dataclasses.replace(
            span,
            trace_id=trace_id,
            start_ns=span.start_ns + moved,
            end_ns=span.end_ns + moved,
            attributes={**span.attributes, "celery.task_id": TASK},
        )
        for span in demo.order(task)
    ]
    failed = next(one for one in made if one.status == "error")
    attributes = {**failed.attributes, "sentry.event_id": EVENT}
    return [one for one in made if one is not failed] + [
        dataclasses.replace(failed, attributes=attributes)
    ]


def command(url: str, *args: str) -> Result:
    return CliRunner().invoke(main, ["trace", "--jaeger-api", url, *args])


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(TASK, id="task"),
        pytest.param(demo.TRACE, id="trace"),
        pytest.param(demo.TRACE.upper(), id="trace-in-capitals"),
        pytest.param(EVENT, id="event"),
        pytest.param(str(uuid.UUID(EVENT)), id="event-with-dashes"),
    ],
)
def test_each_id_leads_to_the_tree_that_the_demo_prints(wanted: str) -> None:
    """I paste what I have, of a log line, an issue or a result, and see the task's trace."""
    with query_api(trace_of(order()), trace_of(order(trace_id="cd" * 16))) as jaeger:
        jaeger.traces = jaeger.traces[:1]
        result = command(jaeger.url, wanted)
    assert result.exit_code == 0, result.output
    [trace] = assemble(order())
    drawn = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(lines(trace)))
    assert result.output == f"{drawn}\n{jaeger.url}/trace/{demo.TRACE}\n\n"
    assert "attempt 2" in result.output


def test_all_traces_of_a_task_are_printed() -> None:
    """A task that was published twice, by two services, has two traces: I see both."""
    one, two = trace_of(order()), trace_of(order(trace_id="cd" * 16), "billing")
    with query_api(one, two) as jaeger:
        both = command(jaeger.url, TASK)
        alone = command(jaeger.url, TASK, "--service", "billing")
    assert re.findall(r"^trace (\w+)", both.output, re.MULTILINE) == [demo.TRACE, "cd" * 16]
    assert re.findall(r"^trace (\w+)", alone.output, re.MULTILINE) == ["cd" * 16]


def test_the_search_goes_back_as_far_as_i_say() -> None:
    """A task of long ago is found with `--days`; the message says so."""
    old = [
        dataclasses.replace(
            one, start_ns=one.start_ns - 10 * 86_400 * 10**9, end_ns=one.end_ns - 864_000 * 10**9
        )
        for one in order()
    ]
    with query_api(trace_of(old)) as jaeger:
        missed, found = command(jaeger.url, TASK), command(jaeger.url, TASK, "--days", "30")
    assert missed.exit_code == 1
    assert "of the last 7 days" in missed.output
    assert "--days" in missed.output
    assert found.exit_code == 0, found.output


def test_what_is_nowhere_is_said_in_one_line() -> None:
    """I mistype an id, and learn where and how far back it was looked for."""
    with query_api(trace_of(order())) as jaeger:
        result = command(jaeger.url, "no-such-\x1b[31mtask")
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert jaeger.url in result.output
    assert "\x1b" not in result.output


def test_the_address_comes_from_a_variable_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """I set the address of Jaeger once, with a path and a login; the login is shown nowhere."""
    with query_api(trace_of(order())) as jaeger:
        login = jaeger.url.replace("://", "://anna:s%40cret@")
        monkeypatch.setenv("TASKOBS_JAEGER_API", f"{login}/")
        result = CliRunner().invoke(main, ["trace", TASK])
    assert result.exit_code == 0, result.output
    assert set(jaeger.logins) == {"Basic YW5uYTpzQGNyZXQ="}
    assert "cret" not in result.output


@pytest.mark.parametrize("url", ["http://anna:secret@127.0.0.1:{port}", "http://127.0.0.1:{port}"])
def test_a_jaeger_that_does_not_answer_is_named(url: str) -> None:
    """Nothing listens there: one line says where, and how to name another one."""
    port = free_port()
    result = command(url.format(port=port), TASK)
    assert result.exit_code == 1
    assert f"nothing answers at http://127.0.0.1:{port}" in result.output
    assert "--jaeger-api or TASKOBS_JAEGER_API" in result.output
    assert "secret" not in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>a page</html>", "no query API of Jaeger"),
        (200, b'{"data": [{"spans": [{"traceID": "x"}]}]}', "in an unknown form"),
        (404, b"nginx", "HTTP 404"),
        (401, b"", "HTTP 401"),
        (500, b'{"errors": [{"code": 500, "msg": "storage is away"}]}', "500: storage is away"),
        (
            500,
            b'{"errors": [{"msg": "no\\u001b[2J\\ntrace"}]}',
            "500: no\N{REPLACEMENT CHARACTER}[2J",
        ),
    ],
)
def test_another_answer_is_named(status: int, body: bytes, said: str) -> None:
    """A proxy, a login page, a broken storage: I read what came instead of a trace."""
    with query_api() as jaeger:
        jaeger.answer = status, body
        result = command(jaeger.url, demo.TRACE)
    assert result.exit_code == 1
    assert said in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("url", ["localhost:16686", "http://", "http://host:port", "ftp://a"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """I forget `http://`, and read what the address must look like."""
    result = command(url, TASK)
    assert result.exit_code == 1
    assert "address of Jaeger" in result.output


def test_a_deep_trace_is_printed_whole() -> None:
    """A task that publishes itself again and again makes one deep trace: it is printed whole."""
    now = time.time_ns()
    deep = [
        ReceivedSpan(
            trace_id=demo.TRACE,
            span_id=f"{number:016x}",
            parent_id=f"{number - 1:016x}" if number > 1 else "",
            name="run again",
            start_ns=now + number,
            end_ns=now + number + 1,
        )
        for number in range(1, 1_201)
    ]
    with query_api(trace_of(deep)) as jaeger:
        result = command(jaeger.url, demo.TRACE)
    assert result.exit_code == 0, result.exception
    assert result.output.count("run again") == 1_200
