"""Errors of the client, in one tree, with a class for each case that callers handle differently.

ClientError
├── Problem              the daemon refused the request, and said why (RFC 9457)
│   ├── NotFound             it does not exist, or no longer: 404 and 410
│   ├── LimitBelowUsage      shrink first; `members["next"]` is the request for that
│   ├── ShrinkInProgress     `members["shrink"]` is the shrink that runs already
│   ├── PreconditionFailed   it changed since `if_match` was read: read it again
│   ├── TryAgain             the same request may succeed later: 429, 502 to 504, a busy group
│   └── ShrinkFailed         a shrink did not succeed; `slug` says how it ended
├── Unreachable          there was no answer
├── NotTrusted           another user listens on the socket, so no token was sent
├── TooLate              there was no answer, or no end of a shrink, within the deadline
└── NotUnderstood        the answer is none of shrinkd
"""

import json
from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """The base of all errors of the client; its text is a sentence for people."""


class Problem(ClientError):
    """A refusal by the daemon; `members` is its problem document."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        super().__init__(
            str(members.get("detail") or members.get("title") or "The daemon gave no reason.")
        )
        self.members = dict(members)

    @property
    def slug(self) -> str:
        """The name of the problem, such as "limit-below-usage"; /problems/<slug> explains it."""
        return str(self.members.get("type", "about:blank")).rpartition("/")[2]

    @property
    def status(self) -> int:
        return int(self.members.get("status", 0))

    @property
    def detail(self) -> str:
        return str(self)

    @property
    def request_id(self) -> str | None:
        """The id of the request in the daemon's log."""
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
    """Return the problem in an answer; that of a proxy, which has no document, has its status."""
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
