"""Settings of metrics are what was asked for, or are refused in words that help."""

from __future__ import annotations

import pytest

from taskobs.config.settings import resolve
from taskobs.errors import SettingError

DURATION = "celery.task.duration"


@pytest.mark.parametrize(("given", "port"), [(9808, 9808), (0, 0), ("9809", 9809), (" 1 ", 1)])
def test_a_port(given: object, port: int) -> None:
    """I give a port as a number, or in a variable."""
    assert resolve({"metrics_port": given}, {}).metrics_port == port
    if isinstance(given, str):
        assert resolve({}, {"TASKOBS_METRICS_PORT": given}).metrics_port == port


@pytest.mark.parametrize("given", [-1, 65_536, "x", "1.5", 2.5, True, "-2", "\N{SUPERSCRIPT TWO}"])
def test_what_is_no_port_is_refused(given: object) -> None:
    """The error names the setting and a port that works."""
    with pytest.raises(SettingError, match=r"metrics_port.*9808"):
        resolve({"metrics_port": given}, {})


def test_metrics_are_on_where_they_go_somewhere() -> None:
    """With an endpoint or a port they are counted; switched off, they are not."""
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
    assert not resolve({}, {}).metrics
    assert resolve({}, endpoint).metrics
    assert resolve({"metrics_port": 0}, {}).metrics
    assert not resolve({}, {**endpoint, "OTEL_METRICS_EXPORTER": "none"}).metrics
    assert not resolve({"metrics_port": 0}, {"OTEL_SDK_DISABLED": "true"}).metrics
    assert not resolve({"metrics_port": 0, "enabled": False}, {}).metrics


def test_buckets() -> None:
    """I give the bounds of one histogram, as a mapping or as JSON; the others keep theirs."""
    given = {DURATION: [0.5, 1, 90]}
    assert resolve({"metric_buckets": given}, {}).metric_buckets == given
    text = '{"celery.task.duration": [0.5, 1, 90]}'
    assert resolve({}, {"TASKOBS_METRIC_BUCKETS": text}).metric_buckets == given


@pytest.mark.parametrize(
    "given",
    [
        "{",
        "[1]",
        [1],
        {"celery.task.received": [1]},
        {DURATION: []},
        {DURATION: "12"},
        {DURATION: [2, 1]},
        {DURATION: [1, 1]},
        {DURATION: [0, 1]},
        {DURATION: ["1"]},
        {DURATION: [True]},
        {DURATION: [float("inf")]},
        {DURATION: [float("nan")]},
        {DURATION: list(range(1, 200))},
        {DURATION: [10**400]},
        {DURATION: b"12"},
    ],
    ids=repr,
)
def test_buckets_that_make_no_sense_are_refused(given: object) -> None:
    """The error names the setting, and shows bounds that work."""
    with pytest.raises(SettingError, match=r"metric_buckets.*celery\.task\.duration"):
        resolve({"metric_buckets": given}, {})
