"""Other libraries' private names stand in five modules, each declared there with its use."""

from __future__ import annotations

import ast
import gc
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from itertools import chain, pairwise
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, Final, TypeVar

import pytest

import taskobs
from taskobs.internal.private_names import PrivateName
from tests.support.syntax import nodes_of

Node = TypeVar("Node", bound=ast.AST)
PACKAGE: Final = Path(taskobs.__file__).parent
COMPAT: Final = {
    "celery/_compat.py": "taskobs.celery._compat",
    "otel/_sdk_compat.py": "taskobs.otel._sdk_compat",
    "otel/app/_compat.py": "taskobs.otel.app._compat",
    "otel/app/_metrics_compat.py": "taskobs.otel.app._metrics_compat",
    "sentry/_compat.py": "taskobs.sentry._compat",
}
LIBRARIES: Final = ("opentelemetry", "sentry_sdk", "celery", "kombu", "billiard", "grpc", "vine")
PRIVATE: Final = re.compile(r"(?<![\w%{-])_[A-Za-z]\w*(?<!__)(?![\w-])")
"""In a text: a name that begins with one underscore, also as a part of a path."""

PYTHONS: Final = {
    "_asdict": "a documented method of named tuples",
    "_exit": "os._exit, documented",
    "_replace": "a documented method of named tuples",
    "_value_": "documented for enums: their value, without the property's cost",
    "_socket": "the standard library's, in the place of `socket`, whose import is long",
    "_thread": "documented: the low-level threading API",
    "_initializing": "set on a module's spec while it is imported; without it, none counts as such",
    "_adapters": "importlib.metadata._adapters is imported early; nothing is used of it",
}
"""What belongs to Python itself, and is documented, or only imported."""
STRUCTLOGS: Final = {"_record": "a documented key of structlog's ProcessorFormatter"}
PROGRAMS: Final = {
    "taskobs.__main__",
    "taskobs.relay.__main__",
    "taskobs.view.demo.shop",
    "taskobs.view.demo.checkout",
}
"""Modules that do something when they are imported."""
OURS_ON_OTHERS: Final = "_taskobs_"
"""How attributes begin that we set on objects of others."""
EXTENSION_POINTS: Final = {
    "_instrument": "what OpenTelemetry documents that an instrumentor defines",
    "_uninstrument": "what OpenTelemetry documents that an instrumentor defines",
    "_put": "what kombu documents that a virtual transport's channel defines",
}
"""What a library asks a subclass to define."""
CONVENTIONS: Final = {"_OTHER": "documented in OpenTelemetry's conventions: what has no bound"}
ALLOWED: Final = {*PYTHONS, *STRUCTLOGS, *EXTENSION_POINTS, *CONVENTIONS}


@dataclass(frozen=True)
class Use:
    """A private name in a module's source that the module's package does not define."""

    file: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"taskobs/{self.file}:{self.line}: {self.name}"


@dataclass(frozen=True)
class Module:
    """A module's syntax tree; its names by where they come from."""

    file: str
    tree: ast.Module

    @cached_property
    def _nodes(self) -> dict[type[ast.AST], list[Any]]:
        found = defaultdict[type[ast.AST], list[Any]](list)
        for node in nodes_of(self.tree):
            found[type(node)].append(node)
        return found

    def of(self, *kinds: type[Node]) -> Iterator[Node]:
        """Give the nodes of some kinds: several searches go through a few of many."""
        return chain.from_iterable(self._nodes.get(kind, ()) for kind in kinds)

    @property
    def foreign(self) -> set[str]:
        """The names that stand for something of the libraries, or for one of their modules."""
        found: set[str] = set()
        for plain in self.of(ast.Import):
            names = (one for one in plain.names if of_them(one.name))
            found |= {one.asname or one.name.split(".")[0] for one in names}
        for node in self.of(ast.ImportFrom):
            if of_them(node.module or ""):
                found |= {one.asname or one.name for one in node.names}
        return found


def of_them(module: str) -> bool:
    return module.split(".", maxsplit=1)[0] in LIBRARIES


