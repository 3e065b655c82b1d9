"""Each example does what its page says: an order is a trace, from the web to the worker."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import celery
import pytest

from taskobs.testing.receiver import Receiver
from tests.docs.running import run_python
from tests.support.paths import ROOT

EXAMPLES: Final = ROOT / "examples"

# Orders are placed when the worker of the same process is ready; it ends after the last run.
WORKER: Final = """
import os, signal, threading
from celery import signals

def ready(**_):
    order()

left = set({last!r})

def done(task_id, task, **_):
    left.discard(task.name + ":" + str(task.request.retries))
    if not left:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()

signals.worker_ready.connect(ready)
signals.task_postrun.connect(done)
celery.conf.worker_redirect_stdouts = False
quick = dict.fromkeys(["without_gossip", "without_mingle", "without_heartbeat"], True)
celery.conf.broker_transport_options = {{"polling_interval": 0.01}}
celery.Worker(pool="solo", loglevel="INFO", logfile=os.devnull, quiet=True, **quick).start()
"""

WEB: Final = {
    "flask_app": """
from wsgi import app, celery
celery.conf.task_routes = None  # the worker below has one queue

def order():
    assert app.test_client().post("/orders/1001").status_code == 202
""",
    "fastapi_app": """
from shop.tasks import celery
from shop.web import place_order

def order():
    place_order(1001)
""",
    "django_app": """
from shop import celery_app as celery
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.test import Client

def order():
    assert Client().post("/orders/1001").status_code == 202
""",
}


TASK: Final = "shop.tasks.charge_card"
NEEDS: Final = {
    "flask_app": ("flask_sqlalchemy", "opentelemetry.instrumentation.sqlalchemy"),
    "django_app": ("django_celery_results",),
    "fastapi_app": ("fastapi",),
}


def in_folder(folder: Path, name: str) -> str:
    """Give the first lines of a program that runs an example with its database in a folder."""
    if name == "django_app" and celery.VERSION < (5, 4):
        pytest.skip("needs Celery 5.4, the first with delay_on_commit")
    for module in NEEDS[name]:
        pytest.importorskip(module)
    return f"import os\nos.environ['SHOP_FOLDER'] = {str(folder)!r}\n{WEB[name]}"


@pytest.mark.parametrize("name", WEB)
def test_web_app(name: str, receiver: Receiver, tmp_path: Path) -> None:
    """I post an order, and see its publish and its run in one trace."""
    source = in_folder(tmp_path, name) + WORKER.format(last=[f"{TASK}:0"])
    run_python(source, EXAMPLES / name, receiver)
    [publish] = [span for span in receiver.spans if span.name == f"publish {TASK}"]
    [run] = [span for span in receiver.spans if span.name == f"run {TASK}"]
    assert (run.trace_id, run.parent_id) == (publish.trace_id, publish.span_id)
    assert receiver.events == ()


def test_quickstart(receiver: Receiver) -> None:
    """I place the two orders: one is delivered at the second attempt, one is an issue."""
    last = ["tasks.book_carrier:1", "tasks.charge_card:0"]
    source = "from app import main as order\nfrom tasks import app as celery\n"
    printed = run_python(source + WORKER.format(last=last), EXAMPLES / "quickstart", receiver)
    first, second = re.findall(r"^order \d+: http.*/trace/(\w+)$", printed, re.MULTILINE)
    delivered = [span for span in receiver.spans if span.trace_id == first]
    declined = [span for span in receiver.spans if span.trace_id == second]
    assert sum(span.name == "run tasks.book_carrier" for span in delivered) == 2
    [failed] = [span for span in declined if span.status == "error"]
    assert failed.name == "run tasks.charge_card"
    [event] = receiver.events
    assert failed.attributes["sentry.event_id"] == event.event_id


READY: Final = """
from django.apps import AppConfig
import taskobs

class Shop(AppConfig):
    name = "shop"

    def ready(self):
        taskobs.init()
"""
LOGGING: Final = """
LOGGING = {
    "version": 1,
    "formatters": {"ids": {"format": "%(message)s trace_id=%(trace_id)s."}},
    "handlers": {"file": {"class": "logging.FileHandler", "filename": "log", "formatter": "ids"}},
    "root": {"handlers": ["file"], "level": "INFO"},
}
"""


def test_django_logs_with_the_line_in_ready(tmp_path: Path, receiver: Receiver) -> None:
    """I name a field in Django's own log format, and move the line as docs/logs.md says."""
    folder = tmp_path / "site"
    shutil.copytree(EXAMPLES / "django_app", folder)
    app, settings = folder / "shop/celery.py", folder / "shop/settings.py"
    app.write_text(app.read_text().replace("taskobs.init(instrument=True)", ""))
    settings.write_text(settings.read_text() + LOGGING)
    (folder / "shop/apps.py").write_text(READY)
    source = (
        in_folder(tmp_path, "django_app")
        + "\nimport logging\nlogging.getLogger('shop').info('ready')\n"
    )
    run_python(source + WORKER.format(last=["shop.tasks.charge_card:0"]), folder, receiver)
    assert "ready trace_id=." in (folder / "log").read_text()
    assert [span.name.split()[0] for span in receiver.spans] == ["publish", "run"]


@pytest.mark.parametrize("name", ["release", "web"])
def test_an_example_that_does_not_start_says_why(name: str, tmp_path: Path) -> None:
    """I lack a package that an example needs, and read so as soon as its process has ended."""
    shutil.copy(EXAMPLES / "run.py", tmp_path)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/Procfile").write_text(f"{name}: no_such_package\n", encoding="utf-8")
    command = [sys.executable, "run.py", "shop"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 1
    assert f"{name} did not start:" in done.stderr
    assert "No module named no_such_package" in done.stderr
