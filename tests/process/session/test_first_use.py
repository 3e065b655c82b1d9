"""What a process imports before it uses anything of it, and what each first use sets up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from taskobs.testing.receiver import Receiver
from tests.support.paths import ROOT

HEAVY = ("opentelemetry", "sentry_sdk", "requests", "google.protobuf", "urllib3")
"""What the two SDKs and their exporters consist of, and what they import."""
SHOP = """
import json, sys, threading
from celery import Celery
app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=True)
@app.task(name="add")
def add(): return 3
@app.task(name="fail")
def fail(): raise ValueError("no funds")
"""
INIT = "import taskobs\nsession = taskobs.init()\n"
LOADED = f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))\n"
PROVIDER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
print(json.dumps(isinstance(trace.get_tracer_provider(), TracerProvider)))
"""


def environment(receiver: Receiver) -> dict[str, str]:
    """Give the variables that send traces and errors to the receiver."""
    own = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_METRICS_EXPORTER": "none",
        "SENTRY_DSN": receiver.dsn,
        "TASKOBS_SHUTDOWN_TIMEOUT": "60",
    }
    return {**os.environ, **own}


def run(receiver: Receiver, source: str, *, fails: int = 0) -> Any:
    """Run a program that observes its tasks; gives what it prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", SHOP + INIT + source],
        env=environment(receiver),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == fails, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else None


def events(receiver: Receiver) -> list[Any]:
    return [event.data for event in receiver.events]


def messages(receiver: Receiver) -> list[str]:
    """Give what each event says: its exception's text, or its message."""
    return [
        event["exception"]["values"][-1]["value"]
        if "exception" in event
        else event.get("message") or event["logentry"]["formatted"]
        for event in events(receiver)
    ]


def test_a_process_that_uses_nothing_imports_nothing(receiver: Receiver) -> None:
    """My script has an endpoint and a DSN, and publishes nothing: it imports no SDK."""
    assert run(receiver, LOADED) == []
    assert not receiver.requests


