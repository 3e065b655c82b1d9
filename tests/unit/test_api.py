from __future__ import annotations

import ast
import inspect
from pathlib import Path

import taskobs

TYPED = ast.parse((Path(__file__).parents[1] / "typing" / "api.py").read_text(encoding="utf-8"))


def test_all_that_is_public_has_its_types_checked() -> None:
    """My type checker knows each name and each setting of taskobs."""
    names = {node.attr for node in ast.walk(TYPED) if isinstance(node, ast.Attribute)}
    assert set(taskobs.__all__) <= names
    given = {node.arg for node in ast.walk(TYPED) if isinstance(node, ast.keyword)}
    assert set(inspect.signature(taskobs.init).parameters) <= given
    public = {name for name in vars(taskobs.Session) if not name.startswith("_")}
    assert {"close", "describe", "flush"} <= public & names
