"""The page about brokers and backends names all of kombu's and Celery's, and is right."""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from celery.app.backends import BACKEND_ALIASES
from kombu.transport import TRANSPORT_ALIASES

from taskobs.celery.adapter import brokers
from tests.docs.pages import section
from tests.support.paths import ROOT

PAGE = ROOT / "docs/brokers.md"
NOT_SHIPPED = {"riak"}
"""Backends that Celery names and has no longer."""


def rows(heading: str) -> list[list[str]]:
    """Give the cells of a section's first table."""
    lines = section(PAGE, heading).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|---"))
    table: list[list[str]] = []
    for line in lines[first + 1 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def names(cell: str) -> list[str]:
    return re.findall(r"`([\w.]+)`", cell)


def test_every_transport_is_on_the_page() -> None:
    """I look my transport up, whichever of kombu's it is, and find it once."""
    listed = [name for transports, *_ in rows("Brokers") for name in names(transports)]
    assert len(listed) == len({*listed})
    assert {*TRANSPORT_ALIASES} <= {*listed}


class Connection:
    """A connection whose transport is of a library that is not installed."""

    hostname, port, ssl = "host", 1, False

    def __init__(self, transport_cls: str) -> None:
        self.transport_cls = transport_cls

    @property
    def transport(self) -> object:
        raise ImportError(self.transport_cls)


@pytest.mark.parametrize(
    ("transport", "system"),
    [
        (transport, system)
        for transports, system, *_ in rows("Brokers")
        for transport in names(transports)
        if names(system) and transport not in {"rediss", "sentinel"}
    ],
)
def test_a_system_is_named_as_on_the_page(transport: str, system: str) -> None:
    """I filter spans by the system that the page names, and find mine."""
    assert f"`{brokers.of_connection(Connection(transport)).system}`" == system


def classes(module: str) -> dict[str, set[str]]:
    """Give the bases of the classes of a module, which may need a library that is not here."""
    found = find_spec(module)
    assert found is not None
    assert found.origin is not None
    tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    return {
        node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def is_key_value(alias: str) -> bool:
    module, _, name = BACKEND_ALIASES[alias].replace(":", ".").rpartition(".")
    bases, wanted, seen = classes(module), [name], set[str]()
    while wanted:
        seen.add(wanted[0])
        wanted = [*wanted[1:], *bases.get(wanted[0], set[str]())]
    return bool(seen & {"KeyValueStoreBackend", "BaseKeyValueStoreBackend"})


def test_every_backend_is_on_the_page() -> None:
    """I look my backend up, and read there whether a chord's callback is linked to its header."""
    listed = {name: cell for backends, cell in rows("Result backends") for name in names(backends)}
    shipped = {*BACKEND_ALIASES} - NOT_SHIPPED
    assert shipped == {*listed}
    assert {name for name in shipped if is_key_value(name)} == {
        name for name, cell in listed.items() if cell == "yes"
    }