@pytest.mark.parametrize("arguments", [["purge", "-f"], ["list", "bindings"]])
def test_a_command_that_publishes_nothing_imports_nothing(
    receiver: Receiver, tmp_path: Path, arguments: list[str]
) -> None:
    """`celery purge` of my Django project, and others, start without the SDKs."""
    django = "import django.conf\n" if find_spec("django") else ""
    exits = "import atexit\natexit.register(lambda: print('\\n' + json.dumps(loaded())))\n"
    loaded = f"def loaded(): return [name for name in {HEAVY} if name in sys.modules]\n"
    (tmp_path / "shop_of_test.py").write_text(SHOP + django + loaded + exits + INIT)
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "shop_of_test", *arguments],
        env={**environment(receiver), "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr
    assert not receiver.requests


@pytest.mark.parametrize(
    ("use", "spans"),
    [
        ("add.delay()", ["publish add"]),
        ("app.send_task('add')", ["publish add"]),
        ("add.apply()", ["run add"]),
        ("from celery import group; group(add.s(), add.s()).delay()", ["publish add"] * 2),
        (
            "from opentelemetry import trace; trace.get_tracer('t').start_span('mine').end()",
            ["mine"],
        ),
        (
            "from opentelemetry.trace import get_tracer; get_tracer('t').start_span('mine').end()",
            ["mine"],
        ),
        ("import opentelemetry.sdk.trace; add.delay()", ["publish add"]),
        ("t = threading.Thread(target=add.delay); t.start(); t.join()", ["publish add"]),
    ],
)
def test_the_first_use_of_spans_is_recorded(receiver: Receiver, use: str, spans: list[str]) -> None:
    """The first publish, the first run and my own first span are exported as all later ones."""
    run(receiver, use)
    found = sorted(span.name for span in receiver.spans if span.name != "publish celery.group")
    assert found == spans
    assert {span.resource["service.name"] for span in receiver.spans} == {"shop"}


@pytest.mark.parametrize(
    ("use", "told"),
    [
        ("import sentry_sdk; sentry_sdk.capture_message('mine')", "mine"),
        ("from sentry_sdk import capture_message; capture_message('mine')", "mine"),
        ("import logging; logging.getLogger('shop').error('mine')", "mine"),
        ("fail.apply()", "no funds"),
        ("t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()", "division by zero"),
    ],
)
def test_the_first_error_is_reported(receiver: Receiver, use: str, told: str) -> None:
    """What I capture or log, and what fails first, is in Sentry, once."""
    run(receiver, use)
    assert messages(receiver) == [told]


def test_what_ends_a_process_is_reported(receiver: Receiver) -> None:
    """My script ends by an exception before it has published anything: the event says so."""
    run(receiver, "raise ValueError('the end')", fails=1)
    assert messages(receiver) == ["the end"]
    [event] = events(receiver)
    [one] = event["exception"]["values"]
    assert (one["mechanism"]["type"], one["mechanism"]["handled"]) == ("excepthook", False)


@pytest.mark.parametrize(
    ("first", "told"),
    [
        ("import sentry_sdk", ["old"]),
        ("import logging; logging.error('first')", ["first", "old"]),
        ("threading.excepthook = lambda _: None", ["old"]),
    ],
)
def test_a_thread_that_started_before_the_first_use_is_watched(
    receiver: Receiver, first: str, told: list[str]
) -> None:
    """My thread runs when Sentry is set up, and fails later: the event is there, once."""
    use = f"""
go_on = threading.Event()
def fails():
    go_on.wait()
    raise ValueError("old")
thread = threading.Thread(target=fails)
thread.start()
{first}
go_on.set()
thread.join()
"""
    run(receiver, use)
    assert messages(receiver) == told


def test_an_interrupt_ends_a_process_as_without_us(receiver: Receiver) -> None:
    """I press Ctrl+C: my script ends by that signal, for which my shell looks."""
    assert run(receiver, "raise KeyboardInterrupt", fails=-signal.SIGINT) is None
    assert len(events(receiver)) == 1


def test_what_an_exit_hook_logs_is_reported(receiver: Receiver) -> None:
    """My program's exit hook is the first to log an error: it is in Sentry."""
    run(receiver, "import atexit, logging; atexit.register(logging.error, 'at the end')")
    assert messages(receiver) == ["at the end"]


def test_what_an_exit_hook_publishes_is_recorded(receiver: Receiver) -> None:
    """My program's exit hook is the first to publish: there is a span of it."""
    run(receiver, "import atexit; atexit.register(add.delay)")
    assert [span.name for span in receiver.spans] == ["publish add"]


def test_what_is_logged_before_an_error_is_in_its_event(receiver: Receiver) -> None:
    """A line that I log at INFO is a breadcrumb of an error that comes later."""
    use = """
import logging
logging.basicConfig(level="INFO")
logging.getLogger("shop").info("before")
raise ValueError("the end")
"""
    run(receiver, use, fails=1)
    [event] = events(receiver)
    assert "before" in [one["message"] for one in event["breadcrumbs"]["values"]]


def test_a_message_has_sentrys_trace_before_there_is_a_client(receiver: Receiver) -> None:
    """The first message that I publish names its span to Sentry, and no client is made for it."""
    use = """
from celery import signals
sent = None
@signals.before_task_publish.connect
def note(headers, **_):
    global sent
    sent = [headers["traceparent"].split("-")[1:3], headers["sentry-trace"].split("-")]
add.delay()
print(json.dumps([*sent, "sentry_sdk" in sys.modules]))
"""
    of_span, of_sentry, has_client = run(receiver, use)
    assert of_span == of_sentry
    assert not has_client


def test_a_message_has_sentrys_trace_without_spans(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a DSN alone, the first message carries the trace that Sentry has."""
    monkeypatch.setattr(Receiver, "endpoint", "")
    use = """
from celery import signals
sent = None
@signals.before_task_publish.connect
def note(headers, **_):
    global sent
    sent = headers["sentry-trace"].split("-")[0]
add.delay()
import sentry_sdk
print(json.dumps([sent, sentry_sdk.get_traceparent().split("-")[0]]))
"""
    sent, current = run(receiver, use)
    assert sent == current


def test_receivers_of_mine_are_called_after_ours(receiver: Receiver) -> None:
    """I connect a receiver after `init()`: it finds the first message's headers, and run's span."""
    use = """
from celery import signals
found = []
@signals.before_task_publish.connect
def publishes(headers, **_): found.append("traceparent" in headers)
@signals.task_prerun.connect
def runs(**_):
    from opentelemetry import trace
    found.append(trace.get_current_span().name)
for _ in range(2):
    add.delay()
    add.apply()
print(json.dumps(found))
"""
    assert run(receiver, use) == [True, "run add"] * 2


def test_a_provider_looked_up_after_init_is_the_sdks(receiver: Receiver) -> None:
    """A library that asks for the SDK's provider after `init()` gets it, in whichever order."""
    assert run(receiver, PROVIDER) is True
    assert run(receiver, "import opentelemetry.sdk.trace.export\n" + PROVIDER) is True


def test_a_provider_of_mine_before_the_first_use_wins(receiver: Receiver) -> None:
    """I set my own provider after `init()`: nothing of ours is set up beside it."""
    use = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
memory = InMemorySpanExporter()
mine = TracerProvider()
mine.add_span_processor(SimpleSpanProcessor(memory))
trace.set_tracer_provider(mine)
add.delay()
names = [span.name for span in memory.get_finished_spans()]
print(json.dumps([names, trace.get_tracer_provider() is mine]))
"""
    assert run(receiver, use) == [["publish add"], True]
    assert not receiver.spans


@pytest.mark.skipif(not all(map(find_spec, ("flask", "fastapi"))), reason="needs web frameworks")
@pytest.mark.parametrize("framework", ["flask", "fastapi"])
def test_a_web_framework_is_a_use(receiver: Receiver, framework: str) -> None:
    """My web process imports its framework after `init()`: Sentry has it from the start."""
    use = f"""
import {framework}
loaded = "sentry_sdk" in sys.modules
import sentry_sdk
print(json.dumps([loaded, {framework!r} in sentry_sdk.get_client().integrations]))
"""
    assert run(receiver, use) == [True, True]


def test_log_fields_are_there_before_anything_else(receiver: Receiver) -> None:
    """My log format names the ids: a line before the first use has them, empty."""
    use = """
import logging, io
out = io.StringIO()
handler = logging.StreamHandler(out)
handler.setFormatter(logging.Formatter("%(message)s [%(task_id)s%(trace_id)s]"))
log = logging.getLogger("taskobs.of_test")
log.addHandler(handler)
log.warning("line")
print(json.dumps([out.getvalue(), "opentelemetry" in sys.modules]))
"""
    assert run(receiver, use) == ["line []\n", False]


def test_a_child_sets_up_its_own(receiver: Receiver) -> None:
    """A process that forks before it has used anything, and its children, each export their own."""
    use = """
import os
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        add.delay()
        session.flush()
        os._exit(0)
    os.waitpid(pid, 0)
add.delay()
"""
    run(receiver, use)
    assert [span.name for span in receiver.spans] == ["publish add"] * 3
    assert len({span.attributes["process.pid"] for span in receiver.spans}) == 3


def test_close_before_any_use_leaves_nothing(receiver: Receiver) -> None:
    """I call `close()` before anything was used: all that was wrapped is as before."""
    use = """
import logging
names = [(Celery, "send_task"), (sys, "excepthook"), (threading, "excepthook"),
         (logging.Logger, "handle"), (logging.Formatter, "format")]
session.close()
print(json.dumps([name for place, name in names if hasattr(vars(place)[name], "__wrapped__")]))
"""
    assert run(receiver, use) == []


def test_what_is_wrong_is_said_at_init_all_the_same(receiver: Receiver) -> None:
    """A wrong setting is refused by `init()`, not by my first publish."""
    use = """
session.close()
try:
    taskobs.init(otlp_endpoint="nonsense")
except taskobs.SettingError:
    print(json.dumps("refused"))
"""
    assert run(receiver, use) == "refused"
