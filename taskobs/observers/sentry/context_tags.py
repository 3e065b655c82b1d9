"""Context values as tags of Sentry's events, and as the user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskobs.observers.context.values import text_of
from taskobs.observers.sentry import redact

if TYPE_CHECKING:
    from taskobs.model import ContextValues

USER_ID: Final = "user_id"
_ID: Final = "id"


def add_context(event: dict[str, object], values: ContextValues) -> None:
    """Add values to an event; tags and a user that the app has set itself stay."""
    present = redact.names_of_tags(event)
    missing = {name: text_of(value) for name, value in values.items() if name not in present}
    if missing:
        redact.set_tags(event, missing)
    if USER_ID in values:
        redact.part(event, "user").setdefault(_ID, text_of(values[USER_ID]))
