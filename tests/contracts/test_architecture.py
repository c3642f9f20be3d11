"""Check the rules of the package's source that neither ruff nor import-linter can express."""

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.code_figures import (
    PACKAGE,
    Function,
    docstrings,
    function_lines,
    functions,
    line_count,
    measure,
    modules,
    nesting,
    tree,
    unclear_docstrings,
)

MODULES = modules()
ROOMS = sorted(init.parent for init in PACKAGE.glob("*/__init__.py"))
LARGEST_MODULE_LINES = 500
SUPERVISED = {
    "shrinks/job.py": 1,
    "policies/evaluator.py": 2,
    "policies/controller.py": 2,
    "policies/executor.py": 1,
    "policies/writer.py": 1,
    "groups/usage_history.py": 1,
    "storage/write_behind.py": 1,
    "storage/retention.py": 1,
}
"""Handlers of every exception, a module: each is the outermost frame of work on a thread of its
own, where an exception that is not logged would be lost."""
EMPTY_NAMES = frozenset(
    (
        *("utils", "util", "helpers", "helper", "common", "core", "base", "manager"),
        *("service", "services", "handler", "handlers", "impl", "info", "data"),
    )
)


def relative(module: Path) -> str:
    return str(module.relative_to(PACKAGE))


def room(module: Path) -> str:
    """Name the room of a module: the first folder or file below the package."""
    return module.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_modules(module: Path) -> Iterator[tuple[str, str]]:
    """Yield each module that is imported, dotted, with a name out of it or an empty string."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def exports(init: Path) -> set[str] | None:
    """Read `__all__` of a module, or None where it has none."""
    for node in tree(init).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if [ast.unparse(target) for target in targets] == ["__all__"]:
                return set(ast.literal_eval(node.value))
    return None


def routes() -> Iterator[tuple[Path, Function]]:
    for module in (PACKAGE / "api" / "routes").glob("*.py"):
        for function in functions(module):
            if any(
                re.match(r"\w+\.(get|post|put|patch|delete)\(", ast.unparse(decorator))
                for decorator in function.decorator_list
            ):
                yield module, function


def occurrences(pattern: str) -> int:
    return sum(len(re.findall(pattern, module.read_text())) for module in MODULES)


@pytest.mark.parametrize("folder", ROOMS, ids=lambda folder: folder.name)
def test_a_room_says_its_job_in_one_sentence_and_lists_what_it_shows(folder: Path) -> None:
    summary = (ast.get_docstring(tree(folder / "__init__.py")) or "").split("\n\n")[0]
    assert re.fullmatch(r"[^.]+(\.\w[^.]*)*\.", summary), summary
    assert exports(folder / "__init__.py") is not None


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_a_room_is_imported_through_its_package(module: Path) -> None:
    """import-linter knows which modules are imported, and not which names out of them."""
    for name, member in imported_modules(module):
        if not name.startswith("shrinkd.") or name.split(".")[1] == room(module):
            continue
        package = PACKAGE / name.split(".")[1]
        assert name.count(".") == 1, f"import {member} from the package {package.name}"
        if package.is_dir():
            assert member in (exports(package / "__init__.py") or ()), (name, member)
        else:
            assert not member.startswith("_"), (name, member)


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_every_third_party_is_named_in_a_contract(module: Path) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    known = {
        name
        for contract in settings["tool"]["importlinter"]["contracts"]
        for name in contract.get("protected_modules", ())
    }
    found = {name.split(".")[0] for name, _ in imported_modules(module)}
    typing_only = {"_typeshed"}
    assert found - sys.stdlib_module_names - known - {"shrinkd"} - typing_only == set()


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_a_module_has_500_lines_at_most(module: Path) -> None:
    """Those above 400 are listed by `make figures`; the client's types are generated."""
    assert line_count(module) <= LARGEST_MODULE_LINES or relative(module) == "client/types.py"


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_a_module_says_its_one_job_first(module: Path) -> None:
    assert ast.get_docstring(tree(module)), "no docstring"


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_no_function_is_long_or_deep(module: Path) -> None:
    assert [
        function.name
        for function in functions(module)
        if function_lines(function) > 50 or nesting(function) > 3
    ] == []


def test_functions_are_short_as_a_rule() -> None:
    assert measure().function_lines_p95 <= 25


def test_docstrings_begin_with_what_the_thing_does() -> None:
    unclear = unclear_docstrings(MODULES)
    every = sum(1 for module in MODULES for _ in docstrings(module))
    assert len(unclear) <= every * 0.05, "\n".join(unclear)


def test_no_name_is_empty() -> None:
    words = {
        word: relative(module)
        for module in MODULES
        for word in re.split(r"[/_.]", relative(module))
        if word in EMPTY_NAMES
    }
    assert words == {}


def test_everything_is_caught_at_supervised_boundaries_alone() -> None:
    handlers = (
        (relative(module), node)
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.ExceptHandler)
    )
    broad = Counter(
        name
        for name, handler in handlers
        if (handler.type is None or ast.unparse(handler.type) in {"Exception", "BaseException"})
        and not _raises_again(handler)
    )
    assert broad == SUPERVISED


def _raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_the_checkers_are_silenced_once_in_500_lines_at_most() -> None:
    assert occurrences(r"# (?:type: ignore|noqa)") <= occurrences(r"\n") / 500


def test_what_is_silenced_has_a_code() -> None:
    assert occurrences(r"# noqa(?!: [A-Z]+[0-9]+)|# type: ignore(?!\[)") == 0


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
    module: Path, function: Function
) -> None:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    assert len(body) <= 3, module
    assert [
        type(node).__name__ for node in ast.walk(function) if isinstance(node, ast.Raise | ast.Try)
    ] == []
