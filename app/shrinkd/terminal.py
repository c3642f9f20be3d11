r"""Text from elsewhere on its way to a terminal, a log or a shell.

A group is named by whoever can make a directory.

Shown as an escape are all characters that are not printable in the Unicode of this Python: controls
(C0, DEL, C1), format characters (the marks of direction among them), separators of lines and
paragraphs, every space but U+0020, lone surrogates, and what is private or not assigned, for a
newer terminal may know more of those. So are characters that are printable and invisible. A
backslash stays as it is, for systemd's names are full of them: "\x1b" in what people read may be
four letters. JSON tells.
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
    r"""The text with nothing in it that a terminal obeys or hides.

    An escape such as "\x1b" or "\u202e" stands for each of those.

    Text that was shown before comes out as it is.
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


def is_shown_as_it_is(text: str) -> bool:
    """Whether people see all of a text, and can copy it."""
    return shown(text) == text


def is_plain(word: str) -> bool:
    """Whether a word is itself to every shell without quotes, and no option to a command.

    What completion may offer.

    zsh evaluates what is completed, and bash splits and expands it, and has it run at Enter.
    """
    return bool(_PLAIN.fullmatch(word))


def json_line(value: Any) -> str:  # whatever JSON can say
    """JSON in one line of printable ASCII."""
    return json.dumps(value).replace("\x7f", "\\u007f")  # which JSON lets through, in strings alone


def say(*texts: str, sep: str = " ", file: TextIO | None = None) -> None:
    """Print a line, at once, each of the texts as it can be shown.

    Everything that a command says is said here.
    """
    print(*map(shown, texts), sep=sep, file=file, flush=True)


def overwrite(text: str) -> None:
    """Put a text in the place of the last line on the terminal of stderr.

    The one thing that is told to a terminal and not shown by it.
    """
    stream = sys.stderr
    print(
        f"\r\033[K{shown(text)}",
        end="",
        file=stream.stream if isinstance(stream, _Shown) else stream,
        flush=True,
    )


class _Shown:
    """A stream of text that shows what is written to it.

    Line breaks and tabs stay, for they are layout.
    """

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

    def __getattr__(self, name: str) -> Any:  # all else is the stream's
        return getattr(self.stream, name)


def guard() -> None:
    """Have stdout and stderr show whatever is written to them from now on.

    Usage errors, faults and warnings quote it, too.
    """
    for name in ("stdout", "stderr"):
        if (
            stream := getattr(sys, name)
        ) is not None:  # as it is where whoever started this has closed it
            if reconfigure := getattr(stream, "reconfigure", None):
                reconfigure(
                    errors="backslashreplace"
                )  # a name in letters that this locale does not have
            setattr(sys, name, _Shown(stream))
