"""The API page in a real browser, with no network but the daemon.

It loads the copy of Swagger UI that the daemon serves.
"""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from shrinkd.api.routes.docs import UI_FILES
from tests.support.live_server import Live

CHROMIUM = shutil.which("chromium")
OURS = {"MANIFEST.sha256", "favicon.svg", "init.js", "pages.css"}

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def look_at(url: str, profile: Path) -> subprocess.CompletedProcess[str]:
    """Render a page with every host but the loopback unknown.

    Stdout is the DOM, stderr the console.
    """
    flags = (
        "headless=new no-sandbox disable-gpu disable-quic no-first-run "
        "disable-background-networking disable-component-update disable-sync"
    )
    command = [
        CHROMIUM or "",
        *(f"--{flag}" for flag in flags.split()),
        f"--user-data-dir={profile}",
    ]
    command += [
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--enable-logging=stderr",
    ]
    return subprocess.run(
        [*command, "--virtual-time-budget=20000", "--dump-dom", url],
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.long
@needs_chromium
def test_the_docs_show_every_operation_without_a_network_and_without_a_word_on_the_console(
    server: Live, tmp_path: Path
) -> None:
    page = look_at(f"{server.url}/docs", tmp_path)
    operations = [
        f'id="operations-{operation["tags"][0]}-{operation["operationId"]}"'
        for path in server.client.get("/openapi.json").json()["paths"].values()
        for operation in path.values()
    ]
    assert operations
    assert [operation for operation in operations if operation not in page.stdout] == []
    assert [line for line in page.stderr.splitlines() if "CONSOLE" in line] == []


@pytest.mark.long
@needs_chromium
def test_the_docs_offer_to_try_an_operation_with_a_body_that_makes_sense(
    server: Live, tmp_path: Path
) -> None:
    page = look_at(f"{server.url}/docs#/shrinks/create_shrink", tmp_path)
    assert "Shrink, then set the limit" in page.stdout
    assert ">Execute</button>" in page.stdout


@needs_chromium
def test_a_problem_page_has_its_style(server: Live, tmp_path: Path) -> None:
    page = look_at(f"{server.url}/problems/limit-below-usage", tmp_path)
    assert "no page of cache was dropped" in page.stdout
    assert [line for line in page.stderr.splitlines() if "CONSOLE" in line] == []


@pytest.mark.parametrize("path", ["/docs", "/problems", "/problems/shrink-stalled"])
def test_a_page_allows_the_browser_nothing_from_elsewhere(server: Live, path: str) -> None:
    policy = server.client.get(path).headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; img-src 'self' data:;")
    assert "unsafe" not in policy
    assert "http" not in policy


@pytest.mark.parametrize("name", sorted(path.name for path in UI_FILES.iterdir()))
def test_a_static_file_is_served_with_its_type(server: Live, name: str) -> None:
    answer = server.client.get(f"/ui/{name}")
    types = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(types.get(Path(name).suffix, "")), (
        answer.headers["content-type"]
    )


def test_swagger_ui_is_the_published_one_byte_for_byte() -> None:
    rows = (line.split() for line in (UI_FILES / "MANIFEST.sha256").read_text().splitlines())
    wanted = {name: digest for digest, name in rows}
    assert wanted == {
        name: hashlib.sha256((UI_FILES / name).read_bytes()).hexdigest() for name in wanted
    }
    assert {path.name for path in UI_FILES.iterdir()} - set(wanted) == OURS
