"""``init(instrument=...)`` activates what is installed, once, and leaves the app's own alone."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor

import taskobs
from taskobs.testing.receiver import Receiver
from tests.support.instrumented_libraries import Libraries, install_in
from tests.support.recording import Recorder, global_provider, tracer_provider


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Libraries]:
    """Give libraries and instrumentors of this test alone."""
    yield from install_in(tmp_path, monkeypatch)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Give what is logged as a warning, or worse."""
    caplog.set_level(logging.WARNING)
    return caplog


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def called(*libraries: str) -> None:
    """Call a function of each, as the app does."""
    for name in libraries:
        assert import_module(name).call() == 3


def names(receiver: Receiver) -> Counter[str]:
    return Counter(span.name for span in receiver.spans)


def test_each_when_its_library_is_imported(libraries: Libraries, receiver: Receiver) -> None:
    """I import a library after `init()`: it makes spans; those that I don't import cost nothing."""
    for name in ("used", "unused"):
        libraries.library(name)
        libraries.instrumentor(name)
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        assert "otel_used" not in sys.modules
        called("used")
        assert "otel_unused" not in sys.modules
    assert names(receiver) == {"used": 1}


def test_a_library_that_is_there_before(libraries: Libraries, receiver: Receiver) -> None:
    """I import it before `init()`, and it makes spans all the same."""
    libraries.library("used")
    libraries.instrumentor("used")
    import_module("used")
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=["used"]):
        called("used")
    called("used")
    assert names(receiver) == {"used": 1}


def test_only_those_that_are_named(libraries: Libraries, receiver: Receiver) -> None:
    """I name one of two."""
    for name in ("first", "second"):
        libraries.library(name)
        libraries.instrumentor(name)
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=["second"]):
        called("first", "second")
    assert names(receiver) == {"second": 1}


def test_a_factory_that_runs_twice(
    libraries: Libraries, receiver: Receiver, warnings: pytest.LogCaptureFixture
) -> None:
    """My factory calls `init()` each time that it makes an app: a call is one span."""
    libraries.library("used")
    libraries.instrumentor("used")
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        called("used")
        taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True)
        called("used")
    assert names(receiver) == {"used": 2}
    assert not [line for line in lines(warnings) if "init() was called before" not in line]


def test_after_close_a_new_session_may_begin(libraries: Libraries, receiver: Receiver) -> None:
    """`close()` takes it away, and the next `init()` activates it again."""
    libraries.library("used")
    libraries.instrumentor("used")
    for _ in range(3):
        with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
            called("used")
        called("used")
    assert names(receiver) == {"used": 3}


def test_what_the_app_has_activated_stays(
    libraries: Libraries, receiver: Receiver, warnings: pytest.LogCaptureFixture
) -> None:
    """I activate one myself, with my options: they stay, also after `close()`."""
    libraries.library("used")
    instrumentor = import_module(libraries.instrumentor("used")).Instrumentor()
    instrumentor.instrument(span_name="mine")
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        called("used")
    assert names(receiver) == {"mine": 1}
    assert instrumentor.is_instrumented_by_opentelemetry
    instrumentor.uninstrument()
    assert not lines(warnings)


def test_what_the_app_activates_afterwards_is_the_apps(
    libraries: Libraries, receiver: Receiver, warnings: pytest.LogCaptureFixture
) -> None:
    """I activate one after `init()`: no warning, and my options count from then on."""
    libraries.library("used")
    libraries.instrumentor("used")
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        called("used")
        instrumentor = import_module("otel_used").Instrumentor()
        instrumentor.instrument(span_name="mine")
        called("used")
    assert names(receiver) == {"used": 1, "mine": 1}
    assert instrumentor.is_instrumented_by_opentelemetry
    instrumentor.uninstrument()
    assert not lines(warnings)


def test_what_the_app_activates_as_it_is_stays_active(
    libraries: Libraries, receiver: Receiver, warnings: pytest.LogCaptureFixture
) -> None:
    """I activate one after `init()`, without options: it is mine, without a warning."""
    libraries.library("used")
    libraries.instrumentor("used")
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        called("used")
        instrumentor = import_module("otel_used").Instrumentor()
        instrumentor.instrument(skip_dep_check=True)
        called("used")
    assert names(receiver) == {"used": 2}
    assert instrumentor.is_instrumented_by_opentelemetry
    instrumentor.uninstrument()
    assert not lines(warnings)


