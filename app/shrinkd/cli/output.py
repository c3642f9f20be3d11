"""Formatting of answers for people: sizes, tables, member lines, and the progress of a shrink."""

import json
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from shrinkd.sizes import format_size
from shrinkd.terminal import is_displayed_unchanged, shown

_ABSENT = "-"
_SUFFIX = "_bytes"
_BAR_COLUMNS = 24
_MISREAD = re.compile(r"^-|^[a-z]+:|['\\]")
"""Paths that would be read as an option, as a reference such as id:7, or, between quotes,
differently by fish than by other shells."""


def format_value(name: str, value: object) -> str:
    """Format the value of a member; an integer whose name ends in bytes is a size."""
    if value is None or value in ([], {}, ""):
        return _ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(format_value("", each) for each in value)
    if isinstance(value, Mapping):
        return shown(json.dumps(value, ensure_ascii=False))
    return (
        format_size(value)
        if isinstance(value, int) and (name == "bytes" or name.endswith(_SUFFIX))
        else shown(str(value))
    )


def one_line(text: str) -> str:
    """Join the lines of a text with spaces."""
    return shown(" ".join(line.strip(" ") for line in text.split("\n")).strip(" "))


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a table with a heading.

    A column is the name of a member, or a path of names such as group.path. Sizes are aligned to
    the right.
    """
    cells = [[format_value(column, _member(row, column)) for column in columns] for row in rows]
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


def _member(row: Mapping[str, Any], column: str) -> object:
    value: object = row
    for name in column.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def member_lines(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each member of a resource: its name and its value.

    Members of members have names such as group.path. Links are left out.
    """
    flat = {shown(name): value for name, value in _flattened(body)}
    width = max(len(name) for name in flat)
    for name, value in flat.items():
        yield f"{name.ljust(width)}  {value}"


def _flattened(body: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in body.items():
        if isinstance(value, Mapping) and value and name not in {"links", "request", "spec"}:
            yield from _flattened(value, f"{prefix}{name}.")
        elif name != "links":
            yield prefix + name.removesuffix(_SUFFIX), format_value(name, value)


def exact_size(size: int) -> str:
    """Format a size exactly, as the API takes it, with the largest unit that divides it: 64M."""
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


def shell_command(*words: str) -> str:
    """Quote a shrinkd command so that it can be copied into a shell."""
    return shlex.join(["shrinkd", *words])


def group_reference(group: Mapping[str, Any]) -> str:
    """Return a reference to a group that can be copied into a shell command.

    That is its path, or id:ID where the path has characters that are not shown as they are, or
    that a shell or shrinkd would read differently.
    """
    path = str(group["path"])
    return (
        path if is_displayed_unchanged(path) and not _MISREAD.search(path) else f"id:{group['id']}"
    )


def share_done(progress: Mapping[str, Any]) -> float:
    """Return which part of its reclaim a shrink has done, from 0 to 1."""
    distance = progress["start_bytes"] - progress["target_bytes"]
    return (
        min(max((progress["start_bytes"] - progress["usage_bytes"]) / distance, 0.0), 1.0)
        if distance > 0
        else 1.0
    )


def step_line(shrink: Mapping[str, Any]) -> str:
    """Describe the progress of a shrink in one line."""
    progress = shrink["progress"]
    eta = "" if progress["eta_seconds"] is None else f", {progress['eta_seconds']:.0f} s left"
    return (
        f"{shown(shrink['state'])}: {format_size(progress['usage_bytes'])}, to be below "
        f"{format_size(progress['target_bytes'])}"
        f" ({format_size(progress['bytes_per_second'])}/s{eta})"
    )


def bar_line(shrink: Mapping[str, Any]) -> str:
    """Return step_line() after a progress bar, cut to the width of this terminal."""
    share = share_done(shrink["progress"])
    bar = "█" * round(share * _BAR_COLUMNS)
    line = f"{bar.ljust(_BAR_COLUMNS, '░')} {share:4.0%}  {step_line(shrink)}"
    return line[: shutil.get_terminal_size().columns - 1]
