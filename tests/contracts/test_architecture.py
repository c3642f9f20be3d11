"""The house keeps its order: what a program can read of its rules, held against app/."""

import ast
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

APP = ROOT / "app" / "shrinkd"
MODULES = sorted(APP.rglob("*.py"))

FLOORS = (
    {"__main__"},
    {"commands"},
    {"main", "serve"},
    {"protocol", "handshakes"},
    {"api"},
    {"simulations"},
    {"simulation"},
    {"metrics"},
    {"daemon"},
    {"registry", "history", "decisions", "wakes", "conditions"},
    {"engine"},
    {"records"},
    {"arbiter"},
    {"guards"},
    {"jobs"},
    {"job"},
    {"intents", "events", "keys", "audit"},
    {"store", "policies"},
    {"ledger"},
    {"database"},
    {"migration"},
    {"revisions"},
    {"tables"},
    {"memcontrol"},
    {"refusals"},
    {"backends"},
    {"tokens", "peers"},
    {"closed"},
    {"client", "screen"},
    {"memparse", "aliases", "callers", "streams"},
    {"settings", "logs", "handing"},
    {"errors", "terminal"},
)
"""From the roof down: a room imports from the floors below its own, and its own modules."""
ROOMS_OF = {
    "fastapi": {"api", "main", "serve"},
    "starlette": {"api", "main", "serve"},
    "uvicorn": {"serve", "protocol"},
    "sqlalchemy": {"store", "ledger", "database", "migration", "revisions", "tables"},
    "alembic": {"revisions"},
    "typer": {"__main__", "commands"},
    "httpx": {"client"},
    "cronsim": {"policies"},
    "pydantic": {"api", "backends", "closed", "policies", "settings", "simulation", "tokens"},
    "pydantic_core": {"api"},
    "prometheus_client": {"api", "metrics"},
}
"""The third parties that app may use, each with the rooms that know it."""
EMPTY_NAMES = frozenset(
    (
        *("utils", "util", "helpers", "helper", "common", "core", "base", "manager"),
        *("service", "services", "handler", "handlers", "impl", "info", "data"),
    )
)
_OPENING = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.With,
    ast.AsyncWith,
    ast.Try,
    ast.TryStar,
    ast.Match,
)
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text())


def room(module: Path) -> str:
    """The first name below app: a file or a folder is a room, and app itself is "app"."""
    parts = module.relative_to(APP).with_suffix("").parts
    return "app" if parts == ("__init__",) else parts[0]


def floor(name: str) -> int:
    return next(height for height, rooms in enumerate(FLOORS) if name in rooms)


def imports(module: Path) -> Iterator[str]:
    """Every module that is imported anywhere in it, as a dotted name."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (
                (f"{node.module}.{alias.name}" for alias in node.names)
                if node.module == "app"
                else [node.module]
            )


def functions(module: Path) -> Iterator[_Function]:
    yield from (node for node in ast.walk(tree(module)) if isinstance(node, _Function))


def length(function: _Function) -> int:
    """Lines from the first statement to the last, the docstring left out."""
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - statements[0].lineno + 1 if statements else 0


def depth(node: ast.AST) -> int:
    """How many blocks stand in each other.

    An elif is no deeper than its if, and a function inside begins anew.
    """
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Function | ast.ClassDef | ast.Lambda):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, depth(child) + (isinstance(child, _OPENING) and not is_elif))
    return deepest


def routes() -> Iterator[tuple[Path, _Function]]:
    for module in (APP / "api").glob("*.py"):
        for function in functions(module):
            if any(
                re.match(r"(router|hot)\.(get|post|put|patch|delete)\(", ast.unparse(mark))
                for mark in function.decorator_list
            ):
                yield module, function


def count(pattern: str) -> int:
    return sum(len(re.findall(pattern, module.read_text())) for module in MODULES)


def named(module: Path) -> str:
    return str(module.relative_to(APP))


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_imports_point_down(module: Path) -> None:
    here = room(module)
    rooms = {name.split(".")[1] for name in imports(module) if name.startswith("app.")} - {
        here,
        "__version__",
    }
    assert {name for name in rooms if here == "app" or floor(name) <= floor(here)} == set()


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_third_parties_stay_in_their_rooms(module: Path) -> None:
    outside = {name.split(".")[0] for name in imports(module)} & ROOMS_OF.keys()
    assert {name for name in outside if room(module) not in ROOMS_OF[name]} == set()


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_every_third_party_has_a_room(module: Path) -> None:
    known = sys.stdlib_module_names | ROOMS_OF.keys() | {"app"}
    assert {name.split(".")[0] for name in imports(module)} - known == set()


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_a_module_fits_in_a_head(module: Path) -> None:
    assert len(module.read_text().splitlines()) <= 400


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_a_module_says_its_one_job_first(module: Path) -> None:
    assert ast.get_docstring(tree(module)), "no docstring"


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_no_function_is_long_or_deep(module: Path) -> None:
    assert [
        function.name
        for function in functions(module)
        if length(function) > 50 or depth(function) > 3
    ] == []


def test_functions_are_short_as_a_rule() -> None:
    lengths = [length(function) for module in MODULES for function in functions(module)]
    assert statistics.quantiles(lengths, n=20)[-1] <= 25  # the 95th percentile


def test_no_name_is_empty() -> None:
    words = {
        word: named(module)
        for module in MODULES
        for word in re.split(r"[/_.]", named(module))
        if word in EMPTY_NAMES
    }
    assert words == {}


def test_app_has_at_most_five_folders() -> None:
    assert (
        len([path for path in APP.iterdir() if path.is_dir() and path.name != "__pycache__"]) <= 5
    )


def test_everything_is_caught_at_supervised_boundaries_alone() -> None:
    """A job.

    One policy's look; a round, what it grants, and the writing behind it, each on a thread where
    nobody else would see it.
    """
    handlers = (
        (module.name, node)
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.ExceptHandler)
    )
    broad = [
        each
        for each in handlers
        if each[1].type is None or ast.unparse(each[1].type) in {"Exception", "BaseException"}
    ]
    found = Counter(name for name, handler in broad if not _raises_again(handler))
    assert found == {"jobs.py": 1, "engine.py": 1, "daemon.py": 4, "history.py": 1}


def _raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_the_checkers_are_silenced_once_in_500_lines_at_most() -> None:
    assert count(r"# (?:type: ignore|noqa)") <= count(r"\n") / 500


def test_what_is_silenced_has_a_code() -> None:
    assert count(r"# noqa(?!: [A-Z]+[0-9]+)|# type: ignore(?!\[)") == 0


def test_nothing_is_printed_but_where_it_is_made_harmless_to_a_terminal() -> None:
    calls = (
        (module, node.func)
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call)
    )
    printing = {
        room(module)
        for module, called in calls
        if re.fullmatch(r"print|.*\b(echo|secho|std(out|err)\.write)", ast.unparse(called))
    }
    assert printing == {"terminal"}


def test_there_are_routes_to_look_at() -> None:
    assert len(list(routes())) > 20


@pytest.mark.parametrize(
    ("module", "function"), list(routes()), ids=lambda value: getattr(value, "name", "")
)
def test_a_route_is_three_statements_that_neither_raise_nor_try(
    module: Path, function: _Function
) -> None:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    assert len(body) <= 3, module
    assert [
        type(node).__name__ for node in ast.walk(function) if isinstance(node, ast.Raise | ast.Try)
    ] == []
