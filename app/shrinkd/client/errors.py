"""What goes wrong between a client and the daemon, in one tree.

A class of its own for what a caller decides by.

ClientError
├── Problem              the daemon said no, and why (RFC 9457)
│   ├── NotFound             there is none, or no more: 404 and 410
│   ├── LimitBelowUsage      shrink first; `next` is the request for that
│   ├── ShrinkInProgress     `shrink` is the one that is in the way
│   ├── PreconditionFailed   it is not what `if_match` names: read again, decide again
│   ├── TryAgain             nothing is wrong with the request: 429 and 503, and what the kernel holds busy
│   └── ShrinkFailed         a shrink that was waited for, and how it ended: `slug` tells
├── Unreachable          nobody answered
├── NotTrusted           somebody listens there to whom the token must not go
├── TooLate              no answer came, or no end, within the time that there was
└── NotUnderstood        who answered speaks another language
"""

import json
from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """One sentence for people."""


class Problem(ClientError):
    """A problem document: `slug` is the last part of its type, and `members` all of it."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        super().__init__(
            str(members.get("detail") or members.get("title") or "The daemon gave no reason.")
        )
        self.members = dict(members)

    @property
    def slug(self) -> str:
        """Such as "limit-below-usage"; the daemon explains it at /problems/<slug>."""
        return str(self.members.get("type", "about:blank")).rpartition("/")[2]

    @property
    def status(self) -> int:
        return int(self.members.get("status", 0))

    @property
    def detail(self) -> str:
        return str(self)

    @property
    def request_id(self) -> str | None:
        """The request's name in the daemon's log."""
        return self.members.get("instance")


class NotFound(Problem):
    pass


class LimitBelowUsage(Problem):
    pass


class ShrinkInProgress(Problem):
    pass


class PreconditionFailed(Problem):
    pass


class TryAgain(Problem):
    pass


class ShrinkFailed(Problem):
    pass


class Unreachable(ClientError):
    pass


class NotTrusted(ClientError):
    pass


class TooLate(ClientError):
    pass


class NotUnderstood(ClientError):
    pass


_BY_SLUG = {
    "limit-below-usage": LimitBelowUsage,
    "shrink-in-progress": ShrinkInProgress,
    "precondition-failed": PreconditionFailed,
    "busy": TryAgain,
    "group-busy": TryAgain,
}
_BY_STATUS = {
    404: NotFound,
    410: NotFound,
    412: PreconditionFailed,
    429: TryAgain,
    502: TryAgain,
    503: TryAgain,
    504: TryAgain,
}


def problem_from(status: int, content: bytes, request_id: str | None) -> Problem:
    """The problem in an answer; one that a proxy wrote, and no daemon, has at least its status."""
    try:
        members = json.loads(content)
    except ValueError:
        members = None
    if not isinstance(members, dict):
        members = {
            "type": "about:blank",
            "detail": f"The answer was {status}, without a reason that could be read.",
        }
    problem = Problem({"status": status, "instance": request_id} | members)
    return _BY_SLUG.get(problem.slug, _BY_STATUS.get(problem.status, Problem))(problem.members)
