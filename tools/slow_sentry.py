"""Let tasks fail while Sentry takes 100 ms for each event, without the relay and with it.

Prints how many events a second arrive for each number of pool children. Needs Redis. Exit status:
0 if with the relay there are at least as many as without, 1 if not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.live import services  # noqa: E402  # found from ROOT
from tests.live.celery_process import Broker, LiveApp  # noqa: E402  # found from ROOT
from tests.support.envelopes import numbers  # noqa: E402  # found from ROOT
from tests.support.export import Backend, Reply, backend  # noqa: E402  # found from ROOT

QUIET: Final = 5.0
"""Seconds without an event after which no more are waited for."""


@dataclass(frozen=True)
class Figures:
    """The measurements of one run."""

    rate: float
    """Events a second, from the first to the last."""
    arrived: int
    twice: int
    """Events that arrived more than once."""
    relay: str = ""
    """What the relay's process holds at the end."""


def main() -> int:
    """Run what was asked for, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tools.slow_sentry", description=__doc__)
    parser.add_argument("--failures", type=int, default=800)
    parser.add_argument("--delay", type=float, default=0.1, help="seconds for each event")
    parser.add_argument("--children", type=int, nargs="+", default=[1, 2, 4])
    chosen = parser.parse_args()
    slower = False
    print(f"{'children':>8} {'pipeline':>8} {'events/s':>9} {'arrived':>8} {'twice':>6}  relay")
    with tempfile.TemporaryDirectory(prefix="slow-sentry-") as folder:
        kept = Path(folder)
        with services.redis(kept) as redis:
            for children in chosen.children:
                rates: dict[bool, float] = {}
                for relay in (False, True):
                    url = redis.url()
                    figures = _run(kept, Broker("redis", url, url), children, relay, chosen)
                    rates[relay] = figures.rate
                    _print(children, relay, figures)
                slower = slower or rates[True] < rates[False]
    return int(slower)


def _print(children: int, relay: bool, figures: Figures) -> None:  # noqa: FBT001  # one of two
    name = "relay" if relay else "direct"
    counts = f"{figures.rate:>9.1f} {figures.arrived:>8} {figures.twice:>6}"
    print(f"{children:>8} {name:>8} {counts}  {figures.relay}", flush=True)


def _run(
    kept: Path,
    broker: Broker,
    children: int,
    relay: bool,  # noqa: FBT001  # one of two
    chosen: argparse.Namespace,
) -> Figures:
    folder = kept / f"{children}-{relay}"
    folder.mkdir()
    with backend(respond=lambda _: Reply(delay=chosen.delay)) as there:
        with LiveApp(folder, None, there.dsn) as live:
            env = {"TASKOBS_RELAY": str(int(relay))}
            worker = live.worker(broker, concurrency=children, env=env)
            producer = live.producer(broker, env={"TASKOBS_ENABLED": "0"})
            producer.run(f"for _ in range({chosen.failures}): app.fail.delay()")
            _wait(there, chosen.failures)
            held = _relay_of(worker.process.pid)
            producer.close()
        times = sorted(request.at for request in there.requests)
        arrived = Counter(numbers(there))
    seconds = times[-1] - times[0]
    twice = sum(number > 1 for number in arrived.values())
    return Figures((len(times) - 1) / seconds, len(arrived), twice, held)


def _wait(there: Backend, number: int) -> None:
    seen, since = 0, time.monotonic()
    while len(there.requests) < number and (not seen or time.monotonic() - since < QUIET):
        if len(there.requests) != seen:
            seen, since = len(there.requests), time.monotonic()
        time.sleep(0.1)


def _relay_of(worker: int) -> str:
    """Return threads and resident memory of a worker's relay; empty if it has none."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            status = (process / "status").read_text()
        except OSError:  # it has just ended
            continue
        lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if b"taskobs.relay" in command and lines["PPid"] == str(worker):
            return f"{lines['Threads']} threads, {int(lines['VmRSS'].split()[0]) / 1024:.1f} MB"
    return ""


if __name__ == "__main__":
    sys.exit(main())
