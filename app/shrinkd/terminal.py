r"""Escape unprintable characters in text from outside before it reaches a terminal, log or shell.

The name of a group is chosen by anybody who can make a directory. Escaped are all characters that
are not printable in the Unicode of this Python: controls (C0, DEL, C1), format characters
(direction marks among them), line and paragraph separators, every space but U+0020, lone
surrogates, and private or unassigned characters, since a newer terminal may know more of those. So
are printable characters that are invisible. A backslash stays, since systemd's names are full of
them: "\x1b" in the output may be four letters. JSON output is unambiguous.
"""

import json
import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Default_Ignorable_Code_Point of Unicode, without those that are not printable anyway."""
_LAYOUT = re.compile("([\n\t])")
_PLAIN = re.compile(r"[A-Za-z0-9_.:@/+,][A-Za-z0-9_.:@/+,=-]*")


def shown(text: str) -> str:
    r"""Escape every character that a terminal would obey or hide, such as "\x1b" or "\u202e".

    Escaping twice changes nothing.
    """
    if not text.isprintable():
        text = "".join(each if each.isprintable() else _escape(each) for each in text)
    return text if text.isascii() else _INVISIBLE.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    number = ord(character)
    return (
        f"\\x{number:02x}"
        if number < 0x100
        else f"\\u{number:04x}"
        if number < 0x10000
        else f"\\U{number:08x}"
    )


def is_displayed_unchanged(text: str) -> bool:
    """Return whether a text is displayed unchanged, and so can be copied."""
    return shown(text) == text


def is_shell_safe(word: str) -> bool:
    """Return whether a word needs no quotes in any shell and is no option: completion may offer it.

    zsh evaluates what is completed, and bash splits and expands it, and runs the result at Enter.
    """
    return bool(_PLAIN.fullmatch(word))


def json_line(value: object) -> str:  # whatever JSON can say
    """Return JSON as one line of printable ASCII."""
    return json.dumps(value).replace("\x7f", "\\u007f")  # JSON permits DEL, in strings alone


def say(*texts: str, sep: str = " ", file: TextIO | None = None) -> None:
    """Print a line of escaped texts and flush; every command prints through this function."""
    print(*map(shown, texts), sep=sep, file=file, flush=True)


def replace_last_line(text: str) -> None:
    """Replace the last line on the terminal of stderr.

    Its control sequence is the only one that is not escaped.
    """
    stream = sys.stderr
    print(
        f"\r\033[K{shown(text)}",
        end="",
        file=stream.stream if isinstance(stream, _EscapingStream) else stream,
        flush=True,
    )


class _EscapingStream:
    """Wrap a text stream and escape what is written to it, except line breaks and tabs."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(
            "".join(part if part in {"\n", "\t"} else shown(part) for part in _LAYOUT.split(text))
        )
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    # other attributes are the stream's
    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self.stream, name)


def escape_standard_streams() -> None:
    """Wrap stdout and stderr so that everything written to them is escaped.

    Usage errors, tracebacks and warnings quote foreign text, too.
    """
    for name in ("stdout", "stderr"):
        # None if it was closed before this process started.
        if (stream := getattr(sys, name)) is not None:
            if reconfigure := getattr(stream, "reconfigure", None):
                # for names with letters that this locale lacks
                reconfigure(errors="backslashreplace")
            setattr(sys, name, _EscapingStream(stream))
