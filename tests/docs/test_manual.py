"""The manual is built without a warning, loads nothing from elsewhere, and shows its pictures."""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from tests.dashboard.test_swagger_page import look_at, needs_chromium
from tests.docs.pages import DOCS, ROOT, all_blocks

BUILDER = ROOT / ".venv-docs"
MERMAID = DOCS / "assets" / "mermaid"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manual, built as `make docs` does, into a folder of the test."""
    made = subprocess.run(
        ["make", "--silent", ".venv-docs/made"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"what builds the manual cannot be had: {made.stderr.strip().splitlines()[-1]}")
    folder = tmp_path_factory.mktemp("site")
    command = [
        str(BUILDER / "bin" / "mkdocs"),
        "--quiet",
        "build",
        "--strict",
        "--site-dir",
        str(folder),
    ]
    built = subprocess.run(
        command,
        cwd=ROOT,
        env={"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (built.returncode, built.stderr) == (0, "")
    return folder


@pytest.mark.long
def test_the_manual_is_built_without_a_warning_and_has_every_page(site: Path) -> None:
    pages = {path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.md")}
    assert (
        pages - {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")} == set()
    )


@pytest.mark.long
def test_a_page_of_the_manual_loads_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(
        r'<(?:script|img|iframe|source)[^>]+src="?(https?:)?//|<link[^>]+href="?(https?:)?//|url\(["\']?https?:'
    )
    found = [
        path.name
        for path in (*site.rglob("*.html"), *site.rglob("*.css"))
        if loads.search(path.read_text())
    ]
    assert found == []


@pytest.mark.long
@needs_chromium
def test_a_browser_without_a_network_draws_every_picture(site: Path, tmp_path: Path) -> None:
    page = look_at(f"file://{site}/explanation/architecture.html", tmp_path)
    assert page.stdout.count('<div class="mermaid"') == len(all_blocks("mermaid")) == 5
    assert '<pre class="mermaid"' not in page.stdout


def test_mermaid_is_the_published_one_byte_for_byte() -> None:
    rows = [line.split() for line in (MERMAID / "MANIFEST.sha256").read_text().splitlines()]
    assert {name for _, name in rows} == {path.name for path in MERMAID.iterdir()} - {
        "MANIFEST.sha256"
    }
    assert [
        name
        for digest, name in rows
        if hashlib.sha256((MERMAID / name).read_bytes()).hexdigest() != digest
    ] == []
