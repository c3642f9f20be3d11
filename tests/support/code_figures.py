"""Measure the source of the package: sizes of modules and functions, lines, docstrings.

python -m tests.support.code_figures [FOLDER]
"""

import ast
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.checkout import ROOT

PACKAGE = ROOT / "app" / "shrinkd"
LARGE_LINES = 400
"""Above this, a module is listed: it may be two concepts."""
_UNCLEAR_OPENING = re.compile(r"(What|Who|How|As|Where|When|Whether|Those|That|One)\b")
_BLOCKS = (
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
Function = ast.FunctionDef | ast.AsyncFunctionDef
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(module: Path) -> ast.Module:
    """Parse a module; the result is cached."""
    return ast.parse(module.read_text())


def modules(package: Path = PACKAGE) -> list[Path]:
    """List every module of the package."""
    return sorted(package.rglob("*.py"))


def line_count(module: Path) -> int:
    return len(module.read_text().splitlines())


def functions(module: Path) -> Iterator[Function]:
    """Yield every function and method of a module, inner ones included."""
    yield from (node for node in ast.walk(tree(module)) if isinstance(node, Function))


def function_lines(function: Function) -> int:
    """Count the lines from the first statement to the last, the docstring left out."""
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - statements[0].lineno + 1 if statements else 0


def nesting(node: ast.AST) -> int:
    """Count how many blocks stand inside each other.

    An elif is no deeper than its if, and an inner function starts again at zero.
    """
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef | ast.Lambda):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, nesting(child) + (isinstance(child, _BLOCKS) and not is_elif))
    return deepest


def docstrings(module: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring of a module, its classes and functions."""
    for node in ast.walk(tree(module)):
        if isinstance(node, _Documented) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text


def unclear_docstrings(found: list[Path]) -> list[str]:
    """List the docstrings whose first word does not say what the thing does."""
    return [
        f"{module}:{line}: {text.splitlines()[0]}"
        for module in found
        for line, text in docstrings(module)
        if _UNCLEAR_OPENING.match(text)
    ]


@dataclass(frozen=True, slots=True)
class Figures:
    """Sizes of one package, in lines and columns."""

    modules: int
    modules_of_largest_folder: int
    longest_module_lines: int
    functions: int
    function_lines_p95: int
    longest_function_lines: int
    columns_p90: int
    docstrings: int
    unclear_docstrings: int


def measure(package: Path = PACKAGE) -> Figures:
    """Measure a package. Columns are those of lines that are not empty."""
    found = modules(package)
    lengths = [function_lines(function) for module in found for function in functions(module)]
    columns = [len(line) for module in found for line in module.read_text().splitlines() if line]
    return Figures(
        modules=len(found),
        modules_of_largest_folder=max(Counter(module.parent for module in found).values()),
        longest_module_lines=max(map(line_count, found)),
        functions=len(lengths),
        function_lines_p95=round(statistics.quantiles(lengths, n=20)[-1]),
        longest_function_lines=max(lengths),
        columns_p90=round(statistics.quantiles(columns, n=10)[-1]),
        docstrings=sum(1 for module in found for _ in docstrings(module)),
        unclear_docstrings=len(unclear_docstrings(found)),
    )


def report(package: Path = PACKAGE) -> Iterator[str]:
    """Yield the lines of the report: the figures, then the modules above LARGE_LINES."""
    figures = measure(package)
    yield (
        f"{figures.modules} modules, {figures.modules_of_largest_folder} in the largest folder, "
        f"{figures.longest_module_lines} lines in the longest"
    )
    yield (
        f"{figures.functions} functions, p95 {figures.function_lines_p95} lines, "
        f"longest {figures.longest_function_lines}; columns p90 {figures.columns_p90}"
    )
    yield (
        f"{figures.docstrings} docstrings, {figures.unclear_docstrings} begin with "
        "What, Who, How, As or the like"
    )
    large = [module for module in modules(package) if line_count(module) > LARGE_LINES]
    if large:
        yield f"modules over {LARGE_LINES} lines: " + ", ".join(
            f"{module.relative_to(package)} {line_count(module)}" for module in large
        )


if __name__ == "__main__":
    for each in report(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE):
        sys.stdout.write(f"{each}\n")
