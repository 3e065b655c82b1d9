"""Have prefork workers run 50,000 tasks, and compare what their processes hold early and late.

Two workers over Redis, one after the other: one without taskobs, one with all of it and its relay.
Celery's own processes grow, too, so what the second one's hold is compared with the first one's.
Needs Redis and Linux. Exit status: 0 if taskobs adds no memory, descriptors or threads from the
first look to the last; 1 if it does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import proc  # noqa: E402  # found from ROOT
from bench.children import Receiver  # noqa: E402  # found from ROOT
from bench.workers import Worker, redis_server  # noqa: E402  # found from ROOT

BARE, OBSERVED = "bare", "everything, relay"
"""Of bench's set-ups."""
BATCH: Final = 2_500
"""Tasks that are published and run in one go."""
QUIET: Final = 0.6
"""Seconds between two looks at the CPU time of processes that come to rest."""
IDLE: Final = 0.02
"""CPU seconds that resting processes take in that time at most."""
CALM_WITHIN: Final = 60.0
"""Seconds after which a look is taken though they have not come to rest."""
METRICS: Final = {"OTEL_METRIC_EXPORT_INTERVAL": "2000"}
"""Metrics are exported before the first look: their connection stays open."""


@dataclass(frozen=True)
class Held:
    """What one process holds; of several alike, the sums."""

    resident: float
    """Megabytes (10^6 bytes)."""
    proportional: float
    """The same, with what is shared divided by the number of processes that share it."""
    descriptors: int
    threads: int

    def minus(self, other: Held) -> Held:
        """Return how much more this is."""
        return Held(
            self.resident - other.resident,
            self.proportional - other.proportional,
            self.descriptors - other.descriptors,
            self.threads - other.threads,
        )


Looks = dict[int, dict[str, Held]]
"""By the number of tasks that were run: what processes hold, by what they are."""


def look(worker: Worker) -> dict[str, Held]:
    """Return what a worker's processes hold, once they have come to rest."""
    _calm_down(worker)
    return {kind: _held(pids) for kind, pids in worker.processes.items() if pids}


def _calm_down(worker: Worker) -> None:
    deadline = time.monotonic() + CALM_WITHIN
    last, quiet = 0.0, 0
    while quiet < 3 and time.monotonic() < deadline:  # noqa: PLR2004  # what is recorded is sent
        time.sleep(QUIET)
        now = sum(worker.cpu().values())
        quiet = quiet + 1 if now - last < IDLE else 0
        last = now


def _held(pids: Sequence[int]) -> Held:
    memory = [proc.memory(pid) for pid in pids]
    return Held(
        sum(one.resident for one in memory),
        sum(one.proportional for one in memory),
        sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
        sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids),
    )


def soak(name: str, url: str, receiver: Receiver, tasks: int, at: Sequence[int]) -> Looks:
    """Have one kind of worker run tasks; return what its processes held after so many."""
    looks: Looks = {}
    with Worker(name, url, receiver, env=METRICS) as worker:
        worker.warm_up(200)  # which starts all of its processes, and raises if it has no relay
        done = 0
        while done < tasks:
            following = min(target for target in [*at, tasks] if target > done)
            number = min(BATCH, following - done)
            worker.run(number)
            done += number
            receiver.clear()
            print(f"{name}: {done:,} of {tasks:,} tasks", file=sys.stderr, flush=True)
            if done in at or done == tasks:
                looks[done] = look(worker)
    return looks


def growth(looks: Looks) -> dict[str, Held]:
    """Return how much more the processes hold at the last look than at the first."""
    first, last = looks[min(looks)], looks[max(looks)]
    return {kind: held.minus(first[kind]) for kind, held in last.items()}


def table(looks: Mapping[str, Looks]) -> str:
    """Write what was held, as a Markdown table."""
    lines = [
        "| processes | tasks | RSS, MB | PSS, MB | descriptors | threads |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name}: {kind} | {tasks:,} | {held.resident:.1f} | {held.proportional:.1f} "
        f"| {held.descriptors} | {held.threads} |"
        for name, of in looks.items()
        for kind in of[min(of)]
        for tasks, found in of.items()
        for held in [found[kind]]
    ]
    return "\n".join(lines)


def problems(bare: Looks, observed: Looks, limit: float) -> list[str]:
    """Say where the observed worker has grown by more than the bare one; ``limit`` is in MB."""
    without, found = growth(bare), list[str]()
    for kind, grown in growth(observed).items():
        more = grown.minus(without.get(kind, Held(0.0, 0.0, 0, 0)))
        print(
            f"{kind}: {more.resident:+.1f} MB RSS, {more.proportional:+.1f} MB PSS, "
            f"{more.descriptors:+d} descriptors, {more.threads:+d} threads more than without"
        )
        if max(more.resident, more.proportional) > limit:
            found.append(f"{kind}: {more.resident:.1f} MB more, of {limit:.0f} allowed")
        if more.descriptors > 0:
            found.append(f"{kind}: {more.descriptors} more descriptors")
        if more.threads > 0:
            found.append(f"{kind}: {more.threads} more threads")
    return found


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="make worker-soak", description=__doc__)
    parser.add_argument("--tasks", type=int, default=50_000, help="how many (50,000)")
    parser.add_argument("--first", type=int, default=5_000, help="tasks before the first look")
    parser.add_argument("--limit", type=float, default=3.0, help="MB that each may grow (3)")
    chosen = parser.parse_args()
    if not 0 < chosen.first < chosen.tasks:
        parser.error("--first has to be less than --tasks")
    begun = time.monotonic()
    with redis_server() as url, Receiver() as receiver:
        looks = {
            name: soak(name, f"{url}/{number}", receiver, chosen.tasks, [chosen.first])
            for number, name in enumerate((BARE, OBSERVED))
        }
    print(table(looks))
    found = problems(looks[BARE], looks[OBSERVED], chosen.limit)
    print(f"{time.monotonic() - begun:.0f} s; worker soak: {'; '.join(found) or 'nothing grows'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