def is_private(name: str) -> bool:
    return PRIVATE.fullmatch(name) is not None


def parse(source: str, file: str = "example.py") -> Module:
    return Module(file, ast.parse(source))


@cache
def modules() -> tuple[Module, ...]:
    paths = sorted(PACKAGE.rglob("*.py"))
    gc.disable()  # all of it stays: to look for garbage in it takes three times as long as to parse
    try:
        return tuple(parse(path.read_text(), str(path.relative_to(PACKAGE))) for path in paths)
    finally:
        gc.enable()


@cache
def defined(module: Module) -> set[str]:
    """Name what a module defines: itself, functions, classes, variables, and self's attributes."""
    found = set(Path(module.file).with_suffix("").parts)
    found |= {node.name for node in module.of(ast.FunctionDef)}
    found |= {node.name for node in module.of(ast.AsyncFunctionDef)}
    found |= {node.name for node in module.of(ast.ClassDef)}
    found |= {node.arg for node in module.of(ast.arg)}
    found |= {node.id for node in module.of(ast.Name) if isinstance(node.ctx, ast.Store)}
    for attribute in module.of(ast.Attribute):
        if isinstance(attribute.ctx, ast.Store) and stands_for_self(attribute.value):
            found.add(attribute.attr)
    for assignment in module.of(ast.Assign):
        if any(map(is_slots, assignment.targets)):
            found |= set(texts_in(assignment.value))
    return found


