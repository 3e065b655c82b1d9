"""The type of options that take a number within a range."""

from __future__ import annotations

import math
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """A range that has no place for ``nan``.

    `click.FloatRange` lets it pass, as it is neither below the minimum nor above the maximum; a
    time that is compared with it never comes.
    """

    def convert(
        self,
        value: Any,  # noqa: ANN401  # as the base's
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Read a number."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number
