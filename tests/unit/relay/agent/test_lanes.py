"""Lanes and routes: where spans of the app's own exporters go, however many there have been."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from taskobs.protocol.frames import pack
from taskobs.protocol.span_encoder import split
from taskobs.protocol.span_routes import announcement, route_for, with_route
from taskobs.relay.agent.lanes import MOST, Lanes
from taskobs.relay.agent.route_table import ROUTES, RouteTable
from taskobs.relay.counters import DROPPED, Counters
from taskobs.relay.storage.base import Store
from taskobs.relay.storage.memory import MemoryStore
from taskobs.relay.storage.opening import open_store
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
    settings = {"protocol": "http/protobuf", "endpoint": endpoint, "timeout": PATIENCE}
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


def test_more_lanes_than_there_can_be_in_one_turn(table: Table) -> None:
    """My children come and go faster than the relay sends: what waits for one is never lost."""
    everywhere = [
        of_process(number, exporter("http://127.0.0.1:9", str(number)))
        for number in range(MOST + 4)
    ]
    for announced in everywhere:
        assert table.routes.announce(announced)
        key, packed = split(with_route(end()[1], route_for(announced)))
        table.routes.put(key, packed, None)
    table.routes.commit()
    assert (table.lanes.pending("span"), table.dropped()) == (MOST, 4)


def test_a_closed_lane_leaves_no_file(tmp_path: Path) -> None:
    """With a spool, tokens that were used before take no room on my disk."""
    counters = Counters()

    def spool(name: str) -> Store:
        return open_store({"directory": str(tmp_path / name)}, "worker", counters)

    main = spool("main")
    lanes = Lanes(main, counters, spool)
    try:
        for number in range(3 * MOST):
            assert lanes.find(exporter("http://127.0.0.1:9", str(number)))
        assert len(list(tmp_path.iterdir())) == 1 + MOST
    finally:
        for lane in lanes.all:
            lane.sender.stop(0.0)
            assert lane.sender.join(PATIENCE)
        for store in lanes.stores:
            store.close()


def test_a_flush_waits_for_nothing_but_its_own_destinations(table: Table) -> None:
    """My task flushes my provider, whose backend is up: that another one is down costs no time."""
    with backend() as there:
        down = of_process(1, exporter("http://127.0.0.1:9"))
        up = of_process(1, exporter(there.endpoint))
        for announced in (down, up):
            assert table.routes.announce(announced)
            table.send(announced)
        mark = table.routes.flush(route_for(up))
        assert wait_until(lambda: table.routes.is_safe(mark), timeout=PATIENCE)
        assert len(there.requests) == 1
        assert not table.routes.is_safe(table.routes.flush(route_for(down)))
        assert not table.routes.is_safe(table.routes.flush())


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
