"""An event is what Sentry itself would make of the exception."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sentry_sdk
from celery.exceptions import SoftTimeLimitExceeded
from sentry_sdk.consts import DEFAULT_OPTIONS
from sentry_sdk.serializer import serialize
from sentry_sdk.utils import event_from_exception

from taskobs.observers.sentry.events import event_of, spare_serializer
from tests.support.sentry import DSN, raised

pytestmark = pytest.mark.skipif(
    "include_local_variables" not in DEFAULT_OPTIONS, reason="Sentry 3 reads the source itself"
)
MECHANISM = {"type": "celery", "handled": False}


def client(**options: Any) -> sentry_sdk.Client:
    return sentry_sdk.Client(dsn=DSN, default_integrations=False, **options)


def wire(event: Any, **limits: Any) -> Any:
    return json.loads(json.dumps(serialize(event, **limits)))


def last_frame(event: Any) -> dict[str, Any]:
    frames: list[dict[str, Any]] = event["exception"]["values"][0]["stacktrace"]["frames"]
    return frames[-1]


def typed_in() -> ValueError:
    try:
        exec(compile("raise ValueError('no')", "<typed in>", "exec"), {})  # noqa: S102
    except ValueError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize("variables", [True, False])
def test_an_event_is_the_one_that_sentry_makes(*, variables: bool) -> None:
    """Frames have the same source lines, and variables only if I want them."""
    error = raised(ValueError("no"))
    made, hint = event_of(error, client(), variables=variables)
    options = {**client().options, "include_local_variables": variables}
    theirs, _ = event_from_exception(error, client_options=options, mechanism=MECHANISM)
    assert wire(made) == wire(theirs)
    assert last_frame(made)["context_line"]
    assert hint["exc_info"][1] is error


def test_long_lines_are_cut_as_sentry_cuts_them() -> None:
    """A limit of mine on the length of texts holds for source lines too."""
    error = raised(ValueError("no"))
    short = client(max_value_length=30)
    made, _ = event_of(error, short, variables=False)
    lines = last_frame(wire(made, max_value_length=30))
    assert max(map(len, [*lines["pre_context"], lines["context_line"]])) <= 30


def test_source_is_left_out_when_the_client_says_so() -> None:
    """With `include_source_context=False` no line of my code leaves."""
    made, _ = event_of(
        raised(ValueError("no")), client(include_source_context=False), variables=True
    )
    assert "context_line" not in last_frame(made)


def test_code_without_a_file_has_no_lines() -> None:
    """An error in code that was typed in is an event all the same."""
    made, _ = event_of(typed_in(), client(), variables=False)
    last = last_frame(made)
    assert (last["pre_context"], last["context_line"], last["post_context"]) == ([], None, [])


@pytest.mark.parametrize("modules", [{"celery": "5.7.0"}, {"odd": object()}, {}])
def test_the_table_of_packages_arrives(modules: dict[str, Any]) -> None:
    """The packages of an event are shown as Sentry would show them."""
    event: dict[str, object] = {"modules": dict(modules)}
    spare_serializer(event)
    assert wire(event)["modules"].keys() == modules.keys()
    if modules.get("celery"):
        assert wire(event) == {"modules": modules}


def test_the_full_stack_is_added_where_the_client_asks_for_it() -> None:
    """With `add_full_stack=True` my failures arrive, with the frames of the callers too."""
    error = raised(ValueError("no"))
    full = client(add_full_stack=True)
    made, _ = event_of(error, full, variables=False)
    options = {**full.options, "include_local_variables": False}
    theirs, _ = event_from_exception(error, client_options=options, mechanism=MECHANISM)
    named = [[frame["function"] for frame in frames(event)] for event in (made, theirs)]
    assert named[0] == [name for name in named[1] if name in named[0]]
    assert len(frames(made)) > len(frames(event_of(error, client(), variables=False)[0]))


def frames(event: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = event["exception"]["values"][0]["stacktrace"]["frames"]
    return found


def test_an_event_is_sentrys_own_where_less_work_makes_it_raise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A release of Sentry that needs what we leave out still reports my failure."""

    def strict(error: Any, client_options: Any = None, mechanism: Any = None) -> Any:
        if not client_options["include_source_context"]:
            raise KeyError("context_line")
        return event_from_exception(error, client_options=client_options, mechanism=mechanism)

    monkeypatch.setattr("taskobs.observers.sentry.events.event_from_exception", strict)
    made, hint = event_of(raised(ValueError("no")), client(), variables=False)
    assert last_frame(made)["context_line"]
    assert "vars" not in last_frame(made)
    assert isinstance(hint["exc_info"][1], ValueError)


def test_a_time_limit_that_strikes_meanwhile_is_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A soft time limit that strikes while the event is made is not swallowed."""

    def struck(*_: Any, **__: Any) -> Any:
        raise SoftTimeLimitExceeded

    monkeypatch.setattr("taskobs.observers.sentry.events.event_from_exception", struck)
    with pytest.raises(SoftTimeLimitExceeded):
        event_of(raised(ValueError("no")), client(), variables=False)
