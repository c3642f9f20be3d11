"""Every link and every file that the documents name leads somewhere, and the README stays short."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, anchors, links, markdown, prose

PAGES = markdown()
PACKAGE = ROOT / "app" / "shrinkd"
_PLACES = ("app/", "bench/", "docs/", "openapi/", "packaging/", "tests/", "tools/")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_inside_of_the_repository_leads_to_a_file_and_to_a_heading_of_it(page: Path) -> None:
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        name, _, fragment = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{link} leads to no file"
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        assert not fragment or fragment in anchors(target), f"{link} leads to no heading"


@pytest.mark.parametrize(
    "page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS))
)
def test_a_page_of_the_manual_links_to_nothing_outside_of_the_manual(page: Path) -> None:
    inside = [link for link in links(page) if not link.startswith("http")]
    outside = [
        link
        for link in inside
        if not (page.parent / link.partition("#")[0]).resolve().is_relative_to(DOCS)
    ]
    assert outside == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_file_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`([\w./-]+)`", prose(page))
    ours = [
        name
        for name in named
        if name.startswith(_PLACES) and not name.startswith("app/shrinkd") and "NAME" not in name
    ]
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert [name for name in ours if not (ROOT / name).exists()] == []
    assert {name for name in named if re.fullmatch(r"test_\w+\.py", name)} - tests == set()


def test_a_module_or_a_room_that_a_page_names_is_there() -> None:
    elsewhere = (*_PLACES[1:], "build/", "dist/", "site/", "var/", "test_", "/")
    named = [
        (page, name)
        for page in PAGES
        for name in re.findall(r"`([\w./-]+(?:\.py|/))`", prose(page))
    ]
    ours = [
        (page, name.removeprefix("app/").removeprefix("shrinkd/"))
        for page, name in named
        if not name.startswith(elsewhere) and "NAME" not in name
    ]
    tops = (PACKAGE, PACKAGE / "policies", PACKAGE / "backends")
    assert [
        (page.name, name) for page, name in ours if not any((top / name).exists() for top in tops)
    ] == []


def test_the_architecture_page_has_every_room() -> None:
    page = (DOCS / "explanation" / "architecture.md").read_text()
    table = page.partition("| room | its one job |")[2].partition("\n\n")[0]
    rooms = {f"{init.parent.name}/" for init in PACKAGE.glob("*/__init__.py")}
    rooms |= {path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}
    named = set(re.findall(r"`(\w+(?:\.py|/))", table))
    assert rooms - named == set()


def test_the_readme_is_at_most_six_kilobytes() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 6144


def test_the_readme_or_the_index_leads_to_every_page_but_the_records() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in (ROOT / "README.md", DOCS / "index.md")
        for link in links(page)
    }
    pages = {
        page for page in DOCS.rglob("*.md") if page.parent.name != "adr" or page.name == "index.md"
    }
    assert pages - linked - {DOCS / "index.md"} == set()
