"""A Publish for tests: what it was told, in order."""

from typing import Any

from shrinkd.backends import Group
from shrinkd.events.log import EventType

Told = tuple[str, str | None, dict[str, Any]]


class Heard:
    """Hand it over as `publish`."""

    def __init__(self) -> None:
        self.all: list[Told] = []

    def __call__(self, what: EventType, group: Group | None = None, /, **data: object) -> None:
        self.all.append((str(what), group.path if group else None, data))

    def of(self, what: EventType, *names: str) -> list[Any]:
        """These members of the data of every event of a type; of one name the value alone."""
        rows = [tuple(data[name] for name in names) for told, _, data in self.all if told == what]
        return [row[0] for row in rows] if len(names) == 1 else rows
