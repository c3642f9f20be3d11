"""The documents name every setting, operation, event, problem, metric and command that exists."""

import ast
import re
import shutil
import subprocess

import pytest

from shrinkd.api.app import build
from shrinkd.api.http.problem_types import PROBLEMS
from shrinkd.events.log import EventType
from shrinkd.policies import Reason, kinds
from shrinkd.settings import Settings
from tests.docs.pages import DOCS, REFERENCE, ROOT, all_blocks, markdown
from tests.support.live_server import Live
from tools import reference

SETTINGS = (REFERENCE / "settings.md").read_text()
API = (REFERENCE / "api.md").read_text()
GROFF = shutil.which("groff")
STATUSES = {problem.slug: problem.status for problem in PROBLEMS.values()}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_setting_has_its_row(name: str) -> None:
    assert f"| `SHRINKD_{name.upper()}` |" in SETTINGS


def test_no_setting_is_described_that_is_not_there() -> None:
    told = set(re.findall(r"^\| `SHRINKD_([A-Z_]+)` \|", SETTINGS, re.MULTILINE))
    assert told == {name.upper() for name in Settings.model_fields}


def test_every_variable_that_a_document_names_is_one() -> None:
    known = {f"SHRINKD_{name.upper()}" for name in Settings.model_fields} | {
        "SHRINKD_URL",
        "SHRINKD_TOKEN",
    }
    named = {
        (page.name, name)
        for page in markdown()
        for name in re.findall(r"\bSHRINKD_[A-Z][A-Z_]*[A-Z]\b", page.read_text())
    }
    families = ("SHRINKD_TEST", "SHRINKD_TLS")
    assert {
        (page, name) for page, name in named if name not in known and not name.startswith(families)
    } == set()


def test_every_operation_has_its_row_and_no_row_is_of_none() -> None:
    paths = build().openapi()["paths"]
    operations = {
        f"{method.upper()} {path}" for path, methods in paths.items() for method in methods
    }
    told = set(re.findall(r"^\| `([A-Z]+ /[^`]*)` \|", API, re.MULTILINE))
    assert told - {"GET /docs", "GET /openapi.json"} == operations


def test_every_type_of_events_has_its_row_and_no_row_is_of_none() -> None:
    table = (REFERENCE / "events.md").read_text().partition("## Types")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([a-z.]+)` \|", table, re.MULTILINE) == [
        str(what) for what in EventType
    ]


def test_every_kind_of_policy_has_its_row() -> None:
    table = (
        (DOCS / "how-to" / "policies.md")
        .read_text()
        .partition("## Choose a kind")[2]
        .partition("\n## ")[0]
    )
    assert {"kind"} ^ set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(kinds())


def test_every_problem_that_a_document_names_has_that_status() -> None:
    named = {
        found
        for page in markdown()
        for found in re.findall(r"\b([45]\d\d) `([a-z]+(?:-[a-z]+)+)`", page.read_text())
    }
    assert {(status, slug) for status, slug in named if STATUSES.get(slug) != int(status)} == set()


def test_every_reason_in_the_guide_is_one() -> None:
    section = (
        (DOCS / "how-to" / "troubleshoot.md")
        .read_text()
        .partition("## A policy does nothing")[2]
        .partition("\n## ")[0]
    )
    rows = [row for row in section.splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named
    assert named <= {str(reason) for reason in Reason}


def texts() -> set[str]:
    """Collect every string of the program; … stands for what is filled in."""
    found = set()
    for module in (ROOT / "app" / "shrinkd").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (
                    part.value if isinstance(part, ast.Constant) else "…" for part in node.values
                )
                found.add("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


@pytest.mark.parametrize("page", ["troubleshoot.md", "upgrade.md"])
def test_every_message_that_a_guide_quotes_is_one_of_the_program(page: str) -> None:
    table = (DOCS / "how-to" / page).read_text().partition("\n| stderr says |")[2]
    rows = table.split("\n\n")[0].splitlines()
    quoted = [text for row in rows for text in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    assert quoted
    said = texts()
    fixed = [max(text.split("…"), key=len) for text in quoted]
    assert [part for part in fixed if not any(part in text for text in said)] == []


def test_every_metric_of_ours_has_its_row(server: Live) -> None:
    families = set(
        re.findall(r"^# TYPE (shrinkd_\w+)", server.client.get("/metrics").text, re.MULTILINE)
    )
    told = set(
        re.findall(
            r"^\| `(shrinkd_\w+)` \|", (DOCS / "how-to" / "monitor.md").read_text(), re.MULTILINE
        )
    )
    assert told == families


def test_the_page_of_the_command_line_is_what_the_commands_say() -> None:
    assert (REFERENCE / "command-line.md").read_text() == reference.command_line_page(), (
        "say `make reference`"
    )


def test_the_page_of_problems_is_the_table_of_the_program() -> None:
    assert (REFERENCE / "problems.md").read_text() == reference.problems_page(), (
        "say `make reference`"
    )


def test_the_man_page_has_every_command_option_setting_and_exit_code() -> None:
    page = reference.man_page()
    for command in reference.commands()[1:]:
        assert f".SS {command.name.replace('-', chr(92) + '-')}\n" in page
        for form, _ in command.options:
            assert form == "--help" or f".B {form.replace('-', chr(92) + '-')}\n" in page
    assert [
        name for name in Settings.model_fields if f".B SHRINKD_{name.upper()}\n" not in page
    ] == []
    assert set(re.findall(r"^\.B (\d+)$", page, re.MULTILINE)) == {"0", "1", "2", "3", "75", "130"}
    assert "](" not in page


@pytest.mark.skipif(GROFF is None, reason="groff is not installed")
def test_the_man_page_is_roff_without_a_warning() -> None:
    command = [str(GROFF), "-man", "-ww", "-z", "-Kutf8"]
    done = subprocess.run(
        command, input=reference.man_page(), capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_every_command_that_a_document_shows_is_one() -> None:
    names = {command.name for command in reference.commands()}
    text = "\n".join(block.text for language in ("sh", "console") for block in all_blocks(language))
    shown = set(re.findall(r"(?:^|\$ |\| |bin/)(shrinkd(?: [a-z]+)*)", text, re.MULTILINE))
    unknown = [
        call
        for call in shown
        if not any(call == name or call.startswith(f"{name} ") for name in names - {"shrinkd"})
    ]
    assert unknown == []


def test_the_makefile_has_every_target_that_a_document_names() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name for page in markdown() for name in re.findall(r"`make ([a-z-]+)", page.read_text())
    }
    assert named - targets == set()
