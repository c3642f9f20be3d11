"""Say at the end of a run, in one line, what was skipped and what to install or do for it.

A skip reason names its remedy: "… is not installed", or a command behind a colon.
"""

import re
from collections.abc import Generator, Iterable

import pytest

_PACKAGE_OF = {"groff": "groff-base", "postgres": "postgresql", "cc": "gcc"}
"""Debian packages of programs, where the names differ."""
_INSTALL = re.compile(r"apt-get install ([\w .+-]+)$")
_MISSING_PROGRAM = re.compile(r"([\w-]+)(?: and [\w-]+)? (?:is|are) not installed")
_COMMAND = re.compile(r": (?:say )?(make [\w-]+|tests/vm/fetch-kernel)$")
_ROOT = re.compile(r"\b(?:only root|needs root|not ours to write)\b")


def remedy(reason: str) -> tuple[list[str], str | None]:
    """Find the packages to install and the command to run for a skipped test.

    Neither is known where another kernel or host would be needed.
    """
    if found := _INSTALL.search(reason):
        return found[1].split(), None
    if found := _MISSING_PROGRAM.search(reason):
        return [_PACKAGE_OF.get(found[1], found[1])], None
    if found := _COMMAND.search(reason):
        return [], found[1]
    return [], "run as root" if _ROOT.search(reason) else None


def summary(reasons: Iterable[str]) -> str | None:
    """Sum up the reasons of all skipped tests in one line, or None when there are none."""
    skipped = list(reasons)
    if not skipped:
        return None
    remedies = [remedy(reason) for reason in skipped]
    packages = dict.fromkeys(package for names, _ in remedies for package in names)
    steps = [f"apt-get install {' '.join(packages)}"] if packages else []
    steps += dict.fromkeys(command for _, command in remedies if command)
    without = sum(not names and not command for names, command in remedies)
    line = f"Skipped: {len(skipped)} {'test' if len(skipped) == 1 else 'tests'}."
    if steps:
        line += f" To run them: {'; '.join(steps)}."
    if without:
        line += f" {without} of them cannot run on this host: see the reasons above."
    return line


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> Generator[None, None, None]:
    """Print the line behind pytest's own list of reasons, which is in a wrapper, too."""
    yield
    line = summary(
        str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        for report in terminalreporter.stats.get("skipped", ())
    )
    if line:
        terminalreporter.write_line(line)
