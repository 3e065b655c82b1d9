"""Shares a worker's Sentry client with those of its processes in which the app makes none.

An app may call ``sentry_sdk.init()`` in pool children alone (in ``worker_process_init`` or
``task_prerun``), or in the worker's main process after it has forked them (``worker_ready``). Then
some processes could not report their failures: the children, or the main process, which reports the
runs of a child that died. So the first client's options are put into shared memory, and each other
process makes a client from them.
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
        # Objects of that one process. A client made from shared options only reports runs.
        *("integrations", "auto_enabling_integrations", "disabled_integrations"),
        *("default_integrations", "spotlight", "project_root"),
    }
)
_WORKED_OUT: Final = "provided_by_user"


def share(page: SharedPage, client: BaseClient) -> bool:
    """Share a client's options; False if one of them can't be pickled.

    A function that filters events, such as ``before_send``, is pickled by its name in its module.
    If it can't be, nothing is shared: a client without it would send what the app holds back.
    """
    try:
        data = pickle.dumps(_of(client))
    except Exception:  # noqa: BLE001  # a lambda, a lock: an option may be anything
        return False
    return page.put(data) or page.get() is not None


def accept(page: SharedPage) -> BaseClient | None:
    """Make this process's client from the shared options; None if there are none."""
    data = page.get()
    if data is None:
        return None
    options: dict[str, Any] = pickle.loads(data)  # noqa: S301  # written by our own worker
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
        del given["data_collection"]  # made by Sentry from the other options
    return given