def test_what_the_app_deactivates_stays_so(libraries: Libraries, receiver: Receiver) -> None:
    """I deactivate one, and may activate it again."""
    libraries.library("used")
    libraries.instrumentor("used")
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        import_module("used")
        instrumentor = import_module("otel_used").Instrumentor()
        instrumentor.uninstrument()
        called("used")
        instrumentor.instrument()
        called("used")
        instrumentor.uninstrument()
    assert names(receiver) == {"used": 1}


def test_two_packages_for_one_library(
    libraries: Libraries, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Two packages instrument the same library: one of them does, and I am told which."""
    caplog.set_level(logging.INFO)
    libraries.library("used")
    libraries.instrumentor("used", package="a_first")
    libraries.instrumentor("used", package="b_second")
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        called("used")
    assert names(receiver) == {"used": 1}
    assert (
        "taskobs: used is instrumented by a_first:Instrumentor, "
        "and not by b_second:Instrumentor, too" in lines(caplog)
    )


def test_of_two_packages_the_app_has_activated_one(
    libraries: Libraries, receiver: Receiver
) -> None:
    """I have activated the second one myself: the first stays off."""
    libraries.library("used")
    libraries.instrumentor("used", package="a_first")
    mine = import_module(libraries.instrumentor("used", package="b_second")).Instrumentor()
    mine.instrument(span_name="mine")
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        called("used")
    assert names(receiver) == {"mine": 1}
    mine.uninstrument()


def test_of_two_packages_one_fits(
    libraries: Libraries, receiver: Receiver, warnings: pytest.LogCaptureFixture
) -> None:
    """The first is for another release of the library: the second does it, after one line."""
    libraries.library("used", version="2.0")
    libraries.instrumentor("used", package="a_first", accepts="<2")
    libraries.instrumentor("used", package="b_second")
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        called("used")
    assert names(receiver) == {"used": 1}
    assert len(lines(warnings)) == 1


def test_another_release_of_the_library(
    libraries: Libraries, receiver: Receiver, warnings: pytest.LogCaptureFixture
) -> None:
    """My library is too new for its instrumentor: one line says so, and all else goes on."""
    for name, version in (("new", "3.0"), ("used", "1.0")):
        libraries.library(name, version=version)
        libraries.instrumentor(name, accepts="<2")
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        called("new", "used")
    assert names(receiver) == {"used": 1}
    [line] = lines(warnings)
    assert line.startswith("taskobs: new is not instrumented: ")
    assert "new 3.0" in line


FAILING = {
    "no such module": ({"source": "import a_module_of_nobody"}, "ModuleNotFoundError: No module"),
    "import": ({"source": "raise ZeroDivisionError('why\\nmore')"}, "ZeroDivisionError: why"),
    "patch": ({"problem": "raise ValueError('no patch')"}, "ValueError: no patch"),
    "no class": ({"source": ""}, "AttributeError: "),
}


@pytest.mark.parametrize("how", FAILING)
def test_an_instrumentor_that_fails(
    libraries: Libraries, receiver: Receiver, warnings: pytest.LogCaptureFixture, how: str
) -> None:
    """One of them fails, in whichever way: one line says how, my import and the others work."""
    options, told = FAILING[how]
    for name in ("failing", "used"):
        libraries.library(name)
    libraries.instrumentor("failing", **options)
    libraries.instrumentor("used")
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True, strict=True):
        called("failing", "used")
    assert names(receiver) == {"used": 1}
    [line] = lines(warnings)
    assert line.startswith(f"taskobs: failing is not instrumented: {told}")
    assert "\n" not in line


def test_a_soft_time_limit_that_strikes_while_a_library_is_instrumented(
    libraries: Libraries, receiver: Receiver, warnings: pytest.LogCaptureFixture
) -> None:
    """My task imports a library and reaches its time limit meanwhile: the task is told."""
    for name in ("slow", "used"):
        libraries.library(name)
    libraries.instrumentor(
        "slow", problem="import billiard.exceptions as e; raise e.SoftTimeLimitExceeded"
    )
    libraries.instrumentor("used")
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        trace.get_tracer_provider()
        with pytest.raises(SoftTimeLimitExceeded):
            import_module("slow")
        called("slow", "used")
    assert names(receiver) == {"used": 1}
    assert not lines(warnings)


def test_a_library_that_is_not_installed(
    libraries: Libraries, receiver: Receiver, warnings: pytest.LogCaptureFixture
) -> None:
    """Its instrumentor is installed, the library isn't: that is nothing to tell me of."""
    libraries.instrumentor("nowhere_installed")
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        assert "otel_nowhere_installed" not in sys.modules
    assert not lines(warnings)


def test_a_package_that_has_one_for_another_library(
    libraries: Libraries, receiver: Receiver, warnings: pytest.LogCaptureFixture
) -> None:
    """A package instruments two libraries, of which I have one: nothing is said of the other."""
    libraries.library("used")
    libraries.instrumentor("used", others=["used2"])
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        called("used")
    assert names(receiver) == {"used": 1}
    assert not lines(warnings)


def test_a_library_that_imports_another(libraries: Libraries, receiver: Receiver) -> None:
    """One library imports another one of them: both are complete when they are instrumented."""
    libraries.library("inner")
    libraries.library("outer", source="import inner, sys\nassert 'otel_inner' not in sys.modules")
    for name in ("inner", "outer"):
        libraries.instrumentor(name)
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        called("outer", "inner")
    assert names(receiver) == {"inner": 1, "outer": 1}


def test_a_library_that_calls_init_while_it_is_imported(
    libraries: Libraries, receiver: Receiver
) -> None:
    """A library's import calls `init()`: it is instrumented with the next one that is imported."""
    source = f"""
import sys, taskobs
taskobs.init(otlp_endpoint={receiver.endpoint!r}, instrument=True)
import inner
assert not {{"otel_inner", "otel_outer"}} & sys.modules.keys()
"""
    libraries.library("outer", source=source)
    for name in ("inner", "later"):
        libraries.library(name)
    for name in ("inner", "outer", "later"):
        libraries.instrumentor(name)
    import_module("outer")
    with taskobs.init():
        called("later", "inner", "outer")
    assert names(receiver) == {"inner": 1, "outer": 1, "later": 1}


def test_celery_is_never_activated(libraries: Libraries, receiver: Receiver) -> None:
    """OpenTelemetry's instrumentor of Celery is installed: that of taskobs is the only one."""
    libraries.instrumentor("celery", package="stock", source="raise AssertionError")
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        import_module("celery")
        trace.get_tracer("mine").start_span("mine").end()
        assert "stock" not in sys.modules
        stock: Any = CeleryInstrumentor
        assert type(stock()) is taskobs.TaskInstrumentor
    assert names(receiver) == {"mine": 1}


@pytest.mark.parametrize("disabled", ["first", "none , first", "*"])
def test_opentelemetrys_variable_disables_them(
    libraries: Libraries, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, disabled: str
) -> None:
    """My operators disable some by OpenTelemetry's own variable."""
    monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", disabled)
    for name in ("first", "second"):
        libraries.library(name)
        libraries.instrumentor(name)
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=["first", "second"]):
        called("first", "second")
    assert names(receiver) == ({} if disabled == "*" else {"second": 1})


