"""Events are what Sentry's serializer makes of them, though it is given the parts that need it."""

from __future__ import annotations

import collections
import enum
import logging
import random
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any, Final, cast

import pytest
import sentry_sdk
from sentry_sdk import serializer, utils
from sentry_sdk.consts import DEFAULT_OPTIONS
from sentry_sdk.envelope import Envelope
from sentry_sdk.serializer import serialize

from taskobs.observers.sentry.event_rule import EventRule
from taskobs.observers.sentry.events import Texts, TextTable
from taskobs.observers.sentry.plain_parts import serialize_event
from taskobs.observers.sentry.run_events import RunEvents
from taskobs.sentry import _compat
from taskobs.sentry.pipeline import SentryPipeline
from tests.support.sentry import (
    Kept,
    Settings,
    address,
    clear_isolation_scope,
    make_run,
    observe,
    raised,
    user_init,
)

AnnotatedValue: Final[Any] = vars(utils)["AnnotatedValue"]
EPOCH: Final = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Leave no client and no scope data to the next test."""
    yield
    sentry_sdk.get_global_scope().set_client(None)
    clear_isolation_scope()


class Unwilling:
    """An object whose repr raises."""

    def __repr__(self) -> str:
        raise ValueError


class Level(enum.IntEnum):
    """A number that is no plain one."""

    HIGH = 1


class Shown(dict[str, object]):
    """A dict that says itself how Sentry shows it."""

    def __sentry_repr__(self) -> str:
        return "shown"


class Name(str):  # noqa: SLOT000  # as apps write them
    """A text that is no plain one."""


PLAIN: Final = ("abc", 1, None, True, 2.5, "", "é" * 9, EPOCH, 10**40)
ODD: Final = (
    *("x" * 1_100, "é" * 300, "x" * 30_000, "x" * 120_000, "\ud800x"),
    *(float("nan"), float("inf"), b"ab\xff", Unwilling(), object, Decimal(1), date(2026, 1, 1)),
    *(datetime(2026, 1, 2), Name("s"), Level.HIGH, {1, 2}, frozenset({1}), Shown(a=1)),  # noqa: DTZ001  # as apps have them
    *(AnnotatedValue("v", {"rem": [["x", "y"]]}), Texts(["a"]), TextTable(a="b")),
)
PARTS: Final = (
    *("level", "exception", "message", "extra", "breadcrumbs", "tags", "contexts", "user"),
    *("request", "spans", "timestamp", "modules", "threads", "sdk", "_meta"),
)


def custom(value: object) -> str | None:
    return "custom" if isinstance(value, (bytes, Decimal, Unwilling)) else None


def tree(pick: random.Random, depth: int, share: float) -> object:
    """Make nested data, a share of it not plain, often more of it than Sentry keeps."""
    if depth == 0 or pick.random() < 0.4:
        return pick.choice(ODD if pick.random() < share else PLAIN)
    size = pick.choice([0, 1, 2, 9, 10, 11] if depth < 3 else [1, 2])
    items = [tree(pick, depth - 1, share) for _ in range(size)]
    if pick.random() < 0.5:
        return pick.choice([list, tuple])(items)
    kind: Any = pick.choice([dict, dict, collections.OrderedDict])
    names = [
        pick.choice([f"k{number}"] * 9 + [number]) if share else f"k{number}"
        for number in range(size)
    ]
    return kind(zip(names, items, strict=True))


def event(pick: random.Random) -> dict[str, object]:
    share = pick.choice([0, 0.02, 0.2])
    made = {name: tree(pick, pick.randrange(7), share) for name in PARTS if pick.random() < 0.5}
    if pick.random() < 0.7:
        made["breadcrumbs"] = {"values": [tree(pick, 5, share) for _ in range(pick.randrange(4))]}
    if pick.random() < 0.1:
        made["breadcrumbs"] = AnnotatedValue(made.get("breadcrumbs"), {"len": 200})
    if pick.random() < 0.1:
        cycle: list[object] = [1]
        cycle.append(cycle)
        made["contexts"] = {"cycle": cycle}
    return made


@contextmanager
def in_a_run() -> Generator[None]:
    with RunEvents(make_run(), EventRule()):
        yield


def both(made: dict[str, object], **options: Any) -> tuple[str, str]:
    """Serialize an event as Sentry does and as we do; as text, since NaN is not equal to itself."""
    with in_a_run():
        ours = serialize_event(serialize, None, (made,), dict(options))
    return repr(serialize(made, **options)), repr(ours)


@pytest.mark.parametrize("longest", [None, 100_000, 1_024, 20])
@pytest.mark.parametrize("bodies", ["medium", "always"])
def test_an_event_is_what_sentry_makes_of_it(longest: int | None, bodies: str) -> None:
    """Whatever is in my events, and whatever my client cuts, they arrive as Sentry sends them."""
    for seed in range(40):
        made = event(random.Random(seed))  # noqa: S311  # the same in each run
        options = {"max_value_length": longest, "max_request_body_size": bodies}
        theirs, ours = both(made, **options, custom_repr=custom if seed % 2 else None)
        assert ours == theirs, f"seed {seed}"


def test_functions_of_the_app_that_show_values_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """What I have added with `add_global_repr_processor` sees plain values too."""

    def processor(value: object, _: object) -> object:
        return "shown" if value == "abc" else NotImplemented

    monkeypatch.setattr(serializer, "global_repr_processors", [processor])
    made: dict[str, object] = {
        "extra": {"a": "abc"},
        "tags": {"a": "abc"},
        "breadcrumbs": {"values": [{"message": "abc"}]},
    }
    theirs, ours = both(made)
    assert ours == theirs
    assert ours.count("shown") == 2


def test_the_limits_that_an_app_sets_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where I have changed how deep Sentry looks, my events are as deep."""
    monkeypatch.setattr(serializer, "MAX_DATABAG_DEPTH", 2)
    monkeypatch.setattr(serializer, "MAX_DATABAG_BREADTH", 1)
    theirs, ours = both({"extra": {"a": {"b": {"c": 1}}, "d": 1}})
    assert ours == theirs


