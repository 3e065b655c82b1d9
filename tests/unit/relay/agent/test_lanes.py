"""Lanes and routes: where spans of the app's own exporters go, however many there have been."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from taskobs.protocol.frames import pack
from taskobs.protocol.span_encoder import split
from taskobs.protocol.span_routes import announcement, route_for, with_route
from taskobs.relay.agent.lanes import MOST, Lanes
from taskobs.relay.agent.route_table import ROUTES, RouteTable
from taskobs.relay.counters import DROPPED, Counters
from taskobs.relay.storage.memory import MemoryStore
from tests.live.process import wait_until
from tests.support.export import backend
from tests.support.relay_peer import PATIENCE
from tests.support.relay_spans import end


class Table:
    """A relay's routes and lanes, all in memory."""

    def __init__(self) -> None:
        self.counters = Counters()
        main = MemoryStore(self.counters)
        self.lanes = Lanes(main, self.counters, lambda _: MemoryStore(self.counters))
        self.routes = RouteTable(self.lanes, self.counters)

    def send(self, announced: bytes) -> None:
        """Take a span that a process has ended."""
        key, packed = split(with_route(end()[1], route_for(announced)))
        self.routes.put(key, packed, None)
        self.routes.commit()

    def dropped(self) -> int:
        return self.counters.total(DROPPED, "span")

    def close(self) -> None:
        for lane in self.lanes.all:
            lane.sender.stop(0.0)
            assert lane.sender.join(PATIENCE)


@pytest.fixture
def table() -> Generator[Table]:
    made = Table()
    yield made
    made.close()


def exporter(endpoint: str, token: str = "") -> bytes:
    settings = {"protocol": "http/protobuf", "endpoint": endpoint, "timeout": 5.0}
    return pack({**settings, "headers": {"authorization": token}})


def of_process(pid: int, *exporters: bytes) -> bytes:
    return announcement({"service.name": "shop", "process.pid": pid}, "", exporters)


def test_each_new_process_has_a_token_of_its_own(table: Table) -> None:
    """My exporter's token is renewed with each pool child: spans of the last one arrive, too."""
    tokens = [f"token {number}" for number in range(4 * MOST)]
    with backend() as there:
        for number, token in enumerate(tokens):
            announced = of_process(number, exporter(there.endpoint, token))
            assert table.routes.announce(announced)
            table.send(announced)
            table.routes.flush()
            assert wait_until(lambda: not table.lanes.pending("span"), timeout=PATIENCE)
        assert [one.headers["authorization"] for one in there.requests] == tokens
    assert table.dropped() == 0
    assert len(table.lanes.all) == MOST


def test_lanes_with_something_to_send_are_kept(table: Table) -> None:
    """As many of my backends are down as there are lanes: what waits for them is kept."""
    down = [exporter("http://127.0.0.1:9", str(number)) for number in range(MOST)]
    for one in down:
        announced = of_process(1, one)
        assert table.routes.announce(announced)
        table.send(announced)
    one_more = of_process(1, exporter("http://127.0.0.1:9", "one more"))
    assert table.routes.announce(one_more)
    table.send(one_more)
    assert [lane.store.pending("span").items for lane in table.lanes.all] == [1] * MOST
    assert table.dropped() == 1


def test_a_process_that_lives_long_keeps_its_route(table: Table) -> None:
    """A child sends spans while thousands of others come and go: all of its spans are sent."""
    waits = exporter("http://127.0.0.1:9")
    announced = of_process(0, waits)
    table.routes.announce(announced)
    for number in range(1, 2 * ROUTES):
        table.routes.announce(of_process(number, waits))
        if number % 1_000 == 0:
            table.send(announced)
    table.send(announced)
    assert table.lanes.pending("span") == 2 * ROUTES // 1_000 + 1
    assert table.dropped() == 0
