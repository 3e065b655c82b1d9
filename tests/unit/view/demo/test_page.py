"""The page with the waterfall."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import cast

from taskobs.view.demo import page
from taskobs.view.issues import issue
from taskobs.view.traces import assemble
from tests.support import demo


class Elements(HTMLParser):
    """Collects the elements of a page, and the text of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.found[-1:] and self.found[-1][0] == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self.found.append(("/script", {}))


def render(task: str = "charge") -> tuple[str, Elements]:
    traces = assemble(demo.order(task))
    html = page.render(traces, [issue(demo.event(task))], [f"trace_id={demo.TRACE}"])
    elements = Elements()
    elements.feed(html)
    return html, elements


def embedded(elements: Elements) -> dict[str, object]:
    return cast("dict[str, object]", json.loads(elements.scripts[0]))


def test_hostile_names_stay_data() -> None:
    """A task called like markup makes no element, and is shown as it is called."""
    _, elements = render(demo.HOSTILE)
    _, plain = render()
    assert [tag for tag, _ in elements.found] == [tag for tag, _ in plain.found]
    assert json.dumps(demo.HOSTILE)[1:-1] in json.dumps(embedded(elements))


def test_the_page_needs_nothing_beside_itself() -> None:
    """It works from a file, without a network: no address, no import, no foreign style."""
    html, elements = render()
    assert not re.findall(r"https?://|url\(|@import|\bfetch\(", html)
    for tag, attributes in elements.found:
        assert tag != "link"
        assert "src" not in attributes
        assert not [name for name in attributes if name.startswith("on")]


def test_only_the_pages_own_script_may_run() -> None:
    """The page's policy names the digest of its script, and nothing else."""
    html, elements = render()
    digest = base64.b64encode(hashlib.sha256(elements.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert "innerHTML" not in elements.scripts[1]


def test_spans_carry_what_the_waterfall_draws() -> None:
    """Depth, offset, length, queue and links are those of the trace."""
    (trace,) = cast("list[dict[str, object]]", embedded(render()[1])["traces"])
    spans = cast("list[dict[str, object]]", trace["spans"])
    assert [(row["depth"], row["name"], row["outcome"]) for row in spans] == [
        (0, "POST /orders", ""),
        (1, "publish charge", ""),
        (2, "run charge", "retried"),
        (2, "publish charge", ""),
        (2, "run charge", "failed"),
    ]
    last = spans[-1]
    assert (last["start"], last["seconds"], last["queue_latency"]) == (0.04, 1.5, 0.009)
    assert last["links"] == [{"span_id": f"{3:016x}", "kind": "retry_of"}]


def test_the_issue_names_the_span_of_its_run() -> None:
    """The card leads to the run that failed, by id."""
    (found,) = cast("list[dict[str, object]]", embedded(render()[1])["issues"])
    assert (found["trace_id"], found["span_id"]) == (demo.TRACE, f"{5:016x}")
    assert found["tags"] == [["celery.attempt", "2"], ["celery.task", "charge"]]
