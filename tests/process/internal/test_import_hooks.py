"""What is done when a module is imported, and the place of OpenTelemetry's instrumentor."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from taskobs.internal.import_hooks import when_imported
from taskobs.testing.receiver import Receiver

STOCK = "opentelemetry.instrumentation.celery"
START = """
import json, sys, taskobs
from celery import Celery
app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=True)
@app.task(name="add")
def add(): return 3
app.finalize()
def stock():
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    return CeleryInstrumentor()
def kind(): return type(stock()).__module__
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the name of a module that nobody has imported yet, nor will after the test."""
    name = f"late_{tmp_path.name}"
    (tmp_path / f"{name}.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield name
    sys.modules.pop(name, None)


def run(receiver: Receiver, source: str) -> Any:
    """Run a program that observes its tasks; gives what it prints last, as JSON."""
    settings = f"otlp_endpoint={receiver.endpoint!r}, shutdown_timeout=60.0"
    code = START + f"init = lambda: taskobs.init({settings})\n" + source
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_each_that_waits_hears_of_an_import_once(module: str) -> None:
    """Whoever waits for a module is called when it is imported, and not again."""
    heard: list[str] = []
    for name in ("one", "other"):
        when_imported(module, partial(heard.append, name))
    assert not heard
    import_module(module)
    import_module(module)
    assert heard == ["one", "other"]


def test_what_is_there_already_is_not_waited_for() -> None:
    """A module that has been imported is told of at once."""
    heard: list[None] = []
    when_imported("json", lambda: heard.append(None))()
    assert heard == [None]


def test_who_fails_at_once_waits_no_longer(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called at once, and raises, is not called again by a later import."""
    calls: list[None] = []

    def fails() -> None:
        calls.append(None)
        raise ValueError(module)

    when_imported(module, list)  # from now on, its import is told of
    with monkeypatch.context() as there:
        there.setitem(sys.modules, module, sys)
        with pytest.raises(ValueError, match=module):
            when_imported(module, fails)
    import_module(module)
    assert len(calls) == 1


def test_who_no_longer_waits_is_not_called(module: str) -> None:
    """What calls it off may be called twice."""
    heard: list[None] = []
    forget = when_imported(module, lambda: heard.append(None))
    forget()
    forget()
    import_module(module)
    assert not heard


def test_init_imports_nothing_that_it_has_no_use_for(receiver: Receiver) -> None:
    """My worker does without the stock instrumentor, what that imports, and beat."""
    names = (STOCK, "packaging", "celery.beat")
    assert run(receiver, f"init(); print(json.dumps([n in sys.modules for n in {names}]))") == [
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("first", ["", "stock()", "taskobs.TaskInstrumentor"])
def test_a_stock_one_started_after_init_doubles_nothing(receiver: Receiver, first: str) -> None:
    """`CeleryInstrumentor().instrument()` after `init()`, whatever I import before, adds none."""
    source = f"""
{first}
session = init()
stock().instrument()
during = kind()
add.apply()
session.close()
print(json.dumps([during, kind(), stock().is_instrumented_by_opentelemetry]))
"""
    assert run(receiver, source) == ["taskobs.otel.instrumentor", STOCK, False]
    assert [span.name for span in receiver.spans] == ["run add"]


def test_an_active_stock_one_rests_from_init_to_close(receiver: Receiver) -> None:
    """`opentelemetry-instrument` had started it: it works again after `close()`."""
    source = """
stock().instrument()
session = init()
during = kind()
add.apply()
session.close()
print(json.dumps([during, kind(), stock().is_instrumented_by_opentelemetry]))
"""
    assert run(receiver, source) == ["taskobs.otel.instrumentor", STOCK, True]
    assert [span.name for span in receiver.spans] == ["run add"]


def test_uninstrument_ends_the_spans_of_a_session(receiver: Receiver) -> None:
    """I call `uninstrument()` on what stands there, and no run is a span any more."""
    source = """
session = init()
stock().uninstrument()
add.apply()
session.close()
print(json.dumps(kind()))
"""
    assert run(receiver, source) == STOCK
    assert not receiver.spans


def test_ours_in_place_is_left_in_place(receiver: Receiver) -> None:
    """`TaskInstrumentor().instrument()` came first: `init()` adds none, and `close()` ends none."""
    source = """
taskobs.TaskInstrumentor().instrument()
session = init()
add.apply()
session.close()
print(json.dumps([kind(), stock().is_instrumented_by_opentelemetry]))
"""
    assert run(receiver, source) == ["taskobs.otel.instrumentor", True]
    assert [span.name for span in receiver.spans] == ["run add"]
