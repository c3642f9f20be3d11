"""Record published events in order."""

from typing import Any

from shrinkd.backends import Group
from shrinkd.events.log import EventType

RecordedEvent = tuple[str, str | None, dict[str, Any]]


class EventRecorder:
    """A Publish that records every event. Pass it as `publish`."""

    def __init__(self) -> None:
        self.all: list[RecordedEvent] = []

    def __call__(self, what: EventType, group: Group | None = None, /, **data: object) -> None:
        self.all.append((str(what), group.path if group else None, data))

    def of(self, what: EventType, *names: str) -> list[Any]:
        """Return these members of the data of each event of a type.

        Of one member, return the bare values.
        """
        rows = [tuple(data[name] for name in names) for told, _, data in self.all if told == what]
        return [row[0] for row in rows] if len(names) == 1 else rows
