"""Fixtures of the live ring: brokers, backends, a receiver, workers, producers.

A server is started when the first test asks for it, once for each test process, and skips that
test where the machine lacks it. With ``TASKOBS_REQUIRE_SERVICES=1`` it fails instead.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from taskobs.testing.receiver import Receiver
from tests.live import services
from tests.live.audit import AuditedShop, open_audited
from tests.live.celery_process import Broker, LiveApp, file_broker_in
from tests.live.recorder import recording
from tests.live.shop import Shop, open_shop

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here: ``live``; with a server, ``services`` too."""
    servers = {"redis_server", "rabbitmq_server", "jaeger", "bugsink", "neighbours", "collector"}
    for item in items:
        if "tests/live/" in item.path.as_posix():
            item.add_marker(pytest.mark.live)
            if servers & set(getattr(item, "fixturenames", ())):
                item.add_marker(pytest.mark.services)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Hold each test that names a row of the outcome table to it."""
    if not (isinstance(item, pytest.Function) and item.get_closest_marker("row")):
        return (yield)
    with recording(item, item.config.getoption("outcomes")):
        return (yield)


@contextmanager
def skip_if_missing() -> Generator[None]:
    """Turn a missing server into a skip, or into a failure where all are required and allowed."""
    try:
        yield
    except services.Missing as missing:
        if services.REQUIRED and not isinstance(missing, services.NotAllowed):
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[services.Redis]:
    """A Redis server on a port of its own."""
    with ExitStack() as stack:
        with skip_if_missing():
            server = stack.enter_context(services.redis(tmp_path_factory.mktemp("redis")))
        yield server


@pytest.fixture(scope="session")
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[services.RabbitMQ]:
    """A RabbitMQ server on ports of its own."""
    with ExitStack() as stack:
        with skip_if_missing():
            server = stack.enter_context(services.rabbitmq(tmp_path_factory.mktemp("rabbitmq")))
        yield server


@pytest.fixture(scope="session")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Generator[services.Jaeger]:
    """Jaeger on ports of its own."""
    with ExitStack() as stack:
        with skip_if_missing():
            server = stack.enter_context(services.jaeger(tmp_path_factory.mktemp("jaeger")))
        yield server


@pytest.fixture(scope="session")
def bugsink(tmp_path_factory: pytest.TempPathFactory) -> Generator[services.Bugsink]:
    """Bugsink on a port of its own; take a ``bugsink.project()`` for each test."""
    with ExitStack() as stack:
        with skip_if_missing():
            server = stack.enter_context(services.bugsink(tmp_path_factory.mktemp("bugsink")))
        yield server


@pytest.fixture(scope="session")
def neighbours() -> Path:
    """The programs of the virtual environment that has the libraries of docs/with-others.md."""
    with skip_if_missing():
        return services.neighbours()


@pytest.fixture
def redis_broker(redis_server: services.Redis) -> Broker:
    """A Redis database that nobody else uses, as broker and result backend."""
    url = redis_server.url()
    return Broker("redis", url, url)


@pytest.fixture
def rabbit_broker(rabbitmq_server: services.RabbitMQ, redis_server: services.Redis) -> Broker:
    """A RabbitMQ virtual host that nobody else uses; results in Redis."""
    return Broker("rabbitmq", rabbitmq_server.url(), redis_server.url())


@pytest.fixture
def file_broker(tmp_path: Path) -> Broker:
    """A broker in a folder, for what any machine can test."""
    return file_broker_in(tmp_path / "broker")


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each of the two real brokers in turn."""
    names = {"redis": "redis_broker", "rabbitmq": "rabbit_broker"}
    chosen: Broker = request.getfixturevalue(names[request.param])
    return chosen


@pytest.fixture
def receiver() -> Generator[Receiver]:
    """Stands for the OTLP and Sentry backends; ``.spans``, ``.events``, ``.wait_for()``."""
    with Receiver() as running:
        yield running


@pytest.fixture
def live(receiver: Receiver, tmp_path: Path) -> Generator[LiveApp]:
    """Starts workers, beats and producers that export to ``receiver``; ends them all."""
    with LiveApp(tmp_path, receiver.endpoint, receiver.dsn) as app:
        yield app


@pytest.fixture(scope="module")
def shop(redis_server: services.Redis, tmp_path_factory: pytest.TempPathFactory) -> Generator[Shop]:
    """A prefork worker and a producer over Redis, shared by the tests of a module."""
    url, folder = redis_server.url(), tmp_path_factory.mktemp("shop")
    with Receiver() as receiver, LiveApp(folder, receiver.endpoint, receiver.dsn) as app:
        app.measured = True
        yield open_shop(app, Broker("redis", url, url), receiver)


@pytest.fixture(
    scope="module", params=["redis-prefork", "rabbitmq-prefork", "redis-solo", "rabbitmq-solo"]
)
def each_shop(
    request: pytest.FixtureRequest,
    redis_server: services.Redis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[AuditedShop]:
    """A worker with a pool that forks, and one without, over each real broker in turn.

    In one of those that fork, each run is described the full way: every row of the outcome table
    that is about such a pool goes both ways, that of a run that died too, and looks the same.
    """
    kind, _, pool = str(request.param).partition("-")
    url = redis_server.url()
    if kind == "rabbitmq":
        rabbitmq: services.RabbitMQ = request.getfixturevalue("rabbitmq_server")
        url = rabbitmq.url()
    folder, backend = tmp_path_factory.mktemp(request.param), redis_server.url()
    with Receiver() as receiver, LiveApp(folder, receiver.endpoint, receiver.dsn) as app:
        app.measured = True
        if (kind, pool) == ("rabbitmq", "prefork"):
            app.env["APP_FULL_WAY"] = "1"
        yield open_audited(app, Broker(kind, url, backend), receiver, pool)
