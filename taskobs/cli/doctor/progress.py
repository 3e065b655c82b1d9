"""Says on standard error what takes time."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

import click


@contextmanager
def step(text: str) -> Generator[None]:
    """Print what is being done, then how long it took."""
    began = time.monotonic()
    click.echo(f"  {text} ...", nl=False, err=True)
    try:
        yield
    finally:
        click.echo(f" {time.monotonic() - began:.1f} s", err=True)
