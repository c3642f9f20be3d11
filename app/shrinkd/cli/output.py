"""What the commands show to people.

Sizes that can be read, tables, facts, and the one line of a shrink's progress.
"""

import json
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from shrinkd.sizes import format_size
from shrinkd.terminal import is_displayed_unchanged, shown

_NOTHING = "-"
_SUFFIX = "_bytes"
_BAR_COLUMNS = 24
_MISREAD = re.compile(r"^-|^[a-z]+:|['\\]")
"""An option, a reference of another kind, and what fish reads otherwise than other shells between
quotes."""


def told(name: str, value: object) -> str:
    """A value as people read it: by its name it is a size, or not."""
    if value is None or value in ([], {}, ""):
        return _NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(told("", each) for each in value)
    if isinstance(value, Mapping):
        return shown(json.dumps(value, ensure_ascii=False))
    return (
        format_size(value)
        if isinstance(value, int) and (name == "bytes" or name.endswith(_SUFFIX))
        else shown(str(value))
    )


def one_line(text: str) -> str:
    """A text of some lines as one."""
    return shown(" ".join(line.strip(" ") for line in text.split("\n")).strip(" "))


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """The lines of a table with a heading.

    A column is a name, or some with dots between: group.path. Sizes stand to the right.
    """
    cells = [[told(column, _part(row, column)) for column in columns] for row in rows]
    heading = [
        column.rpartition(".")[2].removesuffix(_SUFFIX).replace("_", " ").upper()
        for column in columns
    ]
    widths = [max(map(len, column)) for column in zip(heading, *cells, strict=True)]
    for line in (heading, *cells):
        aligned = (
            cell.rjust(width) if name.endswith(_SUFFIX) else cell.ljust(width)
            for name, cell, width in zip(columns, line, widths, strict=True)
        )
        yield "  ".join(aligned).rstrip()


def _part(row: Mapping[str, Any], column: str) -> object:
    part: object = row
    for name in column.split("."):
        part = part.get(name) if isinstance(part, Mapping) else None
    return part


def facts(body: Mapping[str, Any]) -> Iterator[str]:
    """The lines of one thing, a name and a value on each.

    What is inside of it has a dot in its name. Addresses are left out.
    """
    flat = {shown(name): value for name, value in _flat(body)}
    width = max(len(name) for name in flat)
    for name, value in flat.items():
        yield f"{name.ljust(width)}  {value}"


def _flat(body: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in body.items():
        if isinstance(value, Mapping) and value and name not in {"links", "request", "spec"}:
            yield from _flat(value, f"{prefix}{name}.")
        elif name != "links":
            yield prefix + name.removesuffix(_SUFFIX), told(name, value)


def exact(size: int) -> str:
    """A size as the API takes it, as short as it can be said exactly: 64M."""
    shifts = (
        (shift, suffix) for shift, suffix in ((50, "P"), (40, "T"), (30, "G"), (20, "M"), (10, "K"))
    )
    return next(
        (
            f"{size >> shift}{suffix}"
            for shift, suffix in shifts
            if size and not size % (1 << shift)
        ),
        str(size),
    )


def command(*words: str) -> str:
    """A command of ours, for people to copy into a shell."""
    return shlex.join(["shrinkd", *words])


def named(group: Mapping[str, Any]) -> str:
    """A group for such a command.

    Its path, or its id where people would not copy all of that, or a shell or we would read it
    otherwise.
    """
    path = str(group["path"])
    return path if is_displayed_unchanged(path) and not _MISREAD.search(path) else f"id:{group['id']}"


def share_done(progress: Mapping[str, Any]) -> float:
    """How much of the way to its target a shrink has gone, from 0 to 1."""
    way = progress["start_bytes"] - progress["target_bytes"]
    return (
        min(max((progress["start_bytes"] - progress["usage_bytes"]) / way, 0.0), 1.0)
        if way > 0
        else 1.0
    )


def step_line(shrink: Mapping[str, Any]) -> str:
    """How far a shrink is, in one line."""
    progress = shrink["progress"]
    eta = "" if progress["eta_seconds"] is None else f", {progress['eta_seconds']:.0f} s left"
    return (
        f"{shown(shrink['state'])}: {format_size(progress['usage_bytes'])}, to be below "
        f"{format_size(progress['target_bytes'])}"
        f" ({format_size(progress['bytes_per_second'])}/s{eta})"
    )


def bar_line(shrink: Mapping[str, Any]) -> str:
    """The same behind a bar, in no more than a line of this terminal."""
    share = share_done(shrink["progress"])
    bar = "█" * round(share * _BAR_COLUMNS)
    line = f"{bar.ljust(_BAR_COLUMNS, '░')} {share:4.0%}  {step_line(shrink)}"
    return line[: shutil.get_terminal_size().columns - 1]
