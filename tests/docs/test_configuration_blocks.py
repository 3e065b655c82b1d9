"""Each block of a configuration file is one that its program could read."""

from __future__ import annotations

import json
from collections.abc import Callable
from configparser import ConfigParser
from typing import Final

import pytest
import yaml

from tests.docs.pages import Block, all_blocks


def _ini(text: str) -> None:
    """Read a file of supervisord, systemd or uWSGI: systemd repeats keys, uWSGI has bare ones."""
    ConfigParser(strict=False, interpolation=None, allow_no_value=True).read_string(text)


def _yaml(text: str) -> None:
    assert all(isinstance(part, (dict, list)) for part in yaml.safe_load_all(text))


def _dockerfile(text: str) -> None:
    """Read a Dockerfile: lines of one instruction, which may go on over several."""
    lines = [line for line in text.replace("\\\n", "").splitlines() if line and line[0] != "#"]
    assert all(line.split()[0].isupper() for line in lines)


READERS: Final[dict[str, Callable[[str], object]]] = {
    "dockerfile": _dockerfile,
    "ini": _ini,
    "json": json.loads,
    "yaml": _yaml,
}
"""By the language of a block."""


@pytest.mark.parametrize("block", all_blocks(*READERS), ids=str)
def test_configuration_can_be_read(block: Block) -> None:
    """I copy a block into my configuration, and its program can read it."""
    READERS[block.language](block.text)
