"""The commands: what they print, for people and as JSON, and how they end."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from shrinkd.backends.simulator.backend import Simulator
from shrinkd.backends.simulator.controls import Scenario
from shrinkd.cli import output
from shrinkd.cli.app import cli
from shrinkd.settings import Settings
from tests.support.live_server import Live
from tests.support.shrink_requests import running

SLOWLY = ("shrink", "web", "--to", "200M", "--rate", "1M")


class Shell:
    """A shell whose SHRINKD_URL is the live server's."""

    def __init__(self, server: Live) -> None:
        self.server = server
        self._environ = {
            name: value for name, value in os.environ.items() if not name.startswith("SHRINKD_")
        }

    def __call__(self, *words: str, says: str = "", code: int = 0) -> str:
        """Run a command to its end, and answer what it printed.

        With a code that is not 0, what it said on stderr.
        """
        ended = self.run(*words, says=says)
        assert ended.exit_code == code, ended.output
        return ended.stderr if code else ended.stdout

    def run(self, *words: str, says: str = "") -> Result:
        return CliRunner(env={"SHRINKD_URL": self.server.url}).invoke(
            cli, words, input=says, prog_name="shrinkd"
        )

    def start(self, *words: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start a command as a process, for what only a process can: signals and terminals."""
        environ = self._environ | {"SHRINKD_URL": self.server.url}
        before = signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # what is ignored here, as in the background, would be there
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "shrinkd", *words],
                env=environ,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)


@pytest.fixture
def shrinkd(server: Live) -> Shell:
    return Shell(server)


def only_line(said: str) -> str:
    assert said.startswith("shrinkd: ")
    assert said.count("\n") == 1
    return said


# What they show


def test_a_protection_is_all_or_nothing_by_words_that_the_api_takes(tmp_path: Path) -> None:
    machine = Simulator(
        Settings(), scenario=Scenario.model_validate({"profile": "v2", "groups": [{"path": "web"}]})
    )
    with Live(
        Settings(backend="simulator", database_url=f"sqlite:///{tmp_path}/shrinkd.db"),
        lambda _: machine,
    ) as live:
        shrinkd = Shell(live)
        limits = json.loads(shrinkd("limit", "web", "--low", "max", "--min", "64M", "--json"))
        assert (limits["low_bytes"], limits["min_bytes"]) == ("max", 64 << 20)
        assert (
            "max"
            in next(
                line for line in shrinkd("limit", "web").splitlines() if line.startswith("low")
            ).split()
        )
        limits = json.loads(shrinkd("limit", "web", "--low", "0", "--json"))
        assert (limits["low_bytes"], limits["min_bytes"]) == (0, 64 << 20)


def test_groups_are_a_table_for_people_and_a_line_of_json_each_for_programs(shrinkd: Shell) -> None:
    heading, *rows = shrinkd("groups").splitlines()
    assert heading.split() == ["USAGE", "MAX", "EFFECTIVE", "MAX", "PATH"]
    assert ["354", "MiB", "-", "-", "web"] in [row.split() for row in rows]
    assert [json.loads(line)["path"] for line in shrinkd("groups", "--json").splitlines()] == [
        row.split()[-1] for row in rows
    ]


def test_sizes_are_rounded_for_people_and_exact_in_json(shrinkd: Shell) -> None:
    assert "354 MiB" in shrinkd("stats", "web")
    assert json.loads(shrinkd("stats", "web", "--json"))["usage_bytes"] == 354 << 20


@pytest.mark.parametrize("words", [("node",), ("group", "web"), ("stats", "web"), ("limit", "web")])
def test_one_thing_is_facts_or_one_document(shrinkd: Shell, words: tuple[str, ...]) -> None:
    assert all("  " in line for line in shrinkd(*words).splitlines())
    assert isinstance(json.loads(shrinkd(*words, "--json")), dict)


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0"), (1, "1"), (1 << 30, "1G"), (64 << 20, "64M"), ((64 << 20) + 4096, "65540K")],
)
def test_a_size_in_advice_is_the_size_exactly(size: int, said: str) -> None:
    assert output.exact_size(size) == said


# How they end


def test_a_limit_below_usage_fails_with_the_command_that_works(shrinkd: Shell) -> None:
    said = only_line(shrinkd("limit", "web", "200M", code=1))
    advice = said.partition("To shrink it first: shrinkd ")[2].split()
    assert advice == ["shrink", "web", "--to", "200M", "--set-limit"]
    assert shrinkd(*advice).startswith("web uses ")
    assert json.loads(shrinkd("limit", "web", "--json"))["max_bytes"] == 200 << 20


def test_limits_are_set_tried_and_taken_away(shrinkd: Shell) -> None:
    assert json.loads(shrinkd("limit", "web", "2G", "--dry-run", "--json"))["dry_run"]
    assert (
        json.loads(shrinkd("limit", "web", "2G", "--soft-limit", "1G", "--json"))[
            "soft_limit_bytes"
        ]
        == 1 << 30
    )
    assert json.loads(shrinkd("limit", "web", "max", "--json"))["max_bytes"] is None
    assert "Read it again" in only_line(
        shrinkd("limit", "web", "3G", "--if-match", '"old"', code=1)
    )


@pytest.mark.parametrize(
    "words",
    [
        ("limit", "web", "4MB"),
        ("limit", "web", "-1"),
        ("shrink", "web"),
        ("shrink", "web", "--to", "1M", "--by", "1M"),
        ("shrink", "web", "--by", "1M", "--set-limit"),
        ("policies", "put", "x", "/no/such/file"),
        ("shrinks", "--state", "odd"),
        ("groups", "--token-file", "/no/such/file"),
        ("groups", "--url", "ftp://x"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_usage_ends_with_2_and_asks_nobody(shrinkd: Shell, words: tuple[str, ...]) -> None:
    shrinkd(*words, code=2)


def test_what_is_not_there_fails(shrinkd: Shell) -> None:
    assert "no group" in only_line(shrinkd("group", "none", code=1))


def test_a_group_that_is_being_shrunk_is_for_later_and_says_how_to_stop_that(
    shrinkd: Shell,
) -> None:
    begun = running(shrinkd.server.client)
    said = only_line(shrinkd("shrink", "web", "--to", "1M", code=75))
    assert said.endswith(f"shrinkd cancel {begun['id']}\n")
    assert "cancel" in shrinkd("cancel", begun["id"])


def test_a_shrink_that_has_finished_is_not_cancelled(shrinkd: Shell) -> None:
    done = json.loads(shrinkd("shrink", "web", "--by", "8M", "--json").splitlines()[-1])
    only_line(shrinkd("cancel", done["id"], code=1))


def test_a_daemon_that_is_not_there_is_for_later(shrinkd: Shell) -> None:
    assert "SHRINKD_URL" in only_line(shrinkd("node", "--url", "http://127.0.0.1:1", code=75))


# Shrinks


def test_a_shrink_tells_its_steps_on_stderr_and_its_outcome_on_stdout(shrinkd: Shell) -> None:
    ended = shrinkd.run("shrink", "web", "--to", "200M")
    assert (ended.exit_code, ended.stdout.count("\n")) == (0, 1)
    assert ended.stderr.splitlines()[-1].startswith("succeeded: ")
    assert "\033" not in ended.stderr


def test_with_json_each_step_is_a_line(shrinkd: Shell) -> None:
    steps = [
        json.loads(line) for line in shrinkd("shrink", "web", "--by", "8M", "--json").splitlines()
    ]
    assert (steps[-1]["state"], steps[-1]["done"]) == ("succeeded", True)


def test_a_shrink_that_cannot_be_fails_and_says_why(shrinkd: Shell) -> None:
    assert "without progress" in shrinkd("shrink", "cache", "--to", "1M", code=1).splitlines()[-1]


def test_a_detached_shrink_is_its_id(shrinkd: Shell) -> None:
    shrink_id = shrinkd(*SLOWLY, "--detach").strip()
    assert shrink_id in shrinkd("shrinks", "web")
    assert [json.loads(line)["id"] for line in shrinkd("shrinks", "--json").splitlines()] == [
        shrink_id
    ]
    assert shrinkd("cancel", shrink_id).startswith(shrink_id)


def test_a_dry_run_shrinks_nothing(shrinkd: Shell) -> None:
    assert shrinkd("shrink", "web", "--to", "1M", "--dry-run") == "It can be done.\n"
    assert shrinkd("shrinks", "--json") == ""


def test_ctrl_c_cancels_the_shrink_that_is_waited_for(shrinkd: Shell) -> None:
    with shrinkd.start(*SLOWLY, "--json") as process:
        assert process.stdout
        shrink_id = json.loads(process.stdout.readline())["id"]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert "cancelled" in said
    assert "Traceback" not in said
    assert shrinkd.server.client.get(f"/v1/shrinks/{shrink_id}").json()["state"] == "cancelled"


def test_on_a_terminal_there_is_a_bar_that_is_drawn_over(shrinkd: Shell) -> None:
    ours, theirs = pty.openpty()
    try:
        with shrinkd.start("shrink", "web", "--to", "200M", stderr=theirs) as process:
            process.communicate()
        drawn = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 0
    assert "\r\033[K" in drawn
    assert "100%" in drawn
    assert drawn.count("\n") == 1


# Policies and events


def test_a_policy_is_put_listed_tried_and_deleted(shrinkd: Shell, tmp_path: Path) -> None:
    policy: dict[str, Any] = {
        "kind": "limit",
        "selector": {"group": "web"},
        "spec": {"limits": {"max_bytes": "1G"}},
    }
    assert "keep" in shrinkd("policies", "put", "keep", "-", says=json.dumps(policy))
    (tmp_path / "policy.json").write_text(json.dumps(policy | {"mode": "observe"}))
    assert (
        json.loads(shrinkd("policies", "put", "keep", str(tmp_path / "policy.json"), "--json"))[
            "generation"
        ]
        == 2
    )
    assert [json.loads(line)["name"] for line in shrinkd("policies", "--json").splitlines()] == [
        "keep"
    ]
    assert "observe" in shrinkd("policies", "show", "keep")
    assert json.loads(shrinkd("policies", "evaluate", "keep", "--json"))["group"]["path"] == "web"
    assert shrinkd("policies", "decisions", "keep").startswith("DECIDED AT")
    shrinkd("policies", "delete", "keep")
    assert shrinkd("policies", "--json") == ""


def test_a_policy_that_is_no_json_is_a_slip_of_usage(shrinkd: Shell) -> None:
    assert "is not JSON" in shrinkd("policies", "put", "keep", "-", says="{", code=2)


# Completion


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_completion_script_can_be_read_by_its_shell(shrinkd: Shell, shell: str) -> None:
    script = completed(shrinkd, f"source_{shell}")
    assert "shrinkd" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def completed(shrinkd: Shell, instruction: str, **environ: str) -> str:
    ended = CliRunner(
        env={"SHRINKD_URL": shrinkd.server.url, "_SHRINKD_COMPLETE": instruction} | environ
    ).invoke(cli, prog_name="shrinkd")
    return ended.stdout


def test_the_names_of_groups_are_completed(shrinkd: Shell) -> None:
    assert completed(
        shrinkd, "complete_bash", COMP_WORDS="shrinkd limit bat", COMP_CWORD="2"
    ).split() == ["batch", "batch/etl"]


def test_a_daemon_that_does_not_answer_completes_nothing_in_silence(shrinkd: Shell) -> None:
    words = {"COMP_WORDS": "shrinkd limit w", "COMP_CWORD": "2"}
    assert (
        completed(shrinkd, "complete_bash", SHRINKD_URL="http://127.0.0.1:1", **words).strip() == ""
    )


def test_help_waits_for_no_client_and_no_server() -> None:
    told = "import sys, shrinkd.cli.app; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"fastapi", "httpx", "pydantic", "rich", "sqlalchemy", "uvicorn"} & set(loaded) == set()
