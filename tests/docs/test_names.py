"""Every name that leaves the process is on the page about names, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from taskobs import semconv
from taskobs.model import Outcome, Run
from taskobs.observers.sentry.run_events import CONTEXT_FIELDS
from tests.docs.pages import first_column, section
from tests.support.paths import ROOT

PAGE = ROOT / "docs/recording.md"
ATTRIBUTES = ("MESSAGING_", "SERVER_", "ERROR_", "PROCESS_", "CELERY_", "SENTRY_EVENT_", "TASKOBS_")


def constants(*prefixes: str) -> list[str]:
    return sorted(value for name, value in vars(semconv).items() if name.startswith(prefixes))


@pytest.mark.parametrize(
    ("heading", "prefixes"),
    [
        ("Span attributes", ATTRIBUTES),
        ("Links", ("LINK_",)),
        ("Message headers", ("HEADER_",)),
        ("Sentry tags", ("TAG_",)),
        ("Log fields", ("LOG_",)),
        ("Attributes of log records", ("RECORD_",)),
        ("Metrics", ("STOCK_HISTOGRAM", "METRIC_")),
        ("Attributes of metrics", ("RELAY_", "WORKER_")),
    ],
)
def test_names_are_those_on_the_page(heading: str, prefixes: tuple[str, ...]) -> None:
    """I look up a name that I see in a backend, and the page has it."""
    assert sorted(first_column(section(PAGE, heading))) == constants(*prefixes)


def test_spans_are_named_as_on_the_page() -> None:
    """I read the page, and know what to search for as an operation."""
    listed = first_column(section(PAGE, "Spans"))
    assert listed == [f"{semconv.PUBLISH_SPAN}{{task}}", f"{semconv.RUN_SPAN}{{task}}"]
    assert f"`{semconv.STOCK_SCOPE}`" in section(PAGE, "Spans")


def test_no_name_was_forgotten() -> None:
    """I add a name to names.py, and this page's tests hear of it."""
    kinds = (
        "LINK_",
        "HEADER_",
        "TAG_",
        "LOG_",
        "RECORD_",
        "STOCK_",
        "SENTRY_CONTEXT",
        "SENTRY_JOB",
        "METRIC_",
        "RELAY_",
        "WORKER_",
    )
    covered = (*ATTRIBUTES, *kinds)
    others = {name for name in vars(semconv) if name.isupper() and not name.startswith(covered)}
    assert others == {"PUBLISH_SPAN", "RUN_SPAN"}


def test_outcomes_are_on_the_page() -> None:
    """I filter by outcome, and both pages and the README have all that there are."""
    row = next(
        line
        for line in section(PAGE, "Span attributes").splitlines()
        if line.startswith(f"| `{semconv.CELERY_OUTCOME}`")
    )
    every = {outcome.value for outcome in Outcome}
    assert set(re.findall(r"`(\w+)`", row)) == every
    readme = section(ROOT / "README.md", "What is recorded")
    assert every <= set(re.findall(r"`(\w+)`", readme))
    situations = (ROOT / "docs/reference/situations.md").read_text(encoding="utf-8")
    assert every <= set(re.findall(r"`(\w+)`", situations))


def test_the_sentry_context_is_as_on_the_page() -> None:
    """I open the context of an event, and find the fields that the page lists."""
    text = section(PAGE, "Sentry tags").partition(f"The context `{semconv.SENTRY_CONTEXT}`")[2]
    listed = re.findall(r"`(\w+)`", text.partition("The context")[0])
    assert set(listed) - {"send_arguments"} == {*CONTEXT_FIELDS, "args", "kwargs"}
    assert set(CONTEXT_FIELDS) <= set(Run.__dataclass_fields__)


def test_stock_attributes_are_those_on_the_page() -> None:
    """I leave the stock attributes out, and the page has told me which."""
    source = Path(ROOT / "taskobs/celery/adapter/stock_attributes.py").read_text(encoding="utf-8")
    code = source.partition("from __future__")[2]
    found = set(re.findall(r'"((?:celery|messaging)\.\w+)"', code))
    ours = set(constants(*ATTRIBUTES))
    listed = set(first_column(section(PAGE, "Stock attributes")))
    assert listed == found - ours
