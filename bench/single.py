"""The first part: CPU time of a publish, a run and a failing run, in one process each."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Final

from bench.children import Process, Receiver
from bench.figures import Figure, figure
from bench.peers import PEERS
from bench.setups import SETUPS

COUNTS: Final = {"publish": 400, "run": 1000, "spans": 200, "fail": 100}


def measure(rounds: int, peers: Iterable[str] = ()) -> dict[str, dict[str, Figure]]:
    """Measure all set-ups, interleaved; gives microseconds by set-up and by what was done.

    What a relay takes for it is beside it, as ``relay: publish`` and so on.
    """
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        command = ("-m", "bench.one")
        processes = {
            name: stack.enter_context(Process(*command, name, *receiver.target))
            for name in (*SETUPS, *peers)
        }
        for process in processes.values():
            process.read()
        costs: dict[str, dict[str, list[float]]] = {name: {} for name in processes}
        for number in range(rounds):
            print(f"one process: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for what, count in COUNTS.items():
                for name, process in processes.items():
                    if what == "spans" and name in PEERS:
                        continue  # they know nothing of OpenTelemetry's spans
                    process.write(f"{what} {count}")
                    own, relay = map(float, process.read().split())
                    costs[name].setdefault(what, []).append(own)
                    if "relay" in name:
                        costs[name].setdefault(f"relay: {what}", []).append(relay)
            receiver.clear()
    return {
        name: {what: figure(found) for what, found in by_what.items()}
        for name, by_what in costs.items()
    }
