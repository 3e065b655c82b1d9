"""Figures as Markdown tables, compared with the project's bounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from bench.figures import Figure
from bench.results import Results
from bench.workers import Worked

WHATS: Final = ("publish", "run", "spans", "fail")
TITLES: Final = {
    "publish": "publish",
    "run": "run",
    "spans": "run with ten spans",
    "fail": "failing run",
}
BEST: Final = "spans + Sentry, relay"
FLOORS: Final = {
    "publish": {"relay": 1.0, "direct": 1.0},
    "run": {"relay": 1.0, "direct": 1.25},
    "spans": {"relay": 0.4, "direct": 0.4},
    "fail": {"relay": 1.6, "direct": 3.8},
}
"""What spans and Sentry may add at most, in units of what the floor adds."""
UNSAMPLED: Final = 0.55
"""The same of an unsampled run with spans alone."""
UNCOUNTED: Final = "everything but metrics, relay"
PROCESSES: Final = ("parent", "children", "relay")


def single_table(single: dict[str, dict[str, Figure]]) -> str:
    """CPU time of the process, what it adds in units of the floor's, and the relay's beside."""
    head = ["CPU µs"]
    for what in WHATS:
        head += [TITLES[what], "added", "relay's"]
    rows = [[name, *_single_cells(name, single)] for name in single]
    return markdown(head, rows)


def _single_cells(name: str, single: dict[str, dict[str, Figure]]) -> Iterable[str]:
    for what in WHATS:
        found = single[name].get(what)
        if found is None:  # a peer that knows nothing of OpenTelemetry's spans
            yield from ("", "", "")
            continue
        yield f"{found.median:,.0f} ±{found.spread:.0%}"
        yield f"{_in_floors(single, name, what):.2f}"
        relay = single[name].get(f"relay: {what}")
        yield f"{relay.median:,.0f}" if relay else ""


def added(single: dict[str, dict[str, Figure]], name: str, what: str) -> float:
    """What a set-up adds to bare, in microseconds."""
    return single[name][what].median - single["bare"][what].median


def workers_table(workers: dict[str, Worked]) -> str:
    """Tasks per second, no-op and waiting ones, and the CPU time of each process per task."""
    base = workers["bare"]
    waiting = [part for nap in base.naps for part in (f"tasks of {nap} ms/s", "of bare")]
    head = [
        "",
        "tasks/s",
        "of bare",
        *waiting,
        *(f"CPU µs, {kind}" for kind in PROCESSES),
        "sum",
    ]
    rows: list[list[str]] = []
    for name, worked in workers.items():
        cpu = [worked.cpu.get(kind, 0.0) for kind in PROCESSES]
        rates = [*_rate(worked.rate, base.rate)]
        for nap, found in worked.naps.items():
            rates += _rate(found, base.naps[nap])
        rows.append([name, *rates, *(f"{c:,.0f}" if c else "" for c in [*cpu, sum(cpu)])])
    return markdown(head, rows)


def _rate(found: Figure, base: Figure) -> Iterable[str]:
    yield f"{found.median:,.0f} ±{found.spread:.0%}"
    yield f"{found.median / base.median:.1%}"


def memory_table(workers: dict[str, Worked]) -> str:
    """Resident and private megabytes of each process."""
    head = ["MB resident (private)", *PROCESSES, "child over bare"]
    base = workers["bare"]
    rows: list[list[str]] = []
    for name, worked in workers.items():
        cells = [
            f"{worked.resident[kind]:.1f} ({worked.private[kind]:.1f})"
            if kind in worked.resident
            else ""
            for kind in PROCESSES
        ]
        over = [
            found["children"] - bare["children"]
            for found, bare in ((worked.resident, base.resident), (worked.private, base.private))
        ]
        rows.append([name, *cells, f"{over[0]:+.1f} ({over[1]:+.1f})"])
    return markdown(head, rows)


def starting_table(starting: dict[str, Figure]) -> str:
    """Milliseconds of each step."""
    rows = [[step, f"{found.median:,.0f} ±{found.spread:.0%}"] for step, found in starting.items()]
    return markdown(["", "ms"], rows)


def bounds(results: Results) -> str:
    """Each bound, what was measured, and whether the bound is met."""
    rows = [
        [
            one.text,
            f"{one.found:.2f}",
            f"{one.sign} {one.bound:.2f}",
            "yes" if one.met else "**no**",
        ]
        for one in _bounds(results)
    ]
    return markdown(["", "measured", "aim", "met"], rows)


@dataclass(frozen=True)
class _Bound:
    text: str
    found: float
    bound: float
    sign: Literal["at most", "at least"] = "at most"

    @property
    def met(self) -> bool:
        if self.sign == "at most":
            return self.found <= self.bound
        return self.found >= self.bound


def _bounds(results: Results) -> Iterable[_Bound]:
    if results.single:
        yield from _single_bounds(results.single)
    if results.workers:
        yield from _worker_bounds(results.workers)
    if results.starting:
        found = results.starting["import taskobs, after that"].median
        yield _Bound("ms of `import taskobs` over `import celery`", found, 40.0)


def instructions_table(counts: dict[str, dict[str, float]]) -> str:
    """Thousands of instructions, and what a set-up adds in units of what the floor adds."""
    head = ["thousands of instructions"]
    for what in WHATS:
        head += [TITLES[what], "added", "aim"]
    rows = [[name, *_instruction_cells(name, counts)] for name in counts]
    return markdown(head, rows)


def _instruction_cells(name: str, counts: dict[str, dict[str, float]]) -> Iterable[str]:
    observed, _, mode = name.partition(", ")
    for what in WHATS:
        bare, floor = counts["bare"][what], counts["floor"][what]
        yield f"{counts[name][what]:,.0f}"
        found, aim = (counts[name][what] - bare) / (floor - bare), None
        if observed == "spans + Sentry":
            aim = FLOORS[what][mode]
        elif observed == "unsampled" and what == "run":
            aim = UNSAMPLED
        met = aim is None or found <= aim
        yield f"{found:.2f}" if met else f"**{found:.2f}**"
        yield "" if aim is None else f"{aim:.2f}"


def _single_bounds(single: dict[str, dict[str, Figure]]) -> Iterable[_Bound]:
    for what, modes in FLOORS.items():
        for mode, bound in modes.items():
            found = _in_floors(single, f"spans + Sentry, {mode}", what)
            yield _Bound(f"{TITLES[what]}, {mode}: added, in units of the floor's", found, bound)
    for mode in ("relay", "direct"):
        found = _in_floors(single, f"unsampled, {mode}", "run")
        yield _Bound(f"unsampled run, {mode}: added, in units of the floor's", found, UNSAMPLED)
    for what, bound in (("publish", 1 / 3), ("run", 1 / 5), ("fail", 1 / 2)):
        found = added(single, BEST, what) / added(single, "stock pair", what)
        yield _Bound(f"{TITLES[what]}, relay: added, of the stock pair's", found, bound)
    nothing, bare = single["nothing configured"]["run"], single["bare"]["run"]
    yield _Bound("run with nothing configured, of bare", nothing.median / bare.median, 1.05)


def _in_floors(single: dict[str, dict[str, Figure]], name: str, what: str) -> float:
    return added(single, name, what) / added(single, "floor", what)


def _worker_bounds(workers: dict[str, Worked]) -> Iterable[_Bound]:
    bare, most = workers["bare"], workers["everything, relay"]
    stopped, uncounted = workers["everything, relay stopped"], workers[UNCOUNTED]
    found = most.rate.median / workers["floor"].rate.median
    yield _Bound(
        "worker, tasks per second with everything on, of the floor's", found, 1.0, "at least"
    )
    found = stopped.rate.median / most.rate.median
    yield _Bound("… with the relay stopped, of with the relay running", found, 0.95, "at least")
    found = most.rate.median / uncounted.rate.median
    yield _Bound("… with metrics, of without", found, 0.98, "at least")
    found = sum(most.cpu.values()) / sum(uncounted.cpu.values())
    yield _Bound("CPU of a task in all processes, with metrics, of without", found, 1.02)
    for nap, alone in bare.naps.items():
        found = most.naps[nap].median / alone.median
        yield _Bound(
            f"worker, tasks of {nap} ms with everything on, of bare", found, 0.98, "at least"
        )
        found = stopped.naps[nap].median / alone.median
        yield _Bound("… with the relay stopped, of bare", found, 0.98, "at least")
    over = most.private["children"] - bare.private["children"]
    yield _Bound("MB of a child over bare, private", over, 8.0)
    yield _Bound("MB of the relay, idle, resident", most.resident.get("relay", 0.0), 40.0)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; all columns but the first are numbers."""
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def sections(results: Results) -> dict[str, str]:
    """Give the generated parts of the page, by the names of their markers."""
    found: dict[str, str] = {}
    if results.single or results.workers or results.starting:
        found = {"machine": results.machine, "bounds": bounds(results)}
    if results.instructions:
        found["instructions"] = instructions_table(results.instructions)
    if results.single:
        found["single"] = single_table(results.single)
    if results.workers:
        found["workers"] = workers_table(results.workers)
        found["memory"] = memory_table(results.workers)
    if results.starting:
        found["starting"] = starting_table(results.starting)
    return found


def filled(text: str, parts: dict[str, str]) -> str:
    """Return the page with its generated parts anew; raises ValueError without their markers."""
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"no {begin.strip()} and {end} on the page")
        text = f"{before}{begin}{part}\n{end}{after}"
    return text