def is_slots(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "__slots__"


def stands_for_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def texts_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def uses(module: Module, ours: set[str]) -> Iterator[Use]:
    """Give the private names that a module uses, and that are not ``ours``.

    On what is not ``self``, only names that the module itself defines are.
    """
    foreign, texts = module.foreign, no_names(module)
    here = defined(module) | (ours & ALLOWED)
    for node in module.of(ast.Attribute, ast.Import, ast.ImportFrom, ast.keyword, ast.Constant):
        for name in names_of(node, foreign, ours, here, texts):
            yield Use(module.file, getattr(node, "lineno", 0), name)


def names_of(
    node: ast.AST, foreign: set[str], ours: set[str], here: set[str], texts: set[int]
) -> Iterator[str]:
    if isinstance(node, ast.Attribute) and is_private(node.attr):
        # What is read from an imported class or module is its own, whatever we call ours.
        others = root_of(node.value) in foreign
        if others or node.attr not in (ours if stands_for_self(node.value) else here):
            yield node.attr
    elif isinstance(node, ast.Import):
        yield from (name for one in node.names for name in private_in(one.name, ours))
    elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("taskobs"):
        paths = (f"{node.module}.{one.name}" for one in node.names)
        yield from (name for path in paths for name in private_in(path, ours))
    elif isinstance(node, ast.keyword) and is_private(node.arg or ""):
        yield from {node.arg or ""} - ours
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
        yield from private_in(node.value, ours)


def private_in(text: str, ours: set[str]) -> set[str]:
    """Give the private names in a text; in the path of a library's module, ours are its own."""
    return set(PRIVATE.findall(text)) - (set() if of_them(text) else ours)


def root_of(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def no_names(module: Module) -> set[int]:
    """Give the ids of the nodes of texts that name nothing: docstrings, and ends of f-strings."""
    alone = (node.value for node in module.of(ast.Expr))
    joined = (node.values for node in module.of(ast.JoinedStr))
    ends = (
        part
        for parts in joined
        for before, part in pairwise(parts)
        if isinstance(before, ast.FormattedValue)
    )
    return {id(node) for node in (*alone, *ends) if is_text(node)}


def ours() -> set[str]:
    return set[str]().union(*map(defined, modules()))


def test_no_other_module_uses_a_private_name_of_a_library() -> None:
    """What a library may rename in any release is used in five modules, and nowhere else."""
    allowed = ours() | ALLOWED
    others = [module for module in modules() if module.file not in COMPAT]
    found = [use for module in others for use in uses(module, allowed)]
    assert [str(use) for use in found if not use.name.startswith(OURS_ON_OTHERS)] == []


@pytest.mark.parametrize("file", COMPAT)
def test_these_modules_declare_what_they_use(file: str) -> None:
    """Each private name in there has a PrivateName that says what is done without it."""
    (module,) = (module for module in modules() if module.file == file)
    names: tuple[PrivateName, ...] = import_module(COMPAT[file]).NAMES
    declared = {part for name in names for part in PRIVATE.findall(f"{name.module}.{name.path}")}
    declared |= written_in_declarations(module)
    allowed = declared | defined(module) | set(PYTHONS)
    assert [str(use) for use in uses(module, allowed) if use.name not in declared] == []


def written_in_declarations(module: Module) -> set[str]:
    """Give also the names that only another release has: a declaration chooses between two."""
    calls = (node for node in ast.walk(module.tree) if isinstance(node, ast.Call))
    declarations = (call for call in calls if ast.unparse(call.func) in {"PrivateName", "_name"})
    texts = (text for call in declarations for text in texts_in(call))
    return {name for text in texts for name in PRIVATE.findall(text)}


@pytest.mark.parametrize("module", COMPAT.values())
def test_each_name_is_private_and_says_what_is_done_without_it(module: str) -> None:
    """A warning that a name is missing tells me what I lose."""
    names: tuple[PrivateName, ...] = import_module(module).NAMES
    assert len({(name.module, name.path) for name in names}) == len(names)
    for name in names:
        assert PRIVATE.search(f"{name.module}.{name.path}"), name
        assert len(name.use.split()) > 3, name


def our_classes() -> Iterator[type]:
    for found in walk_packages([str(PACKAGE)], "taskobs."):
        if found.name not in PROGRAMS:
            module = import_module(found.name)
            # Not `isinstance`, which asks a proxy of Celery's for its task: it may have none here.
            own = (one for one in vars(module).values() if issubclass(type(one), type))
            yield from (one for one in own if one.__module__ == found.name)


def test_no_class_of_ours_redefines_what_its_base_keeps_private() -> None:
    """A base of another library never finds our attribute where it looks for its own."""
    redefined = {
        f"{kind.__qualname__}.{name}"
        for kind in our_classes()
        for base in kind.__mro__[1:]
        if of_them(base.__module__)
        for name in set(vars(kind)) & set(vars(base))
        if is_private(name) and name not in EXTENSION_POINTS and not name.startswith("_abc_")
    }
    assert redefined == set()


@pytest.mark.parametrize(
    "source",
    [
        "def read(span): return span._attributes",
        "from celery.app.task import Task\nclass Ours:\n    _own = 1\nTask._own = 2",
        "import kombu\nkombu.Connection()._own\n_own = 1",
        "def read(span): return span._elsewhere",
        "getattr(x, '_attributes', None)",
        "attrgetter('name', 'context._trace')",
        "vars(x)['_attributes']",
        "Patches().wrap(trace, '_set_tracer_provider', around)",
        "from opentelemetry import _logs",
        "from opentelemetry._logs import get_logger_provider",
        "import grpc._channel",
        "import_module('grpc._channel')",
        "Client(_experiments={})",
    ],
)
def test_the_search_finds(source: str) -> None:
    """Each way to write such a name is found."""
    module = parse(source)
    assert list(uses(module, defined(module) | {"_elsewhere"}))


@pytest.mark.parametrize(
    "source",
    [
        "class Ours:\n    __slots__ = ('_own',)\n    def read(self): return self._own",
        "class Ours:\n    def __init__(self): self._own = 1\n    def read(self, o): return o._own",
        "def read(x): return x.__dict__, x.name, x.__class__",
        "def read(x):\n    '''Read x._attributes.'''",
        "from taskobs.otel import _sdk_compat",
        "PREFIX = 'TASKOBS_TEST', 'snake_case', '/_all', 'a_%s'",
    ],
)
def test_the_search_passes(source: str) -> None:
    """What is ours, public or documentation is no finding."""
    module = parse(source)
    assert [str(use) for use in uses(module, defined(module) | {"_all", "_sdk_compat"})] == []
