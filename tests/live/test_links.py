"""From an event to its trace and back, in a real Jaeger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from click.testing import CliRunner

from taskobs.cli.main import main
from tests.live.process import LIMIT

if TYPE_CHECKING:
    import pytest

    from taskobs.testing.receiver import Receiver
    from tests.live.celery_process import Broker, LiveApp
    from tests.live.services import Jaeger

FAIL = "given = app.fail.delay(); given.get(timeout=90, propagate=False); result = given.id"


def test_an_event_leads_to_its_trace_and_each_id_to_the_same_tree(
    live: LiveApp,
    file_broker: Broker,
    jaeger: Jaeger,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I follow the link on an event to Jaeger, and paste any id that I have into the command."""
    live.env |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.endpoint,
        "TASKOBS_TRACE_URL": jaeger.query + "/trace/{trace_id}",
        "TASKOBS_EVENT_URL": "https://sentry.example/events/{event_id}",
    }
    live.worker(file_broker, concurrency=1)
    producer = live.producer(file_broker)
    task_id = producer.run(FAIL)
    assert producer.close() == 0
    assert receiver.wait_for(lambda there: len(there.events) == 1, LIMIT)
    [event] = receiver.events
    data: Any = event.data
    trace_id: str = data["contexts"]["trace"]["trace_id"]
    link = f"{jaeger.query}/trace/{trace_id}"
    assert data["contexts"]["taskobs"] == {"trace_url": link}
    assert data["tags"]["taskobs.trace_url"] == link

    spans = jaeger.trace(trace_id, spans=2)["spans"]
    [run] = [one for one in spans if one["operationName"].startswith("run ")]
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    assert tags["sentry.event_url"] == f"https://sentry.example/events/{event.event_id}"

    monkeypatch.setenv("TASKOBS_JAEGER_API", jaeger.query)
    printed = [
        CliRunner().invoke(main, ["trace", wanted, "--no-color"])
        for wanted in (task_id, trace_id, event.event_id)
    ]
    assert [one.exit_code for one in printed] == [0, 0, 0], printed[0].output
    assert len({one.output for one in printed}) == 1
    lines = printed[0].output.splitlines()
    assert lines[0].startswith(f"trace {trace_id}")
    assert lines[1].startswith(f"publish {live.task('fail')}")
    assert lines[2].startswith(f"└─ run {live.task('fail')}")
    assert "✗ failed" in lines[2]
    assert "queued" in lines[2]
    assert lines[3] == link
    nothing = CliRunner().invoke(main, ["trace", "0" * 31 + "1"])
    assert nothing.exit_code == 1
    assert "of the last 7 days" in nothing.output
