"""Each Python block of a page is run, as the file that its first line names."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskobs.testing.receiver import Receiver
from tests.docs.pages import Block, all_blocks
from tests.docs.running import run_python

BLOCKS = [
    block
    for block in all_blocks("python")
    if not (block.module or "").startswith("tests.")  # parts of a suite: see test_testing.py
]
ONCE = list({block.text: block for block in BLOCKS}.values())
"""Those blocks, without what several pages show alike."""
DJANGO_SETTINGS = 'SECRET_KEY = "none"\nINSTALLED_APPS = ["shop"]\n'

# The apps that a block makes publish one message each, and the process ends as a user's would.
PUBLISH = """
from importlib import import_module
from celery import Celery
block = import_module({module!r})
apps = [found for found in vars(block).values() if isinstance(found, Celery)]
assert apps, "the block makes no Celery app"
for app in apps:  # on a sampled trace: a block may set a share of new ones
    app.send_task("probe", headers={{"traceparent": f"00-{{1:032x}}-{{1:016x}}-01"}})
"""


@pytest.mark.parametrize("block", ONCE, ids=str)
def test_block_runs(block: Block, tmp_path: Path, receiver: Receiver) -> None:
    """I copy a block into a file, and it does what the page says: its publish is a span."""
    write_all(block, tmp_path)
    assert block.module
    run_python(PUBLISH.format(module=block.module), tmp_path, receiver)
    names = [span.name for span in receiver.spans]
    assert names == (["publish probe"] if "taskobs.init(" in shown(block) else [])


def write_all(block: Block, folder: Path) -> None:
    """Write all files of the block's page: one may import another."""
    for other in BLOCKS:
        if other.page == block.page:
            path = folder / other.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(other.text, encoding="utf-8")
    (folder / "shop").mkdir(exist_ok=True)
    (folder / "shop/settings.py").write_text(DJANGO_SETTINGS)  # Django makes this one


def shown(block: Block) -> str:
    """Give the block, and what it imports from its own package or its own page."""
    package = [other.text for other in BLOCKS if block.module and other.module == "shop.celery"]
    from_page = [
        other.text
        for other in BLOCKS
        if other.page == block.page and f"from {other.module} import" in block.text
    ]
    whole = [block.text, *from_page, *(package if block.path.endswith("__init__.py") else [])]
    return "".join(whole)


def test_every_python_block_names_its_file() -> None:
    """I see where a block goes, because its first line says so."""
    assert [str(block) for block in BLOCKS if block.module is None] == []
    assert len(BLOCKS) >= 7


def test_flask_snippet_publishes_within_a_request(tmp_path: Path, receiver: Receiver) -> None:
    """I post an order to the app of the snippet, and its publish arrives."""
    block = next(block for block in BLOCKS if block.module == "shop_flask")
    write_all(block, tmp_path)
    source = """
from shop_flask import app
assert app.test_client().post("/orders/1").status_code == 202
"""
    run_python(source, tmp_path, receiver)
    assert [span.name for span in receiver.spans] == ["publish shop_flask.charge_card"]


def test_log_format_of_the_page_gives_a_line_with_ids(tmp_path: Path, receiver: Receiver) -> None:
    """I name the fields in my format, and a worker's line has them."""
    block = next(block for block in BLOCKS if block.module == "logged_tasks")
    write_all(block, tmp_path)
    source = """
import os, signal, threading, time
from celery import signals
from logged_tasks import app, charge_card

def ready(**_):
    charge_card.delay(1002)

def done(**_):
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()

signals.worker_ready.connect(ready)
signals.task_postrun.connect(done)
quick = dict.fromkeys(["without_gossip", "without_mingle", "without_heartbeat"], True)
app.conf.broker_transport_options = {"polling_interval": 0.01}
app.Worker(pool="solo", loglevel="INFO", logfile="worker.log", quiet=True, **quick).start()
"""
    run_python(source, tmp_path, receiver)
    log = (tmp_path / "worker.log").read_text()
    run = next(span for span in receiver.spans if span.name.startswith("run "))
    line = next(line for line in log.splitlines() if "the bank declined the card" in line)
    assert line.endswith(f"trace_id={run.trace_id}")
    assert f"task_id={run.attributes['messaging.message.id']}" in line


@pytest.mark.neighbour("structlog, loguru and django-structlog")
def test_structlog_and_loguru_have_the_ids(tmp_path: Path, receiver: Receiver) -> None:
    """I copy the block into my app, and both libraries' lines name the task."""
    block = next(block for block in BLOCKS if block.module == "structured_tasks")
    write_all(block, tmp_path)
    source = """
import io, json, loguru, structlog
from structured_tasks import charge_card

structured, formatted = io.StringIO(), io.StringIO()
structlog.configure(logger_factory=structlog.PrintLoggerFactory(structured))
loguru.logger.add(formatted, format="{message} {extra[task_id]} {extra[trace_id]}")
charge_card.apply(args=(1002,), task_id="id-1").get()
event = json.loads(structured.getvalue())
assert (event["task_id"], event["order"]) == ("id-1", 1002)
assert formatted.getvalue().split() == ["declined", "id-1", event["trace_id"]]
"""
    run_python(source, tmp_path, receiver)
    assert [span.name for span in receiver.spans] == ["run structured_tasks.charge_card"]
