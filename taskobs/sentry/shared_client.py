"""A Sentry client for the processes of a worker in which the app has made none.

An app may call ``sentry_sdk.init()`` in pool children alone (in ``worker_process_init`` or
``task_prerun``), or in the worker's main process after it has forked them (``worker_ready``). Then
either the children's failures or the runs that die with their child have nobody to report them. So
the options of the first client are handed over, and the other processes make one of them.
"""

from __future__ import annotations

import pickle
from typing import Any, Final, cast

import sentry_sdk
from sentry_sdk.client import BaseClient
from sentry_sdk.consts import DEFAULT_OPTIONS

from taskobs.internal.shared_page import SharedPage

_LEFT_OUT: Final = frozenset(
    {
        # Objects of that process. The client that is made here reports runs, and watches nothing.
        *("integrations", "auto_enabling_integrations", "disabled_integrations"),
        *("default_integrations", "spotlight", "project_root"),
    }
)
_WORKED_OUT: Final = "provided_by_user"


def share(page: SharedPage, client: BaseClient) -> bool:
    """Hand a client's options over; False if they can't be, as they hold what can't be pickled.

    What decides what may be sent, such as ``before_send``, is handed over by its name in its
    module. A client without it would send what the app holds back, so then there is none.
    """
    try:
        data = pickle.dumps(_of(client))
    except Exception:  # noqa: BLE001  # a lambda, a lock: whatever an option may be
        return False
    return page.put(data) or page.get() is not None


def accept(page: SharedPage) -> BaseClient | None:
    """Make a client of the options that were handed over, the process's own; None without any."""
    data = page.get()
    if data is None:
        return None
    options: dict[str, Any] = pickle.loads(data)  # noqa: S301  # our own worker's memory
    client = sentry_sdk.Client(**options, default_integrations=False)
    sentry_sdk.get_global_scope().set_client(client)
    return client


def _of(client: BaseClient) -> dict[str, object]:
    given = {
        name: value
        for name, value in client.options.items()
        if name not in _LEFT_OUT and name in DEFAULT_OPTIONS and value != DEFAULT_OPTIONS[name]
    }
    collection = given.get("data_collection")
    if isinstance(collection, dict) and not cast("dict[str, Any]", collection).get(_WORKED_OUT):
        del given["data_collection"]  # Sentry's, made of the other options
    return given
