"""`log_format="json"` formats what Celery's handlers write, and leaves an app's own classes."""

from __future__ import annotations

import io
import logging
from collections.abc import Generator

import pytest
from celery.app.log import Logging
from celery.utils.log import ColorFormatter

from taskobs.celery.patches.logging_setup import LoggingSetup
from taskobs.internal.guard import Guard


class Own(logging.Formatter):
    """A formatter class of the app's."""


class Json(logging.Formatter):
    """Stands for ours."""


JSON = Json()
PLAIN: list[logging.Formatter | None] = [
    None,
    logging.Formatter("%(message)s"),
    ColorFormatter("%(message)s"),
]


@pytest.fixture
def handler() -> Generator[logging.Handler]:
    """Give a handler of Celery's task logger."""
    logger, handler = logging.getLogger("celery.task"), logging.StreamHandler(io.StringIO())
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def setup() -> Generator[LoggingSetup]:
    before = Logging.setup
    made = LoggingSetup(JSON, Guard())
    yield made
    made.remove()
    assert Logging.setup is before


@pytest.mark.parametrize("formatter", PLAIN, ids=["none", "plain", "Celery's"])
def test_formatters_that_only_have_a_format_are_replaced(
    handler: logging.Handler, setup: LoggingSetup, formatter: logging.Formatter | None
) -> None:
    """Celery's handlers, and those of a configuration with a format, write JSON until `close()`."""
    handler.setFormatter(formatter)
    setup.apply()
    setup.apply()
    assert handler.formatter is JSON
    setup.remove()
    assert handler.formatter is formatter


def test_a_formatter_of_the_apps_own_class_stays(
    handler: logging.Handler, setup: LoggingSetup
) -> None:
    """My structlog formatter goes on formatting."""
    own = Own()
    handler.setFormatter(own)
    setup.apply()
    assert handler.formatter is own


def test_a_formatter_that_was_replaced_since_stays(
    handler: logging.Handler, setup: LoggingSetup
) -> None:
    """What my app sets after taskobs is not undone by `close()`."""
    setup.apply()
    own = Own()
    handler.setFormatter(own)
    setup.remove()
    assert handler.formatter is own
