"""The events of a node, as the client gives them to its user."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """An event of GET /v1/events; a `gap` says that the daemon no longer has some before it."""

    type: str
    id: str
    """For `after`: continue with the events after this one."""
    members: Mapping[str, Any]
