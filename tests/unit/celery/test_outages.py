"""An outage is told once, until the connection is back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import signals
from celery.backends.redis import RedisBackend
from celery.beat import SchedulingError
from celery.worker.consumer import Consumer
from kombu.exceptions import EncodeError, OperationalError

from taskobs.celery.outages import Outages

CONSUMER = ("celery.worker.consumer.consumer", "consumer: Cannot connect to %s: %s.\n%s\n")
TICK = ("celery.beat", "Message Error: %s\n%s")
BEAT = ("celery.beat", "beat: Connection error: %s. Trying again in %s seconds...")
RESULTS = ("celery.backends.redis", "Connection to Redis lost: Retry (%s/%s) %s.")


@pytest.fixture
def outages() -> Iterator[Outages]:
    made = Outages()
    yield made
    made.close()


def record(
    told: tuple[str, str], error: BaseException | None = None, args: tuple[Any, ...] = ()
) -> logging.LogRecord:
    info = None if error is None else (type(error), error, None)
    return logging.LogRecord(told[0], logging.ERROR, "f.py", 1, told[1], args, info)


def away(broker: str) -> logging.LogRecord:
    """What a worker logs of a broker that it can't connect to."""
    uri = f"redis://{broker}:6379//"
    return record(CONSUMER, args=(uri, ConnectionRefusedError(), "Will retry using next failover."))


class Connection:
    """A connection of kombu's to a broker."""

    def __init__(self, broker: str) -> None:
        self._broker = broker

    def as_uri(self) -> str:
        return f"redis://{self._broker}:6379//"


@pytest.fixture
def connects(outages: Outages, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], object]:
    """Has the worker connect to a broker."""

    def connected(_: Any, connection: Any) -> Any:
        return connection

    monkeypatch.setattr(Consumer, "ensure_connected", connected)
    outages.watch_worker()
    consumer: Any = object.__new__(Consumer)
    return lambda broker: consumer.ensure_connected(Connection(broker))


def unsent(cause: BaseException) -> BaseException:
    """What beat raises for an entry that it couldn't send."""
    error = SchedulingError("Couldn't apply scheduled task")
    error.__context__ = cause
    return error


def test_attempts_of_one_outage_are_reported_once(outages: Outages) -> None:
    for told in (CONSUMER, BEAT, RESULTS):
        assert [outages.repeats(record(told)) for _ in range(4)] == [False, True, True, True]


def test_every_kind_of_beats_trouble_with_the_broker_is_one_outage(outages: Outages) -> None:
    assert not outages.repeats(record(TICK, unsent(OperationalError("refused"))))
    assert outages.repeats(record(TICK, unsent(ConnectionResetError())))
    assert outages.repeats(record(BEAT))


def test_other_errors_are_reported_each_time(outages: Outages) -> None:
    """An entry whose arguments can't be encoded is a mistake, whatever the broker does."""
    outages.repeats(record(BEAT))
    for _ in range(2):
        assert not outages.repeats(record(TICK, unsent(EncodeError("a lambda"))))
        assert not outages.repeats(record(("shop", "consumer: Cannot connect to")))
        assert not outages.repeats(record((CONSUMER[0], "something else")))
        assert not outages.repeats(record(TICK))


def test_an_error_that_is_its_own_cause_ends() -> None:
    error = ValueError()
    error.__context__ = unsent(error)
    assert not Outages().repeats(record(TICK, error))


def test_a_worker_that_is_connected_again_reports_the_next_outage(
    outages: Outages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connected(_: Any, connection: Any) -> Any:
        return connection

    monkeypatch.setattr(Consumer, "ensure_connected", connected)
    outages.watch_worker()
    outages.watch_worker()
    assert not outages.repeats(record(CONSUMER))
    consumer: Any = object.__new__(Consumer)
    assert consumer.ensure_connected("a connection") == "a connection"
    assert not outages.repeats(record(CONSUMER))
    outages.close()
    assert Consumer.__dict__["ensure_connected"] is connected


def test_a_beat_that_sends_again_reports_the_next_outage(outages: Outages) -> None:
    outages.watch_beat()
    assert not outages.repeats(record(BEAT))
    assert outages.repeats(record(BEAT))
    signals.after_task_publish.send(sender="shop.add")
    assert not outages.repeats(record(BEAT))


def test_a_result_backend_that_answers_again_reports_the_next_outage(
    outages: Outages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ensure(_: Any, function: Any, args: Any) -> Any:
        return function(*args)

    monkeypatch.setattr(RedisBackend, "ensure", ensure)
    assert not outages.repeats(record(RESULTS))
    backend: Any = object.__new__(RedisBackend)
    with pytest.raises(ZeroDivisionError):
        backend.ensure(divmod, (1, 0))
    assert outages.repeats(record(RESULTS))
    assert backend.ensure(max, (1, 2)) == 2
    assert not outages.repeats(record(RESULTS))


def test_a_forked_child_has_outages_of_its_own(outages: Outages) -> None:
    outages.repeats(record(CONSUMER))
    outages.after_fork()
    assert not outages.repeats(record(CONSUMER))


def test_a_worker_that_gives_up_is_of_the_same_outage(outages: Outages) -> None:
    """My worker retries, and ends when no retry is left: the outage is one event."""
    gives_up = ("celery.worker", "Unrecoverable error: %r")
    assert not outages.repeats(record(CONSUMER))
    assert outages.repeats(record(gives_up, OperationalError("refused")))
    assert not outages.repeats(record(gives_up, ValueError("of something else")))


def test_a_worker_that_gives_up_at_once_is_reported(outages: Outages) -> None:
    """Nothing was said of the outage before: the end of my worker says it."""
    error = ConnectionRefusedError("refused")
    assert not outages.repeats(record(("celery.worker", "Unrecoverable error: %r"), error))


def test_a_dead_broker_of_a_list_is_one_outage_though_each_connection_meets_it(
    outages: Outages, connects: Callable[[str], object]
) -> None:
    """The first broker of my list is away: my worker uses the second one, and I hear of it once."""
    assert not outages.repeats(away("first"))
    connects("second")
    for _ in range(3):  # connections for events, and after a lost connection
        assert outages.repeats(away("first"))
        connects("second")
    connects("first")
    assert not outages.repeats(away("first"))


def test_all_brokers_of_a_list_are_one_outage(
    outages: Outages, connects: Callable[[str], object]
) -> None:
    """All brokers of my list are away at the start: it is one outage until one of them answers."""
    told = [outages.repeats(away(broker)) for broker in ("first", "second") * 3]
    assert told == [False, *[True] * 5]
    connects("second")
    assert outages.repeats(away("first"))


def test_the_broker_that_was_left_is_an_outage_of_its_own(
    outages: Outages, connects: Callable[[str], object]
) -> None:
    """My first broker is away since yesterday; when the second one goes too, I hear of that."""
    assert not outages.repeats(away("first"))
    connects("second")
    told = [outages.repeats(away(broker)) for broker in ("first", "second") * 2]
    assert told == [True, False, True, True]
    connects("second")
    assert not outages.repeats(away("second"))
