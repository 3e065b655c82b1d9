"""A program without the private names in ``WITHOUT``, such as ``celery._state:_tls``.

They are of one package, with a space between. It runs tasks eagerly, under taskobs' provider and
then under the app's own; with arguments, ``worker …``, it is a worker of the live tests' shop.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any, Final

from tests.support.renaming import Renaming

SHOP: Final = "tests.live.apps.shop"
TAKEN: Final = "the library has the name no more"
HIDDEN: Final = {"grpc._channel"}
"""Modules that their library imports itself: they are hidden from taskobs alone."""


def take_away(names: list[tuple[str, str]]) -> None:
    """Do so, before anything of the library is imported; say it if the library has the name."""
    modules = [module for module, _ in names]
    if HIDDEN.intersection(modules):
        hide(*modules)
        return
    renaming = Renaming(modules[0].split(".")[0], *(path.split(".")[-1] for _, path in names))
    renaming.install()
    for module in modules:
        with suppress(ImportError):
            import_module(module)
    if renaming.times:
        sys.stdout.write(f"{TAKEN}\n")


def hide(module: str) -> None:
    """Refuse to import a module for taskobs."""
    from taskobs.internal import import_lock

    def refuse(name: str) -> ModuleType:
        if name == module:
            sys.stdout.write(f"{TAKEN}\n")
            raise ImportError(name)
        return import_module(name)

    setattr(import_lock, "import_module", refuse)  # noqa: B010  # mypy wants no other form


def run_eagerly(module: str) -> None:
    """Publish a task, and run one that succeeds and one that fails, in two sessions."""
    from celery import Celery
    from celery.beat import ScheduleEntry, Scheduler
    from celery.schedules import crontab

    import taskobs

    app: Any = Celery("shop", broker="memory://", set_as_current=True)

    @app.task(name="add")  # type: ignore[untyped-decorator]
    def add() -> None:
        pass

    @app.task(name="fail")  # type: ignore[untyped-decorator]
    def fail() -> None:
        raise ValueError("boom")

    def run_all() -> None:
        add.delay()
        add.apply()
        fail.apply()

    stock = stock_instrumentor() if module.startswith("opentelemetry.instrumentation") else None
    with taskobs.init(strict=True, crons=True) as session:
        run_all()
        session.flush()
        if module == "celery.schedules":
            made: Any = ScheduleEntry
            entry = made(name="nightly", task="add", schedule=crontab(minute="*/5"), app=app)
            from celery import signals

            signals.beat_init.send(sender=None)
            Scheduler(app, lazy=True).apply_async(entry)
    own_provider()
    with taskobs.init(strict=True):
        run_all()
    if stock is not None:
        run_all()
        stock.uninstrument()
    shut_down()


def stock_instrumentor() -> Any:
    """Have OpenTelemetry's instrumentor be active."""
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    stock: Any = CeleryInstrumentor
    made = stock()
    made.instrument(skip_dep_check=True)
    return made


def own_provider() -> None:
    """Set a provider as an app does."""
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider(resource=Resource({"service.name": "own"}))
    exporter = OTLPSpanExporter(endpoint=os.environ["OWN_ENDPOINT"])
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def shut_down() -> None:
    """Have the app's provider export the rest."""
    from opentelemetry import trace

    provider: Any = trace.get_tracer_provider()
    provider.shutdown()


def main() -> None:
    """Run the program."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    names = [name.split(":") for name in os.environ["WITHOUT"].split()]
    if names:
        take_away([(module, path) for module, path in names])
    if arguments := sys.argv[1:]:
        import_module(SHOP).app.worker_main(arguments)
    else:
        run_eagerly(names[0][0] if names else "")


if __name__ == "__main__":
    main()
