"""Installations fetch only packages that a lock file names with their hashes."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

LOCKS = sorted([*ROOT.glob("requirements*.lock"), *ROOT.glob("packaging/*/requirements.lock")])
PROJECTS = [ROOT / "pyproject.toml", ROOT / "packaging" / "client" / "pyproject.toml"]
PIP = re.compile(r"(?:\$\(pip\)|\bpip)(?: --\S+)* (?:install|wheel)\b.*")


def named_by(lock: Path) -> dict[str, str]:
    """The blocks of a lock file, by the names of their packages."""
    blocks = lock.read_text().replace("\\\n", " ").splitlines()
    return {block.partition("==")[0]: block for block in blocks if not block.startswith("#")}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.relative_to(ROOT)))
def test_a_lock_file_has_names_versions_and_hashes_and_nothing_else(lock: Path) -> None:
    blocks = named_by(lock)
    assert blocks
    form = re.compile(
        r"[\w.-]+(\[[\w,-]+\])?==[\w.+!-]+( ;[^-]+?)?(\s+--hash=sha256:[0-9a-f]{64})+"
    )
    assert [block for block in blocks.values() if not form.fullmatch(block.strip())] == []


@pytest.mark.parametrize("name", ["Makefile", "Dockerfile"])
def test_pip_gets_hashed_requirements_or_what_is_here(name: str) -> None:
    calls = [line for line in (ROOT / name).read_text().splitlines() if PIP.search(line)]
    assert len(calls) >= 3
    unnamed = [
        call
        for call in calls
        if "--require-hashes" not in call
        and not ("--no-deps" in call and ("--no-build-isolation" in call or "--no-index" in call))
    ]
    # uv only writes the lock files, and what it writes is reviewed
    assert [call for call in unnamed if not call.endswith("install --quiet uv")] == []


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: str(project.relative_to(ROOT)))
def test_the_build_backend_is_locked(project: Path) -> None:
    required = tomllib.loads(project.read_text())["build-system"]["requires"]
    names = {re.split(r"[<>=!~\[ ]", each)[0] for each in required}
    assert names <= named_by(ROOT / "requirements-build.lock").keys()


def test_both_distributions_have_one_command_one_version_and_one_python() -> None:
    server, client = (tomllib.loads(project.read_text()) for project in PROJECTS)
    for key in ("scripts", "requires-python", "license", "dynamic"):
        assert server["project"][key] == client["project"][key]
    assert server["build-system"] == client["build-system"]
    assert set(client["project"]["dependencies"]) <= set(server["project"]["dependencies"])
