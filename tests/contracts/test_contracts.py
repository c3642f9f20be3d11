"""Check the changelog, the table of problems and the committed files against the code."""

import inspect
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from shrinkd import __version__, errors
from shrinkd.api.http.problem_types import PROBLEMS, Problem
from shrinkd.errors import ShrinkdError
from tests.support.checkout import ROOT

ERRORS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, ShrinkdError)
]
_HOSTS = (
    "pypi" + ".org",
    "pythonhosted" + ".org",
    "npmjs" + ".org",
    "npmjs" + ".com",
    "debian" + ".org",
    "docker" + ".io",
    "index" + "-url",
)
_PLACES = ("/" + "work/", "/" + "opt/pypi", "/" + "opt/wheels", "/" + "root/", "find" + "-links")


def committed() -> list[Path]:
    """List the files of the repository and the new ones that are not ignored.

    The list is empty where there is no git.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def naming(words: tuple[str, ...]) -> list[str]:
    """Find one of these texts in the committed files, Swagger UI excepted."""
    pattern = re.compile("|".join(map(re.escape, words)).encode())
    ours = [path for path in committed() if not path.name.startswith("swagger-ui")]
    return [
        f"{path.relative_to(ROOT)}: {found[0].decode()}"
        for path in ours
        if (found := pattern.search(path.read_bytes()))
    ]


def test_the_version_is_the_newest_of_the_changelog() -> None:
    versions = re.findall(
        r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$",
        (ROOT / "CHANGELOG.md").read_text(),
        re.MULTILINE,
    )
    assert versions[0] == __version__


def test_the_changelog_sorts_its_entries_by_what_kind_of_change_they_are() -> None:
    _, *versions = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert versions[0].startswith("[Unreleased]\n")
    kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    for version in versions:
        found = re.findall(r"^### (.+)$", version, re.MULTILINE)
        assert found == [kind for kind in kinds if kind in found], version.splitlines()[0]
        loose = [
            line
            for line in version.partition("### ")[2].splitlines()[1:]
            if not line.startswith(("- ", "  ", "### ")) and line
        ]
        assert loose == []


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_has_its_own_row_in_the_table_of_problems(kind: type[ShrinkdError]) -> None:
    assert kind in PROBLEMS
    assert PROBLEMS[kind].advice


def test_a_slug_has_one_meaning() -> None:
    meanings: dict[str, set[Problem]] = defaultdict(set)
    for problem in PROBLEMS.values():
        meanings[problem.slug].add(problem)
    assert {slug: found for slug, found in meanings.items() if len(found) > 1} == {}


def test_a_slug_can_stand_in_an_address() -> None:
    assert [
        problem.slug
        for problem in PROBLEMS.values()
        if not re.fullmatch(r"[a-z]+(-[a-z]+)*", problem.slug)
    ] == []


def test_committed_files_name_no_registry() -> None:
    assert naming(_HOSTS) == []


def test_committed_files_name_no_place_of_this_machine() -> None:
    assert naming(_PLACES) == []


@pytest.mark.parametrize(
    "name",
    [
        "requirements.lock",
        "requirements-dev.lock",
        "requirements-client.lock",
        "requirements-docs.lock",
    ],
)
def test_a_lock_holds_names_versions_and_hashes_only(name: str) -> None:
    allowed = re.compile(
        r"[a-z0-9-]+(\[[a-z,]+\])?==[\w.]+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?"
    )
    assert [
        line for line in (ROOT / name).read_text().splitlines() if not allowed.fullmatch(line)
    ] == []


def test_the_lock_of_the_tests_holds_what_the_product_runs_on() -> None:
    def pins(name: str) -> set[str]:
        return {
            line.partition(" ")[0]
            for line in (ROOT / name).read_text().splitlines()
            if "==" in line
        }

    assert pins("requirements.lock") <= pins("requirements-dev.lock")
