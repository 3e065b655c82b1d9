"""The reader on transports that need no server, and what it says when there is none."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from celery import Celery

from taskobs.celery.queues.reader import BrokerError, QueueReader
from taskobs.celery.queues.readings import CONSUMERS, FIELDS, OLDEST_AGE, UNACKED, QueueReading
from tests.live.services import free_port
from tests.support.recording import PrivateApp


@pytest.fixture
def reader(app: Celery, request: pytest.FixtureRequest) -> Generator[QueueReader]:
    """Give a reader of an app in memory whose queue is this test's own."""
    app.conf.task_default_queue = request.node.name
    app.conf.worker_enable_remote_control = False
    made = QueueReader(app, more=["mail", "", request.node.name])
    yield made
    made.close()


def test_of_other_transports_the_length_is_known(app: Celery, reader: QueueReader) -> None:
    """I use a broker that taskobs knows nothing more of: I see how long the queues are."""
    for _ in range(3):
        app.send_task("add")
    reading = reader.read()
    assert reading.queues == (
        QueueReading(name=app.conf.task_default_queue, ready=3),
        QueueReading(name="mail", ready=0, oldest_age=0.0),
    )
    assert reading.unknown == {
        UNACKED: "it can't be known of memory",
        OLDEST_AGE: "it can't be known of memory",
        CONSUMERS: "worker_enable_remote_control is off, so workers can't be asked",
    }
    assert set(reading.unknown) <= set(FIELDS)


def test_a_second_look_sees_what_has_changed(app: Celery, reader: QueueReader) -> None:
    """I look again, over the same connection, and see what came since."""
    assert reader.read().queues[0].ready == 0
    app.send_task("add")
    assert reader.read().queues[0].ready == 1


def test_a_connection_that_was_closed_is_made_anew(app: Celery, reader: QueueReader) -> None:
    """Something closed the idle connection: that is no outage."""
    reader.read()
    kept = vars(reader)["_connection"]
    kept.release()
    kept.transport_cls = "no-such-transport"
    app.send_task("add")
    assert reader.read().queues[0].ready == 1


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_is_not_there_is_named_without_its_password(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """My broker is down: I read which, and why, at once, in one line and without my password."""
    waits: list[float] = []
    monkeypatch.setattr("kombu.utils.functional.sleep", waits.append)
    port = free_port()
    url = f"{scheme}://me:secret@127.0.0.1:{port}//"
    with PrivateApp("shop", broker=url, set_as_current=False) as app:
        reader = QueueReader(app)
        assert reader.names == ["celery"]
        assert reader.broker.endswith(f" at 127.0.0.1:{port}")
        with pytest.raises(BrokerError) as caught:
            reader.read()
    text = str(caught.value)
    assert "refused" in text
    assert "secret" not in text
    assert "\n" not in text
    assert waits == []


def test_a_url_in_an_error_is_masked(
    app: Celery, reader: QueueReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transport writes its URL into an error: my password is not in what I read."""

    def refuse(**_: object) -> object:
        raise OSError("can't reach\npostgresql://me:secret@there/db")

    monkeypatch.setattr(app, "connection_for_read", refuse)
    with pytest.raises(BrokerError) as caught:
        reader.read()
    assert str(caught.value) == "OSError: can't reach postgresql://***@there/db"