def test_nothing_is_recorded(libraries: Libraries, warnings: pytest.LogCaptureFixture) -> None:
    """I have no backend: nothing is activated, until I set a provider of my own."""
    libraries.library("used")
    libraries.instrumentor("used")
    recorder = Recorder()
    with taskobs.init(instrument=True), global_provider(None):
        called("used")
        assert "otel_used" not in sys.modules
        trace.set_tracer_provider(tracer_provider(recorder))
        called("used")
    assert [span.name for span in recorder.spans] == ["used"]
    assert not lines(warnings)


def test_off(libraries: Libraries, receiver: Receiver) -> None:
    """I switch taskobs off, or leave `instrument` out: nothing is activated."""
    libraries.library("used")
    libraries.instrumentor("used")
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True, enabled=False):
        called("used")
    with taskobs.init(otlp_endpoint=receiver.endpoint):
        called("used")
    assert "otel_used" not in sys.modules
    assert not receiver.spans


def test_the_session_tells_what_is_instrumented(
    libraries: Libraries, receiver: Receiver, caplog: pytest.LogCaptureFixture, app: Any
) -> None:
    """The line at the start of a process is followed by one that names them."""
    caplog.set_level(logging.INFO)
    for name in ("first", "second"):
        libraries.library(name)
        libraries.instrumentor(name)
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        called("second", "first")
        app.send_task("probe")
    assert "taskobs: instrumented: first, second" in lines(caplog)
