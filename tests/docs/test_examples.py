"""Examples in the documents work: commands run on a simulated node and answer what is shown."""

import ast
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shrinkd.settings import Settings
from tests.docs.pages import DOCS, ROOT, Block, all_blocks, blocks, markdown
from tests.support.live_server import Live

BIN = ROOT / ".venv" / "bin"
ADDRESS = "http://127.0.0.1:8080"
TYPED = [page for page in markdown() if any(block.language == "console" for block in blocks(page))]
LANGUAGES = {"console", "ini", "json", "mermaid", "python", "sh", "text"}


def steps(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a block, and the answer that is shown behind it; "" where none is."""
    for step in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, answer = step.partition("\n")
        yield command, answer.strip()


def pattern(answer: str) -> re.Pattern[str]:
    """Compile a shown answer: white space does not count, and … stands for anything."""
    parts = map(re.escape, re.sub(r"\s", "", answer).split("…"))
    return re.compile(".*".join(parts), re.DOTALL)


def typed(command: str, url: str) -> str:
    """Type a command in a shell, and answer its output."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SHRINKD_")}
    environ |= {"SHRINKD_URL": url, "PATH": f"{BIN}:{environ['PATH']}"}
    silent = re.sub(r"^curl ", "curl --no-progress-meter ", command.replace(ADDRESS, url))
    done = subprocess.run(
        ["bash", "-c", silent], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", TYPED, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_answer_what_it_shows(page: Path, server: Live) -> None:
    for block in blocks(page):
        for command, answer in steps(block) if block.language == "console" else ():
            output = typed(command, server.url)
            if answer:
                assert pattern(answer).fullmatch(re.sub(r"\s", "", output)), f"{command}\n{output}"
            elif command.startswith("curl"):
                assert '"type":"/problems/' not in output, f"{command}\n{output}"


@pytest.mark.parametrize("block", all_blocks("python"), ids=lambda block: block.where)
def test_python_that_is_shown_compiles(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("block", all_blocks("python"), ids=lambda block: block.where)
def test_python_that_is_shown_runs(block: Block, server: Live) -> None:
    environ = os.environ | {"SHRINKD_URL": server.url}
    done = subprocess.run(
        [BIN / "python", "-c", block.text], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", all_blocks("sh"), ids=lambda block: block.where)
def test_a_shell_reads_what_is_shown(block: Block) -> None:
    done = subprocess.run(
        ["bash", "-n"], input=block.text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("block", all_blocks("json"), ids=lambda block: block.where)
def test_json_that_is_shown_is_json(block: Block) -> None:
    json.loads(block.text)


def test_the_scenario_that_is_shown_can_be_simulated(settings: Settings, tmp_path: Path) -> None:
    (scenario,) = [
        block for block in blocks(DOCS / "how-to" / "simulate.md") if block.language == "json"
    ]
    (tmp_path / "my.json").write_text(scenario.text)
    with Live(settings.model_copy(update={"scenario": str(tmp_path / "my.json")})) as live:
        assert [group["path"] for group in live.client.get("/v1/groups").json()["items"]] == ["web"]


def test_every_block_says_what_language_it_is_in() -> None:
    assert {
        block.where
        for page in markdown()
        for block in blocks(page)
        if block.language not in LANGUAGES
    } == set()
