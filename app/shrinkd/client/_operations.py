"""Every operation of a client, once.

What is asked and what the answer is. Client and AsyncClient are this in two shells.
"""

import json
from collections.abc import Mapping
from typing import Any, Unpack
from urllib.parse import quote

from shrinkd.client._events import Event
from shrinkd.client._flows import (
    Flow,
    Give,
    Items,
    Outcome,
    Question,
    Terms,
    ask_json,
    ask_pages,
    posted,
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
    """The API in Python.

    A group is named as everywhere: a path, or id:…, container:…, pod:…, unit:….

    `if_match` makes a change only if the thing is still as it was read: it is the `etag` of what
    was read. `dry_run` changes nothing. All of it raises Problem where the daemon says no, and
    Unreachable or TooLate where it does not answer.
    """

    terms: Terms

    @one
    def version(self) -> Flow[Version]:
        """Tell which version runs there."""
        return ask_json(self.terms, Question("GET", "/version"))

    @one
    def node(self) -> Flow[Node]:
        """Read the facts of the node, and what can be done with it."""
        return ask_json(self.terms, Question("GET", "/v1/node"))

    @many
    def groups(
        self,
        *,
        parent: str | None = None,
        depth: int | None = None,
        order_by: str | None = None,
        fields: str | None = None,
    ) -> Items[dict[str, Any]]:
        """Give the groups, in the order of their paths or of a number ("-usage_bytes".

        The largest first), with the fields asked for.
        """
        params = {"parent": parent, "depth": depth, "order_by": order_by, "fields": fields}
        return ask_pages(self.terms, Question("GET", "/v1/groups", params))

    @one
    def group(self, group: str) -> Flow[Group]:
        """Read one group: its names and limits."""
        return ask_json(self.terms, Question("GET", group_at(group)))

    @one
    def make_group(
        self, path: str, *, dry_run: bool = False, **limits: Unpack[LimitsPatch]
    ) -> Flow[Group]:
        """Make a group below an existing one, with limits if they are given."""
        return ask_json(
            self.terms,
            posted("/v1/groups", {"path": path, "limits": limits}, _dry(dry_run=dry_run)),
        )

    @one
    def remove_group(
        self, group: str, *, if_match: str | None = None, dry_run: bool = False
    ) -> Flow[None]:
        """Remove an empty group that was made through this API."""
        return _done(
            self.terms,
            Question("DELETE", group_at(group), _dry(dry_run=dry_run), header=_if(if_match)),
        )

    @one
    def add_process(self, group: str, pid: int, *, dry_run: bool = False) -> Flow[None]:
        """Move a process into a group; what it used before stays charged to where it was."""
        return _done(
            self.terms, posted(f"{group_at(group)}/processes", {"pid": pid}, _dry(dry_run=dry_run))
        )

    @one
    def limits(self, group: str) -> Flow[Limits]:
        """Read the limits of a group."""
        return ask_json(self.terms, Question("GET", f"{group_at(group)}/limits"))

    @one
    def set_limits(
        self,
        group: str,
        *,
        if_match: str | None = None,
        dry_run: bool = False,
        **limits: Unpack[LimitsPatch],
    ) -> Flow[Limits]:
        """Set limits at once, all or nothing.

        LimitBelowUsage where the group uses more, and then not one page was dropped.

        It is tried again by itself only with `if_match`: without, a second time might undo what
        somebody set between the two.
        """
        return ask_json(
            self.terms,
            Question(
                "PATCH", f"{group_at(group)}/limits", _dry(dry_run=dry_run), limits, _if(if_match)
            ),
        )

    @one
    def stats(self, group: str, *, raw: bool = False) -> Flow[Stats]:
        """Read the statistics of a group, now."""
        return ask_json(self.terms, Question("GET", f"{group_at(group)}/stats", {"raw": raw}))

    @one
    def stats_all(
        self, *, subtree: str | None = None, fields: str | None = None
    ) -> Flow[StatsList]:
        """Read the statistics of many groups in one answer."""
        return ask_json(
            self.terms, Question("GET", "/v1/stats", {"subtree": subtree, "fields": fields})
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
        """Read what a group used in the last hour; times as RFC 3339 writes them."""
        params = {"from": begins, "to": ends, "step_seconds": step_seconds, "fields": fields}
        return ask_json(self.terms, Question("GET", f"{group_at(group)}/stats/history", params))

    @started
    def shrink(
        self, group: str, *, dry_run: bool = False, **shrink: Unpack[NewShrink]
    ) -> Flow[Shrink]:
        """Start a shrink. Its handle waits for it, iterates over its progress, and cancels it."""
        return ask_json(
            self.terms, posted(f"{group_at(group)}/shrinks", shrink, _dry(dry_run=dry_run))
        )

    @started
    def follow(self, shrink_id: str) -> Flow[Shrink]:
        """Take up a shrink that was started before, by whomever."""
        return ask_json(self.terms, Question("GET", f"/v1/shrinks/{_name(shrink_id)}"))

    @many
    def shrinks(
        self,
        *,
        group: str | None = None,
        state: list[State] | None = None,
        since: str | None = None,
    ) -> Items[Shrink]:
        """Give shrinks, the newest first."""
        return ask_pages(
            self.terms,
            Question("GET", "/v1/shrinks", {"group": group, "state": state, "since": since}),
        )

    @many
    def policies(self, *, group: str | None = None, kind: str | None = None) -> Items[Policy]:
        """Give the policies by name: all, or those that select a group."""
        return ask_pages(
            self.terms, Question("GET", "/v1/policies", {"group": group, "kind": kind})
        )

    @one
    def policy(self, name: str) -> Flow[Policy]:
        """Read a policy, and what the daemon makes of it."""
        return ask_json(self.terms, Question("GET", _policy_at(name)))

    @one
    def put_policy(
        self,
        name: str,
        policy: Mapping[str, Any],
        *,
        if_match: str | None = None,
        dry_run: bool = False,
    ) -> Flow[Policy]:
        """Replace a policy as a whole, or make it where there is none."""
        return ask_json(
            self.terms,
            Question("PUT", _policy_at(name), _dry(dry_run=dry_run), policy, _if(if_match)),
        )

    @one
    def delete_policy(
        self, name: str, *, if_match: str | None = None, dry_run: bool = False
    ) -> Flow[None]:
        """Take a policy away; what it has done stays done."""
        return _done(
            self.terms,
            Question("DELETE", _policy_at(name), _dry(dry_run=dry_run), header=_if(if_match)),
        )

    @one
    def evaluate_policy(self, name: str) -> Flow[Evaluation]:
        """Ask what a policy would do now to each of its groups, and why or why not."""
        return ask_json(self.terms, posted(f"{_policy_at(name)}/evaluate"))

    @many
    def decisions(
        self,
        *,
        policy: str | None = None,
        group: str | None = None,
        verdict: list[str] | None = None,
        since: str | None = None,
    ) -> Items[Decision]:
        """Give what a policy decided, or what policies decided for a group, the newest first.

        ValueError unless it is one of the two.
        """
        if (policy is None) == (group is None):
            raise ValueError("decisions are of a policy or of a group: name one of the two")
        owner = _policy_at(policy) if policy is not None else group_at(group or "")
        return ask_pages(
            self.terms, Question("GET", f"{owner}/decisions", {"verdict": verdict, "since": since})
        )

    @many
    def events(
        self, *, of_type: str | None = None, group: str | None = None, after: str | None = None
    ) -> Items[Event]:
        """Give what happens on the node, as it happens, without an end.

        `after` is the id of the last event that is known.
        """
        outcome: Outcome = None
        listening = listen(
            self.terms,
            Question("GET", "/v1/events", {"type": of_type, "group": group}),
            after or "",
        )
        while True:
            step = listening.send(outcome)
            outcome = None
            if isinstance(step, ServerEvent):
                yield Give(Event(step.type, step.id, json.loads(step.text)))
            else:
                outcome = yield step


def group_at(group: str) -> str:
    """The address of a group.

    Dots are hidden from those who would resolve them: the daemon refuses such a name, and says why.
    """
    parts = (
        part.replace(".", "%2E") if part in {".", ".."} else quote(part, safe=":@")
        for part in group.split("/")
    )
    return f"/v1/groups/{'/'.join(parts)}"


def _policy_at(name: str) -> str:
    return f"/v1/policies/{_name(name)}"


def _name(name: str) -> str:
    return name.replace(".", "%2E") if name in {".", ".."} else quote(name, safe="")


def _if(etag: str | None) -> dict[str, str]:
    return {} if etag is None else {"If-Match": etag}


def _dry(*, dry_run: bool) -> dict[str, bool]:
    return {"dry_run": True} if dry_run else {}


def _done(terms: Terms, question: Question) -> Flow[None]:
    """What is done answers nothing, and a trial of it no more."""
    yield from ask_json(terms, question)
