"""Text for a terminal.

Everything that it would obey or hide is an escape, and all else is as it was.
"""

import contextlib
import io
import json
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shrinkd import terminal
from shrinkd.terminal import (
    escape_standard_streams,
    is_displayed_unchanged,
    is_shell_safe,
    json_line,
    say,
    shown,
)

ANY_TEXT = st.text(st.characters())  # lone surrogates, too
UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def unseen_in(text: str) -> set[str]:
    return {character for character in text if unicodedata.category(character) in UNSEEN}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\033[2Jb", r"a\x1b[2Jb"),
        ("two\r\nlines\t", r"two\x0d\x0alines\x09"),
        ("\x00\x7f", r"\x00\x7f"),
        ("\x9b31m", r"\x9b31m"),
        ("exe\u202etxt.\u2066\u200b\ufeff\xad", r"exe\u202etxt.\u2066\u200b\ufeff\xad"),
        ("a\u2028b\u2029c\x85", r"a\u2028b\u2029c\x85"),
        ("\ud800", r"\ud800"),
        ("\ue000\U0010fffd\u0378", r"\ue000\U0010fffd\u0378"),
        ("\U000e0041", r"\U000e0041"),
        ("a\xa0b\u3000c", r"a\xa0b\u3000c"),
        ("web\u3164\ufe0f\u034f", r"web\u3164\ufe0f\u034f"),
    ],
    ids=ascii,
)
def test_what_a_terminal_would_obey_or_hide_is_an_escape(text: str, said: str) -> None:
    assert shown(text) == said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "web",
        r"dev-disk\x2duuid.swap",
        "caf\xe9",
        "日本",
        "[red]x[/red]",
        "50% of _[*]?",
        "a b",
        "🐳",
    ],
)
def test_what_people_can_read_stays_as_it_is(text: str) -> None:
    assert shown(text) == text
    assert is_displayed_unchanged(text)


@given(ANY_TEXT)
@example("".join(map(chr, range(0x3000))))
def test_nothing_unseen_is_left_in_any_text_and_showing_it_again_changes_nothing(text: str) -> None:
    assert unseen_in(shown(text)) == set()
    assert shown(shown(text)) == shown(text)


@given(
    st.recursive(
        st.none() | ANY_TEXT, lambda inside: st.lists(inside) | st.dictionaries(ANY_TEXT, inside)
    )
)
@example("\x7f")
def test_json_is_printable_ascii_and_still_the_same_value(value: object) -> None:
    line = json_line(value)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == value


@pytest.mark.parametrize(
    "word", ["web", "system.slice/nginx.service", "a:b@c,d=e+f", "_x", "0", "/", "id:5"]
)
def test_a_plain_word_needs_no_quotes(word: str) -> None:
    assert is_shell_safe(word)


@pytest.mark.parametrize(
    "word",
    [
        "",
        "-rf",
        "--help",
        "=ls",
        "~root",
        "a b",
        "$(id)",
        "`id`",
        "a;b",
        "a&b",
        "a\\b",
        "'",
        '"',
        "*",
        "a[1]",
        "{a,b}",
        "a\n",
        "!1",
        "#a",
        "é",
    ],
)
def test_a_word_that_some_shell_would_read_otherwise_is_not_plain(word: str) -> None:
    assert not is_shell_safe(word)


def test_a_line_is_said_as_one() -> None:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        say("a\nb", "c\td", sep="\t")
    assert said.getvalue() == "a\\x0ab\tc\\x09d\n"


def test_whatever_is_written_to_guarded_streams_is_shown_and_stays_in_its_lines() -> None:
    with (
        contextlib.redirect_stdout(io.StringIO()) as said,
        contextlib.redirect_stderr(io.StringIO()) as complained,
    ):
        escape_standard_streams()
        sys.stdout.write("a\033[2J\n\tb\u202e\n")
        sys.stderr.writelines(["c\x9b", "\r\n"])
        assert not sys.stdout.isatty()
    assert said.getvalue() == "a\\x1b[2J\n\tb\\u202e\n"
    assert complained.getvalue() == "c\\x9b\\x0d\n"


def test_a_name_in_letters_that_the_locale_lacks_is_shown_all_the_same() -> None:
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="latin-1")) as said:
        escape_standard_streams()
        say("日本")
    said.flush()
    assert said.buffer.getvalue() == b"\\u65e5\\u672c\n"


def test_a_bar_takes_the_place_of_the_line_before_and_nothing_in_it_is_obeyed() -> None:
    with contextlib.redirect_stderr(io.StringIO()) as drawn:
        escape_standard_streams()
        terminal.replace_last_line("50 %\033[2J")
    assert drawn.getvalue() == "\r\033[K50 %\\x1b[2J"
