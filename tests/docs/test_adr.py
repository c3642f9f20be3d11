"""Decision records are numbered without a gap, have one form, and are listed in their index."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "adr"
RECORDS = sorted(FOLDER.glob("[0-9]*.md"))
SECTIONS = ["Context", "Decision", "Cost", "Rejected"]


def title(record: Path) -> str:
    return record.read_text().splitlines()[0].removeprefix("# ")


def sections(record: Path) -> dict[str, str]:
    _, *parts = re.split(r"^## (.+)\n", record.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[::2], map(str.strip, parts[1::2]), strict=True))


def test_records_are_numbered_from_one_without_a_gap() -> None:
    assert [int(record.name[:4]) for record in RECORDS] == list(range(1, len(RECORDS) + 1))


def test_every_decision_taken_over_from_the_old_list_has_its_record() -> None:
    assert len(RECORDS) >= 62


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem[:4])
def test_a_record_has_a_title_a_status_and_its_four_sections_in_order(record: Path) -> None:
    text = record.read_text()
    status = r"Status: (accepted|superseded by \d{4}), \d{4}-\d\d-\d\d"
    assert re.match(rf"# {record.name[:4]}\. [A-Z0-9].+\n\n{status}\n\n## ", text)
    found = sections(record)
    assert list(found) == SECTIONS
    assert [name for name, body in found.items() if not body] == []


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem[:4])
def test_a_record_is_named_for_its_title(record: Path) -> None:
    assert record.stem == re.sub(r"[^a-z0-9]+", "-", title(record).lower()).strip("-")


def test_the_index_lists_each_record_once_in_order_by_its_title() -> None:
    listed = re.findall(r"^- \[(.+)\]\((.+)\)$", (FOLDER / "index.md").read_text(), re.MULTILINE)
    assert listed == [(title(record), record.name) for record in RECORDS]
