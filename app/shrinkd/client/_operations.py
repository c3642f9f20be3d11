"""The operations of the API, each written once for Client and AsyncClient."""

import json
from collections.abc import Mapping
from typing import Any, Unpack
from urllib.parse import quote

from shrinkd.client._events import Event
from shrinkd.client._flows import (
    Flow,
    Item,
    Items,
    Outcome,
    Request,
    Terms,
    fetch_json,
    fetch_pages,
    post,
)
from shrinkd.client._shrink_handle import started
from shrinkd.client._sse import ServerEvent, listen
from shrinkd.client._transports import many, one
from shrinkd.client.types import (
    Decision,
    Evaluation,
    Group,
    History,
    Limits,
    LimitsPatch,
    NewShrink,
    Node,
    Policy,
    Shrink,
    State,
    Stats,
    StatsList,
    Version,
)


class Operations:
    """The methods of a client.

    `group` is a path, or id:…, container:…, pod:…, unit:…. `if_match` is the `etag` of what was
    read: the change is made only if it is still the same. `dry_run` makes every check and changes
    nothing. All methods raise Problem when the daemon refuses, and Unreachable or TooLate when it
    does not answer.
    """

    terms: Terms

    @one
    def version(self) -> Flow[Version]:
        """Read the version of the daemon."""
        return fetch_json(self.terms, Request("GET", "/version"))

    @one
    def node(self) -> Flow[Node]:
        """Read the facts and the capabilities of the node."""
        return fetch_json(self.terms, Request("GET", "/v1/node"))

    @many
    def groups(
        self,
        *,
        parent: str | None = None,
        depth: int | None = None,
        order_by: str | None = None,
        fields: str | None = None,
    ) -> Items[dict[str, Any]]:
        """List the groups, by path or by another field ("-usage_bytes": the largest first).

        `fields` is a comma list of the members to return.
        """
        params = {"parent": parent, "depth": depth, "order_by": order_by, "fields": fields}
        return fetch_pages(self.terms, Request("GET", "/v1/groups", params))

    @one
    def group(self, group: str) -> Flow[Group]:
        """Read one group: its names and limits."""
        return fetch_json(self.terms, Request("GET", group_path(group)))

    @one
    def make_group(
        self, path: str, *, dry_run: bool = False, **limits: Unpack[LimitsPatch]
    ) -> Flow[Group]:
        """Make a group below an existing one, with the limits that are given."""
        return fetch_json(
            self.terms,
            post("/v1/groups", {"path": path, "limits": limits}, _dry_run(dry_run=dry_run)),
        )

    @one
    def remove_group(
        self, group: str, *, if_match: str | None = None, dry_run: bool = False
    ) -> Flow[None]:
        """Remove an empty group that was made through this API."""
        return _without_result(
            self.terms,
            Request(
                "DELETE", group_path(group), _dry_run(dry_run=dry_run), header=_if_match(if_match)
            ),
        )

    @one
    def add_process(self, group: str, pid: int, *, dry_run: bool = False) -> Flow[None]:
        """Move a process into a group. What it uses already stays charged to its old group."""
        return _without_result(
            self.terms,
            post(f"{group_path(group)}/processes", {"pid": pid}, _dry_run(dry_run=dry_run)),
        )

    @one
    def limits(self, group: str) -> Flow[Limits]:
        """Read the limits of a group."""
        return fetch_json(self.terms, Request("GET", f"{group_path(group)}/limits"))

    @one
    def set_limits(
        self,
        group: str,
        *,
        if_match: str | None = None,
        dry_run: bool = False,
        **limits: Unpack[LimitsPatch],
    ) -> Flow[Limits]:
        """Set limits, all or none of them.

        LimitBelowUsage if the group uses more; nothing was reclaimed then. It is sent again only
        with `if_match`: without, the second attempt could undo a change made between the two.
        """
        return fetch_json(
            self.terms,
            Request(
                "PATCH",
                f"{group_path(group)}/limits",
                _dry_run(dry_run=dry_run),
                limits,
                _if_match(if_match),
            ),
        )

    @one
    def stats(self, group: str, *, raw: bool = False) -> Flow[Stats]:
        """Read the current statistics of a group."""
        return fetch_json(self.terms, Request("GET", f"{group_path(group)}/stats", {"raw": raw}))

    @one
    def stats_all(
        self, *, subtree: str | None = None, fields: str | None = None
    ) -> Flow[StatsList]:
        """Read the statistics of many groups in one answer."""
        return fetch_json(
            self.terms, Request("GET", "/v1/stats", {"subtree": subtree, "fields": fields})
        )

    @one
    def history(
        self,
        group: str,
        *,
        begins: str | None = None,
        ends: str | None = None,
        step_seconds: int | None = None,
        fields: str | None = None,
    ) -> Flow[History]:
        """Read the usage of a group over the last hour; `begins` and `ends` are RFC 3339 times."""
        params = {"from": begins, "to": ends, "step_seconds": step_seconds, "fields": fields}
        return fetch_json(self.terms, Request("GET", f"{group_path(group)}/stats/history", params))

    @started
    def shrink(
        self, group: str, *, dry_run: bool = False, **shrink: Unpack[NewShrink]
    ) -> Flow[Shrink]:
        """Start a shrink. Its handle waits for it, iterates over its progress, or cancels it."""
        return fetch_json(
            self.terms, post(f"{group_path(group)}/shrinks", shrink, _dry_run(dry_run=dry_run))
        )

    @started
    def follow(self, shrink_id: str) -> Flow[Shrink]:
        """Return the handle of a shrink that exists already."""
        return fetch_json(self.terms, Request("GET", f"/v1/shrinks/{_quoted(shrink_id)}"))

    @many
    def shrinks(
        self,
        *,
        group: str | None = None,
        state: list[State] | None = None,
        since: str | None = None,
    ) -> Items[Shrink]:
        """List shrinks, newest first."""
        return fetch_pages(
            self.terms,
            Request("GET", "/v1/shrinks", {"group": group, "state": state, "since": since}),
        )

    @many
    def policies(self, *, group: str | None = None, kind: str | None = None) -> Items[Policy]:
        """List the policies by name: all, or those that select a group."""
        return fetch_pages(
            self.terms, Request("GET", "/v1/policies", {"group": group, "kind": kind})
        )

    @one
    def policy(self, name: str) -> Flow[Policy]:
        """Read a policy and its status."""
        return fetch_json(self.terms, Request("GET", _policy_path(name)))

    @one
    def put_policy(
        self,
        name: str,
        policy: Mapping[str, Any],
        *,
        if_match: str | None = None,
        dry_run: bool = False,
    ) -> Flow[Policy]:
        """Replace a policy completely, or create it."""
        return fetch_json(
            self.terms,
            Request(
                "PUT", _policy_path(name), _dry_run(dry_run=dry_run), policy, _if_match(if_match)
            ),
        )

    @one
    def delete_policy(
        self, name: str, *, if_match: str | None = None, dry_run: bool = False
    ) -> Flow[None]:
        """Delete a policy; its past changes are not undone."""
        return _without_result(
            self.terms,
            Request(
                "DELETE", _policy_path(name), _dry_run(dry_run=dry_run), header=_if_match(if_match)
            ),
        )

    @one
    def evaluate_policy(self, name: str) -> Flow[Evaluation]:
        """Evaluate a policy: return what it would do now to each of its groups, and the reason."""
        return fetch_json(self.terms, post(f"{_policy_path(name)}/evaluate"))

    @many
    def decisions(
        self,
        *,
        policy: str | None = None,
        group: str | None = None,
        verdict: list[str] | None = None,
        since: str | None = None,
    ) -> Items[Decision]:
        """List the decisions of a policy, or those for a group, newest first.

        ValueError unless exactly one of `policy` and `group` is given.
        """
        if (policy is None) == (group is None):
            raise ValueError("decisions are of a policy or of a group: name one of the two")
        owner = _policy_path(policy) if policy is not None else group_path(group or "")
        return fetch_pages(
            self.terms, Request("GET", f"{owner}/decisions", {"verdict": verdict, "since": since})
        )

    @many
    def events(
        self, *, of_type: str | None = None, group: str | None = None, after: str | None = None
    ) -> Items[Event]:
        """Give the events of the node as they happen, without an end.

        `after` is the id of the last event that was received before.
        """
        outcome: Outcome = None
        events = listen(
            self.terms,
            Request("GET", "/v1/events", {"type": of_type, "group": group}),
            after or "",
        )
        while True:
            step = events.send(outcome)
            outcome = None
            if isinstance(step, ServerEvent):
                yield Item(Event(step.type, step.id, json.loads(step.text)))
            else:
                outcome = yield step


def group_path(group: str) -> str:
    """Return the path of a group's resource.

    "." and ".." are percent-encoded, so that no proxy resolves them: the daemon refuses such names.
    """
    parts = (
        part.replace(".", "%2E") if part in {".", ".."} else quote(part, safe=":@")
        for part in group.split("/")
    )
    return f"/v1/groups/{'/'.join(parts)}"


def _policy_path(name: str) -> str:
    return f"/v1/policies/{_quoted(name)}"


def _quoted(name: str) -> str:
    return name.replace(".", "%2E") if name in {".", ".."} else quote(name, safe="")


def _if_match(etag: str | None) -> dict[str, str]:
    return {} if etag is None else {"If-Match": etag}


def _dry_run(*, dry_run: bool) -> dict[str, bool]:
    return {"dry_run": True} if dry_run else {}


def _without_result(terms: Terms, request: Request) -> Flow[None]:
    """Send a request whose answer is of no use: it is empty, or that of a dry run."""
    yield from fetch_json(terms, request)
