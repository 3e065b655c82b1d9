"""The database, through Python's own driver."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

FOLDER = Path(os.environ.get("SHOP_FOLDER") or Path(__file__).parents[1] / "instance")
(FOLDER / "messages").mkdir(parents=True, exist_ok=True)
TABLE = "CREATE TABLE IF NOT EXISTS orders (number INTEGER PRIMARY KEY, state TEXT)"


@contextmanager
def cursor() -> Generator[sqlite3.Cursor]:
    """Give a cursor, and commit at the end."""
    with closing(sqlite3.connect(FOLDER / "shop.db")) as connection:
        yield connection.cursor()
        connection.commit()
