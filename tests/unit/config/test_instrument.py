"""The values of ``instrument``: a switch, or names of what is installed."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from taskobs.config.settings import Settings, resolve
from taskobs.errors import SettingError
from tests.support.instrumented_libraries import Libraries, install_in


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Libraries]:
    """Have instrumentors for ``redis_like`` and ``flask-like``."""
    for libraries in install_in(tmp_path, monkeypatch):
        libraries.instrumentor("redis_like")
        libraries.instrumentor("flask_like", entry="flask-like")
        yield libraries


def given(value: object) -> Settings:
    return resolve({"instrument": value}, {})


def by_variable(text: str) -> Settings:
    return resolve({}, {"TASKOBS_INSTRUMENT": text})


def refused(value: object) -> SettingError:
    with pytest.raises(SettingError) as error:
        given(value)
    return error.value


def test_off_unless_asked_for() -> None:
    """I don't ask, and no instrumentor is activated."""
    assert resolve({}, {}).instrument is False


@pytest.mark.parametrize(("text", "value"), [("1", True), ("TRUE", True), ("off", False)])
def test_a_switch(text: str, value: object) -> None:
    """I switch all on or off, in code or by the variable."""
    assert given(value).instrument is value
    assert by_variable(text).instrument is value


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize(
    "value",
    [
        ["redis_like", "flask-like"],
        ("redis_like", "flask_like", "redis_like"),
        "Redis-Like, flask-like,",
    ],
)
def test_names(value: object) -> None:
    """I name some, with the dashes and capitals that I remember, one twice: that is once."""
    assert given(value).instrument == ("redis_like", "flask-like")


@pytest.mark.usefixtures("libraries")
def test_names_in_the_variable() -> None:
    """My operators choose them."""
    assert by_variable("flask-like,redis_like").instrument == ("flask-like", "redis_like")
    assert given([]).instrument == ()


@pytest.mark.usefixtures("libraries")
def test_a_misspelt_name() -> None:
    """I misspell one: the error names it, what is installed, and what I meant."""
    error = refused(["redis_lik"])
    assert (error.setting, error.variable) == ("instrument", "TASKOBS_INSTRUMENT")
    assert error.value == "['redis_lik']"
    assert "'redis_lik'" in error.problem
    assert "installed are: flask-like, redis_like" in error.problem
    assert error.fix == "taskobs.init(instrument=['redis_like'])"


@pytest.mark.usefixtures("libraries")
def test_a_misspelt_name_in_the_variable() -> None:
    """It is in the variable: the fix is a line for the variable."""
    with pytest.raises(SettingError) as error:
        by_variable("flask-like,redislike")
    assert error.value.fix == "TASKOBS_INSTRUMENT=redis_like"


@pytest.mark.usefixtures("libraries")
def test_what_is_not_installed() -> None:
    """I name one whose package is not installed: the error says what such packages are called."""
    assert "packages such as opentelemetry-instrumentation-redis" in refused(["kafka"]).problem


def test_nothing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I name one, and no instrumentor is installed at all."""
    for _ in install_in(tmp_path, monkeypatch):
        error = refused("flask")
        assert "none is installed" in error.problem
        assert error.fix == "taskobs.init(instrument=True)"


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize("name", ["celery", "taskobs"])
def test_celery_is_not_among_them(name: str) -> None:
    """I name Celery, too: that is what taskobs does anyway."""
    assert "taskobs instruments by itself" in refused(["redis_like", name]).problem


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize(
    "value", [3, {"redis_like": True}, b"redis_like", [None], ["redis_like", 4]]
)
def test_no_names(value: Any) -> None:
    """I give something else, and am told what it may be."""
    error = refused(value)
    assert error.setting == "instrument"
    assert "instrument=" in error.fix
