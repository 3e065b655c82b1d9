"""Figures as Markdown tables, compared with the project's bounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

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
        found = single[name][what]
        yield f"{found.median:,.0f} ±{found.spread:.0%}"
        yield f"{added(single, name, what) / added(single, 'floor', what):.2f}"
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
    base = workers["bare"].resident["children"]
    rows: list[list[str]] = []
    for name, worked in workers.items():
        cells = [
            f"{worked.resident[kind]:.1f} ({worked.private[kind]:.1f})"
            if kind in worked.resident
            else ""
            for kind in PROCESSES
        ]
        rows.append([name, *cells, f"{worked.resident['children'] - base:+.1f}"])
    return markdown(head, rows)


def starting_table(starting: dict[str, Figure]) -> str:
    """Milliseconds of each step."""
    rows = [[step, f"{found.median:,.0f} ±{found.spread:.0%}"] for step, found in starting.items()]
    return markdown(["", "ms"], rows)


def bounds(results: Results) -> str:
    """Each bound, what was measured, and whether the bound is met."""
    rows: list[list[str]] = []
    for text, found, bound, share in _bounds(results):
        sign = "at least" if share else "at most"
        holds = found >= bound if share else found <= bound
        rows.append([text, f"{found:.2f}", f"{sign} {bound:.2f}", "yes" if holds else "**no**"])
    return markdown(["", "measured", "aim", "met"], rows)


def _bounds(results: Results) -> Iterable[tuple[str, float, float, bool]]:
    single = results.single
    if single:
        run, publish, fail = (_ratios(single, what) for what in ("run", "publish", "fail"))
        yield "added by a run, in units of the floor's", run[0], 1.5, False
        yield "… of the stock pair's", run[1], 1 / 5, False
        yield "added by a publish, in units of the floor's", publish[0], 1.25, False
        yield "… of the stock pair's", publish[1], 1 / 3, False
        yield "added by a failing run, of the stock pair's", fail[1], 1 / 2, False
        for what in ("run", "spans"):
            title = TITLES[what]
            direct, relay = single["spans, direct"][what], single["spans, relay"][what]
            share = relay.median / direct.median
            yield f"a {title} with the relay, of one with direct", share, 1 / 2, False
            share = added(single, "spans, relay", what) / added(single, "spans, direct", what)
            yield "… what that adds, of what direct adds", share, 1 / 2, False
        sampled = added(single, "spans, relay", "run")
        unsampled = added(single, "unsampled, relay", "run")
        yield "added by an unsampled run, of a sampled one", unsampled / sampled, 1 / 3, False
        nothing, bare = single["nothing configured"]["run"], single["bare"]["run"]
        yield "a run with nothing configured, of bare", nothing.median / bare.median, 1.05, False
    if results.workers:
        base = results.workers["bare"]
        most = results.workers["everything, relay"]
        stopped = results.workers["everything, relay stopped"]
        yield "throughput with everything on, of bare", *_share(most, base), True
        yield "… with the relay stopped, of bare", *_share(stopped, base), True
        uncounted = results.workers.get(UNCOUNTED)
        if uncounted is not None:  # the figures of a file may be of before
            share = most.rate.median / uncounted.rate.median
            yield "throughput with metrics, of without", share, 0.98, True
            share = sum(most.cpu.values()) / sum(uncounted.cpu.values())
            yield "… CPU of a task, of all processes", share, 1.02, False
        for nap, alone in base.naps.items():
            waiting = f"throughput of tasks that wait {nap} ms, of bare"
            yield waiting, most.naps[nap].median / alone.median, 0.95, True
            share = stopped.naps[nap].median / alone.median
            yield "… with the relay stopped, of bare", share, 0.95, True
        over = most.resident["children"] - base.resident["children"]
        yield "MB of a child over bare", over, 8.0, False
        yield "MB of the relay", most.resident.get("relay", 0.0), 60.0, False
    if results.starting:
        found = results.starting["import taskobs, after that"].median
        yield "ms of `import taskobs` over `import celery`", found, 40.0, False


def _ratios(single: dict[str, dict[str, Figure]], what: str) -> tuple[float, float]:
    ours = added(single, BEST, what)
    return ours / added(single, "floor", what), ours / added(single, "stock pair", what)


def _share(worked: Worked, base: Worked) -> tuple[float, float]:
    return worked.rate.median / base.rate.median, 0.95


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; all columns but the first are numbers."""
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def sections(results: Results) -> dict[str, str]:
    """Give the generated parts of the page, by the names of their markers."""
    found = {"machine": results.machine, "bounds": bounds(results)}
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
