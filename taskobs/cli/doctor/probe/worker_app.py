"""The app of the doctor's worker: the user's, on a queue of the doctor's alone.

It is what ``celery -A`` imports in that worker, so that the rest is as in any worker of the app.
"""

# Celery ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
import signal
import time
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any, Final

from celery import signals

from taskobs.cli.doctor.probe.message import READY, Order, private_queue, write
from taskobs.monitor.loading import load_app
from taskobs.session import session

_TASK_MODULE: Final = "taskobs.cli.doctor.probe.task"
_CONFIGURATION: Final[dict[str, object]] = {
    # Nothing but the queue: no queues and exchanges for remote control, events or delays.
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "task_send_sent_event": False,
    "worker_direct": False,
    "worker_detect_quorum_queues": False,
    # Files of the app's own workers.
    "worker_state_db": None,
    "worker_log_file": None,
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # Celery's app
    """Return the app; it is loaded when it is first asked for."""
    if name != "app":
        raise AttributeError(name)
    return _app()


@cache
def _app() -> Any:  # noqa: ANN401  # Celery's app
    order = Order.read(os.environ)
    app: Any = load_app(order.app)
    app.conf.update(_CONFIGURATION)
    app.conf.include = [*(app.conf.include or ()), _TASK_MODULE]  # for children that are spawned
    for steps in app.steps.values():
        steps.clear()  # consumers of the app's own, which take messages of other queues
    # Not by ``add``, which binds the queue to the app's default exchange.
    app.amqp.queues[order.queue] = private_queue(order.queue)
    import_module(_TASK_MODULE)
    signals.worker_ready.connect(note_ready, weak=False)
    return app


def note_ready(**_: object) -> None:
    """Tell the doctor that this worker is ready; from now on it ends with the doctor."""
    order = Order.read(os.environ)
    watch = Thread(target=_end_with, args=(order.doctor,), name="taskobs-doctor", daemon=True)
    watch.start()  # now that the pool's processes are forked
    called = session.current_session() is not None
    write(Path(order.folder) / READY, {"pid": os.getpid(), "init": called})


def _end_with(doctor: int) -> None:
    """Stop this worker when the doctor has been killed, which could not stop it then.

    That may have happened before this worker was ready.
    """
    while os.getppid() == doctor:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