def test_sentry_visits_only_what_is_not_plain() -> None:
    """The time of a failure's event is spent on what Sentry may have to cut or show."""
    seen: list[list[str]] = []

    def counted(left: dict[str, object], **options: Any) -> Any:
        seen.append(list(left))
        return serialize(left, **options)

    made: dict[str, object] = {"tags": {"a": "b"}, "extra": {"odd": Decimal(1)}, "level": "error"}
    with in_a_run():
        found = serialize_event(counted, None, (made,), {"max_value_length": None})
    assert seen == [["extra"]]
    assert list(found) == ["tags", "extra", "level"]


def test_an_event_outside_of_runs_is_sentrys_alone() -> None:
    """The errors of my web requests are serialized by Sentry, as without taskobs."""
    seen: list[object] = []
    made: dict[str, object] = {"level": "error"}
    serialize_event(seen.append, None, (made,), {})
    assert seen == [made]


# Whole envelopes: the same failures, serialized by Sentry alone and with our part in it.


class Envelopes(Kept):
    """Keeps whole envelopes, and what says when and which is made equal."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[object] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        items = [
            (item.type, _steady(item.payload.json or item.get_bytes())) for item in envelope.items
        ]
        self.kept.append((sorted(envelope.headers), items))


def _steady(data: object) -> object:
    """Take out what differs between two events of one failure."""
    if isinstance(data, dict):
        table = cast("dict[str, object]", data)
        return {
            name: "*" if name in {"timestamp", "event_id", "lineno"} else _steady(item)
            for name, item in table.items()
        }
    if isinstance(data, (list, tuple)):
        return [_steady(item) for item in cast("list[object]", data)]
    return data


def chained() -> BaseException:
    try:
        try:
            raise KeyError("first")  # noqa: TRY301
        except KeyError as error:
            raise ValueError("second") from error
    except ValueError as error:
        return error


def grouped() -> BaseException:
    import builtins

    kind: Any = getattr(builtins, "ExceptionGroup", None)
    return raised(kind("all", [ValueError("a"), chained()]) if kind else ValueError("a"))


FAILURES: Final[dict[str, Any]] = {
    "plain": lambda: raised(ValueError("no funds")),
    "chained": chained,
    "group": grouped,
    "huge": lambda: raised(ValueError("x" * 200_000), argument=list(range(10_000))),
    "surrogates": lambda: raised(ValueError("\udcff"), argument="\udcff"),
    "unwilling": lambda: raised(ValueError(Unwilling), argument=Unwilling()),
    "secrets": lambda: raised(
        ValueError("no"), argument={"password": "hunter2", "deep": {"a": [1]}}
    ),
}


def change(given: Any, _: Any) -> Any:
    given["extra"]["added"] = {"a": [1, None]}
    given["exception"]["values"][0]["value"] += "!"
    return given


CLIENTS: Final[dict[str, dict[str, Any]]] = {
    "defaults": {},
    "short": {"max_value_length": 40},
    "no variables": {"include_local_variables": False},
    "hook": {"before_send": change},
    "own repr": {"custom_repr": custom},
    "bodies": {"max_request_body_size": "always"},
    "stacks": {"add_full_stack": True, "include_local_variables": False},
}


def envelopes(error: BaseException, options: dict[str, Any], *, arguments: bool) -> list[object]:
    kept = Envelopes()
    user_init(**options)
    sentry_sdk.get_client().transport = kept
    pipeline = SentryPipeline.start(Settings())
    try:
        observer = observe(pipeline, send_arguments=arguments)
        run = make_run(span=address(), args=("a", Decimal(1)), kwargs={"deep": [[[[[[1]]]]]]})
        with observer.run(run):
            _use(sentry_sdk.get_isolation_scope())
            run.exception = error
            observer.failed(run)
    finally:
        pipeline.close(1.0)
        clear_isolation_scope()
    return kept.kept


def _use(scope: Any) -> None:
    """Do what an app's task does with Sentry."""
    logging.getLogger("shop").info("packed %s", {"a": 1}, extra={"odd": Decimal(1)})
    sentry_sdk.add_breadcrumb(message="x" * 2_000, data={"n": list(range(20)), "at": EPOCH})
    sentry_sdk.add_breadcrumb(message="plain", data={"n": 1})
    scope.set_context("order", {"id": 7, "lines": [{"sku": Name("a")}]})
    scope.set_extra("wide", {str(number): number for number in range(20)})
    scope.set_user({"id": 7, "ip_address": "10.0.0.1"})
    scope.set_tag("n", 1)
    scope.add_attachment(bytes=b"data", filename="a.txt")


@pytest.mark.parametrize("arguments", [False, True])
@pytest.mark.parametrize("options", CLIENTS)
def test_envelopes_are_the_same(
    options: str, *, arguments: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever my task fails by and whatever my client's options are, the server gets the same."""
    if not CLIENTS[options].keys() <= DEFAULT_OPTIONS.keys():
        pytest.skip("this release of Sentry has no such option")
    for failure, make in FAILURES.items():
        error = make()
        found: list[list[object]] = []
        for name in (_compat.SERIALIZE, "gone"):  # from one line, which is in a full stack
            with monkeypatch.context() as release:
                release.setattr(_compat, "SERIALIZE", name)
                found.append(envelopes(error, CLIENTS[options], arguments=arguments))
        assert len(found[0]) == 1, failure
        assert found[0] == found[1], failure
