"""Names of groups are printed as text: none controls the terminal or imitates output of shrinkd.

Commands that an error suggests can be copied into a shell.
"""

import contextlib
import io
import shlex
import sys
from collections.abc import Iterator
from unittest import mock

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shrinkd.cli import output
from shrinkd.cli.app import main
from shrinkd.client import Client
from tests.support.impostor import Impostor
from tests.support.live_server import Live
from tests.test_terminal import ANY_TEXT, unseen_in

COMMANDS = (
    *(
        "node",
        "groups",
        "group web",
        "stats",
        "stats web",
        "limit web",
        "limit web 1M",
        "limit web 1M --dry-run",
    ),
    *(
        "shrink web --to 1M",
        "shrink web --to 1M --detach",
        "shrink web --to 1M --dry-run",
        "cancel 1",
        "shrinks",
        "shrinks web",
    ),
    *(
        "policies",
        "policies show p",
        "policies delete p",
        "policies evaluate p",
        "policies decisions p",
        "events",
    ),
)
AS_JSON = tuple(command for command in COMMANDS if command != "policies delete p")
HOSTILE = (
    "\033]8;;http://x\033\\link",
    "a\x9b2Jb",
    "gpj\u202etxt",
    "two\nlines",
    "a\rb\tc",
    "\x7f",
    "\ud800",
    "[red]x[/red]",
    "web\u2028web",
)
PROBLEMS = ("limit-below-usage", "shrink-in-progress", "precondition-failed", "group-not-found")


@pytest.fixture(scope="module")
def anybody() -> Iterator[Impostor]:
    with Impostor() as server:
        yield server


def said_by(*words: str) -> tuple[str, str]:
    """Run the console script, and return its stdout and stderr."""
    hook, argv = sys.excepthook, ["shrinkd", *words]
    with (
        contextlib.redirect_stdout(io.StringIO()) as said,
        contextlib.redirect_stderr(io.StringIO()) as complained,
    ):
        try:
            with mock.patch.object(sys, "argv", argv), pytest.raises(SystemExit):
                main()
        finally:
            sys.excepthook = hook
    return said.getvalue(), complained.getvalue()


def said_of(anybody: Impostor, name: str, command: str, problem: str = "") -> tuple[str, str]:
    anybody.name, anybody.problem = name, problem
    words = command.split()
    return said_by(*words, "--url", anybody.url)


@pytest.mark.parametrize("command", [*COMMANDS, *(f"{command} --json" for command in AS_JSON)])
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=ANY_TEXT)
@example(name="".join(HOSTILE))
def test_no_command_says_what_a_terminal_would_obey_or_takes_more_lines_for_a_name(
    anybody: Impostor, command: str, name: str
) -> None:
    harmless, hostile = (said_of(anybody, each, command) for each in ("web", name))
    assert unseen_in("".join(hostile)) <= {"\n"}
    assert [text.count("\n") for text in hostile] == [text.count("\n") for text in harmless]
    if command.endswith("--json"):
        assert hostile[0].isascii()


@pytest.mark.parametrize("problem", PROBLEMS)
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=ANY_TEXT)
@example(name="".join(HOSTILE))
def test_no_refusal_says_what_a_terminal_would_obey(
    anybody: Impostor, problem: str, name: str
) -> None:
    _, complained = said_of(anybody, name, "limit web 1M", problem)
    assert unseen_in(complained) == {"\n"}
    assert complained.count("\n") == 1


@pytest.mark.parametrize("name", HOSTILE[:7], ids=ascii)
def test_a_slip_that_quotes_a_name_does_not_let_it_speak_either(name: str) -> None:
    _, complained = said_by("node", name)
    assert "unexpected extra argument" in complained
    assert unseen_in(complained) <= {"\n"}


def test_markup_in_a_name_is_text(anybody: Impostor) -> None:
    assert "[link=http://x]web[/link]" in said_of(anybody, "[link=http://x]web[/link]", "groups")[0]


# Advice

AWKWARD = [
    "a b",
    "$(touch pwned)",
    ";touch pwned",
    "`touch pwned`",
    'a"b',
    "a'b",
    "*",
    "!1",
    "#x",
    "~",
    "a\\$(touch pwned)",
    "a&b",
    "日本",
]
AWKWARD += ["-rf", "--help", "id:5", "unit:x.service", "a\x9bb", "a\u202eb", "a\xa0b"]


@pytest.mark.parametrize("name", AWKWARD, ids=ascii)
def test_advice_can_be_copied_whatever_the_group_is_called(server: Live, name: str) -> None:
    answer = server.client.post("/v1/groups", json={"path": name})
    group = answer.json()
    answer.raise_for_status()
    fill(server.client, group["id"])
    _, complained = said_by("limit", f"id:{group['id']}", "4M", "--url", server.url)
    advice = shlex.split(complained.partition("To shrink it first: ")[2])
    assert advice[:2] == ["shrinkd", "shrink"]
    assert advice[2] in {name, f"id:{group['id']}"}
    done, complained = said_by(*advice[1:], "--url", server.url)
    assert " uses " in done, complained
    assert server.client.get(f"/v1/groups/id:{group['id']}/limits").json()["max_bytes"] == 4 << 20


def fill(client: httpx.Client, group_id: str) -> None:
    """Have the group use 32 MiB that can be reclaimed."""
    load = {"memory": [{"kind": "file", "size_bytes": "32M", "heat_seconds": "cold"}]}
    client.put(f"/v1/simulator/groups/id:{group_id}/workload", json=load).raise_for_status()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("web", "web"),
        ("a b", "'a b'"),
        ("$(id)", "'$(id)'"),
        ("a'b", "id:7"),
        ("a\\", "id:7"),
        ("-rf", "id:7"),
        ("a\033b", "id:7"),
        ("pod:x", "id:7"),
    ],
)
def test_a_group_is_named_by_its_path_where_every_shell_reads_that_alike(
    path: str, said: str
) -> None:
    assert (
        output.shell_command("group", output.group_reference({"id": "7", "path": path}))
        == f"shrinkd group {said}"
    )


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_command_to_copy_is_one_command(path: str) -> None:
    named = output.group_reference({"id": "7", "path": path})
    assert shlex.split(output.shell_command("shrink", named)) == ["shrinkd", "shrink", named]
    assert not named.startswith("-")
    assert unseen_in(named) == set()


# Streams


@pytest.mark.parametrize("name", ["a\u2028b\u2029c", "a\x85b", "data: x", "a\ufeffb"], ids=ascii)
def test_a_name_ends_no_line_of_a_stream(server: Live, name: str) -> None:
    last = server.client.get("/v1/events", params={"page_size": 1000}).json()["last_id"]
    server.client.post("/v1/groups", json={"path": name}).raise_for_status()
    with Client(server.url) as shrinkd:
        event = next(iter(shrinkd.events(of_type="group.made", after=str(last))))
    assert event.members["group"]["path"] == name
