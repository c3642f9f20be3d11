"""One look at the policies that are due: readings, decisions, and what the arbiter grants of them.

The engine reads and decides; it changes nothing and has no clock. Who drives it (the daemon with
the host's time, a simulation with its machine's) tells it the groups, the policies and what became
of its grants. Not thread-safe.
"""

import heapq
import logging
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from itertools import islice
from typing import Any

from shrinkd.backends import Backend, Group, MemStat, UsageCrosses
from shrinkd.errors import GroupNotFound, ShrinkdError, errname_of, leaving_out, words_of
from shrinkd.policies.arbiter import Key, Moment, Post, Wish, arbitrate, is_within
from shrinkd.policies.guards import Guards, Setback, floor_of
from shrinkd.policies.kind import Host, Member, Observation, Outcome, Verdict, kinds
from shrinkd.policies.policy import Envelope
from shrinkd.policies.records import Looked, Record, failure_of, farewell_of, grant_of, record_of
from shrinkd.sizes import PAGE_BYTES

_LOST_SECONDS = 1.0
_HOST_SECONDS = 1.0
_POSTS_A_LOOK = 64
"""The others are due still: what happens meanwhile is not to wait for all of a thousand."""
_UNHURRIED_SECONDS = 60.0
"""A group whose usage alone matters is read whole so often; in between one file tells."""
_UNTOLD_BYTES = 192 * PAGE_BYTES * (os.cpu_count() or 1)
"""How far usage may be below a mark of v1 while the kernel, which looks every 128 pages of each
CPU, has it above still, and will not tell that it crosses; and 64 pages of each are charged
ahead."""

log = logging.getLogger(__name__)


class _Readings:
    """Every group is read at most once in a look, and all who ask see the same."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.stats: dict[int, MemStat] = {}
        self.failures: list[Record] = []
        """Of those who could not be looked at."""

    def members(self, post: Post) -> dict[int, Member]:
        """Read the groups of a post that are there and can be read.

        GroupNotFound where there is none.
        """
        found: dict[int, Member] = {}
        for group in post.groups:
            with leaving_out():
                stat = self.stats.get(group.id)
                if stat is None:
                    stat = self.stats[group.id] = self._backend.stat(group)
                activity = self._backend.activity(group) if post.kind.wants_activity else None
                found[group.id] = Member(
                    group, stat, floor_of(post.policy, stat), activity, post.outcomes.get(group.id)
                )
        if not found:
            raise GroupNotFound(f"{post.groups[0].path!a} is gone, or cannot be read.")
        return found


def host_of(backend: Backend) -> Host:
    node = backend.node()
    return Host(
        node.total_bytes,
        node.available_bytes,
        node.swap_total_bytes,
        node.swap_free_bytes,
        node.pressure,
    )


class Engine:
    """The posts of all policies, and their next looks. Times are seconds of one monotonic clock."""

    def __init__(
        self,
        backend: Backend,
        guards: Guards,
        restored: Mapping[Key, Mapping[str, Any]] | None = None,
        *,
        is_trial: bool = False,
    ) -> None:
        self._backend = backend
        self._is_trial = is_trial
        self._guards = guards
        self._posts: dict[Key, Post] = {}
        self._posts_by_policy: dict[str, list[Post]] = {}
        """Never changed, but replaced: whoever asks, on any thread, has the posts of one
        assignment."""
        self._queue: list[tuple[float, Key]] = []
        self._restored = dict(restored or {})
        """The states of an earlier life, as states() gave them."""
        self._saved: dict[Key, Any] = {}
        self._gone: list[Post] = []
        """Whose group was removed, since the last look."""
        self._host: Host | None = None
        self._host_seen = -math.inf
        self.armed: set[Key] = set()
        """The posts whose usage somebody watches: they are looked at seldom."""
        self.errors: Counter[tuple[str, str]] = Counter()
        """What broke since the start and nobody expects to, by policy and errno."""

    # -- who watches what ---------------------------------------------------------------------------------------

    def assign(
        self, policies: Iterable[tuple[Envelope, int]], groups: list[Group], now: float
    ) -> None:
        """Give each enabled policy a post at each group that it selects (`groups` are all there
        are).

        A post that is there goes on.
        """
        wanted: dict[Key, Post] = {}
        for policy, generation in policies:
            if policy.enabled:
                wanted |= {
                    post.key: post for post in self._posts_of(policy, generation, groups, now)
                }
        fresh = [post for key, post in wanted.items() if self._posts.get(key) is not post]
        by_policy: dict[str, list[Post]] = {}
        for post in wanted.values():
            by_policy.setdefault(post.policy.name, []).append(post)
        self._gone += [
            post
            for key, post in self._posts.items()
            if key not in wanted and post.policy.name in by_policy
        ]
        self._posts, self._posts_by_policy = wanted, by_policy
        self.errors = Counter(
            {key: count for key, count in self.errors.items() if key[0] in by_policy}
        )
        self._restored = {}  # a policy that goes and comes again begins anew
        self.armed &= wanted.keys()
        self._saved = {key: state for key, state in self._saved.items() if key in wanted}
        self._guards.forget(frozenset(group.id for group in groups))
        for post in fresh:
            self._schedule(post, post.look_at)

    def _posts_of(
        self, policy: Envelope, generation: int, groups: list[Group], now: float
    ) -> Iterator[Post]:
        kind = kinds()[policy.kind]
        selected = policy.selector.select(groups)
        for part in (
            ([tuple(selected)] if selected else [])
            if kind.together
            else [(group,) for group in selected]
        ):
            fresh = Post(policy, generation, kind, part, kind.state(), now)
            post = self._posts.get(fresh.key)
            if post is not None and post.policy == policy:
                post.generation, post.groups = generation, part
                yield post
                continue
            if post is None:
                fresh.state = self._restore(fresh)
            else:  # a policy that was changed begins anew, but for what is still going on
                fresh.breaker, fresh.setback, fresh.running = (
                    post.breaker,
                    post.setback,
                    post.running,
                )
            yield fresh

    def _restore(self, post: Post) -> Any:  # a kind's own state
        known = self._restored.get(post.key, {})
        try:
            return post.kind.state(**known)
        except TypeError:  # an older version wrote it, whose fields were others
            return post.kind.state()

    def states(self) -> dict[Key, dict[str, Any]]:
        """The states that have changed since the last call, as JSON values."""
        changed = {
            key: post.state
            for key, post in self._posts.items()
            if self._saved.get(key) is not post.state
        }
        self._saved |= changed
        return {key: asdict(state) for key, state in changed.items()}

    @property
    def is_idle(self) -> bool:
        """Whether nobody looks at anything."""
        return not self._posts

    def post(self, key: Key) -> Post | None:
        return self._posts.get(key)

    def posts(self, policy: str) -> list[Post]:
        """From any thread: no look is waited for."""
        return self._posts_by_policy.get(policy, [])

    # -- time ---------------------------------------------------------------------------------------------------

    def next_look(self) -> float:
        """When a look is due; infinity when none is."""
        while self._queue and not self._is_current(*self._queue[0]):
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else math.inf

    def wake(self, key: Key, now: float) -> None:
        """Look at a post at once, and whole.

        Something has happened there. In what is carried out something always does.
        """
        if (post := self._posts.get(key)) and _is_free(post):
            post.read_at = -math.inf
            self._schedule(post, now)

    def limits_moved(self, path: str, now: float) -> None:
        """Look at all in a group at once: what a share of its limit is has changed there."""
        for post in self._posts.values():
            if any(is_within(group.path, path) for group in post.groups):
                self.wake(post.key, now)

    def finish(self, key: Key, group: Group, outcome: Outcome, now: float) -> None:
        """Tell what became of a grant, once for each.

        Until then nothing more is granted to its post there.

        The post is looked at again at once where that is urgent; others go by what they see
        meanwhile, and all wait behind a fault.
        """
        post = self._posts.get(key)
        self._guards.took(outcome.seconds, now, is_urgent=post is not None and post.kind.is_urgent)
        if post is None:
            return
        post.running.discard(group.id)
        post.outcomes[group.id] = outcome
        post.usage_bytes -= outcome.freed_bytes
        post.breaker.tell(outcome.errname, now)
        if outcome.fault is not None:
            self._set_back(
                post, (group,), outcome.errname or "EIO", outcome.fault, now, is_act=True
            )
        elif post.setback.is_over(is_act=True):
            log.info("the policy %s acts at %a again", post.policy.name, group.path)
        soon = (
            now
            if post.kind.is_urgent
            else max(now, min(post.look_at, post.read_at + self._look_seconds(post)))
        )
        self._schedule(post, max(soon, post.setback.until))

    def _set_back(
        self,
        post: Post,
        groups: Iterable[Group],
        errname: str,
        detail: str,
        now: float,
        *,
        is_act: bool,
    ) -> None:
        """Note what broke for a post, so that it waits, and say it once for each time."""
        post.setback.tell(errname, detail, now, is_act=is_act)
        self.errors[post.policy.name, errname] += 1
        if self._is_trial:  # nobody tries again, and the answer has it
            return
        log.warning(
            "the policy %s failed at %s with %s (%d in a row), and tries again in %g s: %s",
            post.policy.name,
            ", ".join(ascii(group.path) for group in groups),
            errname,
            post.setback.times,
            post.setback.until - now,
            detail,
        )

    def _is_current(self, look_at: float, key: Key) -> bool:
        post = self._posts.get(key)
        return post is not None and post.look_at == look_at

    def _schedule(self, post: Post, look_at: float) -> None:
        post.look_at = look_at
        heapq.heappush(self._queue, (look_at, post.key))

    def _due(self, now: float) -> Iterator[Post]:
        while self.next_look() <= now:
            post = self._posts[heapq.heappop(self._queue)[1]]
            post.look_at = math.inf
            if _is_free(post):
                yield post

    # -- a look -------------------------------------------------------------------------------------------------

    def look(self, now: float, wall: datetime, busy: Collection[str] = ()) -> Looked:
        """Look at what is due.

        `busy` are the paths of the groups that something is being done to, grants of this engine
        included.
        """
        if self.next_look() > now and not self._gone:
            return Looked()
        moment, readings = (
            Moment(now, wall, self._host_at(now)),
            _Readings(self._backend),
        )  # where that fails, all are still due
        with self._taken_out(now) as (taken, gone):
            due = [post for post in taken if not self._is_quiet(post, now)]
            wishes = [wish for post in due for wish in self._decide(post, moment, readings)]
            granted = arbitrate(wishes, self._guards, moment, busy)
            for wish in wishes:
                self._settle(wish, now)
            records = (
                *(farewell_of(post, moment) for post in gone),
                *readings.failures,
                *(record_of(wish, moment) for wish in wishes),
            )
            looked = Looked(
                tuple(grant_of(wish) for wish in granted), records, tuple(due), readings.stats
            )
            for (
                wish
            ) in granted:  # last, for from here on somebody has to tell its end: see finish()
                wish.post.running.add(wish.group.id)
        return looked

    @contextmanager
    def _taken_out(self, now: float) -> Iterator[tuple[list[Post], list[Post]]]:
        """The posts that are due and those whose group is gone, out of where they were kept.

        However this ends, each that is due has its next look behind it, and of those that are gone
        none is forgotten before it was told.
        """
        gone, self._gone = self._gone, []
        due: list[Post] = []
        try:
            due += islice(self._due(now), _POSTS_A_LOOK)
            yield due, gone
        except BaseException:
            self._gone = gone + self._gone
            raise
        finally:
            for post in due:
                if post.look_at == math.inf:
                    self._schedule(post, now + _LOST_SECONDS)

    def _host_at(self, now: float) -> Host:
        """The host as it was within the last second: five files tell of it."""
        if self._host is None or not self._host_seen <= now < self._host_seen + _HOST_SECONDS:
            self._host, self._host_seen = host_of(self._backend), now
        return self._host

    def evaluate(
        self, policy: Envelope, generation: int, groups: list[Group], now: float, wall: datetime
    ) -> list[Record]:
        """Say what a policy would do now to each group that it selects, and why or why not.

        Nothing is remembered or done.
        """
        moment, readings = Moment(now, wall, host_of(self._backend)), _Readings(self._backend)
        observing = policy.model_copy(update={"mode": "observe"})
        trial = Engine(self._backend, self._guards, is_trial=True)
        wishes = []
        for found in self._posts_of(policy, generation, groups, now):
            post = replace(
                found,
                policy=observing,
                outcomes={},
                running=set(),
                breaker=replace(found.breaker),
                setback=Setback(),
            )
            wishes += trial._decide(post, moment, readings)
        arbitrate(wishes, self._guards, moment, ())
        return [
            replace(record, mode=policy.mode)
            for record in (*readings.failures, *(record_of(wish, moment) for wish in wishes))
        ]

    def _is_quiet(self, post: Post, now: float) -> bool:
        """One cheap reading instead of a whole one.

        Of a group that waits for its usage to rise, and has not come half the way.
        """
        mark = self._waits_for(post)
        if mark is None or now >= post.read_at + _UNHURRIED_SECONDS:
            return False
        try:
            usage = self._backend.usage(post.groups[0])
        except (ShrinkdError, OSError):  # the whole look tells what is wrong
            return False
        if 2 * (usage - post.usage_bytes) >= mark - post.usage_bytes:
            return False
        self._schedule(post, now + self._look_seconds(post))
        return True

    def _look_seconds(self, post: Post) -> float:
        """When to look again.

        Seldom, where somebody watches for what it waits for, and will be told.
        """
        mark = self._waits_for(post) if post.key in self.armed else None
        if mark is not None and mark - post.usage_bytes > _UNTOLD_BYTES:
            return _UNHURRIED_SECONDS
        return max(min((decision.look_seconds for decision in post.decisions), default=0.0), 0.0)

    def _waits_for(self, post: Post) -> int | None:
        """The usage that a post waits for and that is all it waits for.

        None where it wants something, or waits for more.
        """
        if len(post.decisions) != 1:
            return None
        (decision,) = post.decisions
        is_done = bool(post.outcomes) and not any(
            outcome.errname for outcome in post.outcomes.values()
        )
        if not (
            is_done and post.key in self.armed if decision.ask else decision.verdict is Verdict.HOLD
        ):
            return None
        marks = [
            trigger.usage_bytes for trigger in decision.wakes if isinstance(trigger, UsageCrosses)
        ]
        return marks[0] if len(marks) == 1 and marks[0] > post.usage_bytes else None

    def _decide(self, post: Post, moment: Moment, readings: _Readings) -> list[Wish]:
        try:
            members = readings.members(post)
            for member in members.values():
                self._guards.see(member.group, member.stat, moment.now)
            observation = Observation(moment.now, moment.wall, moment.host, tuple(members.values()))
            state, decisions = post.kind.decide(post.policy.spec, post.state, observation)
        except GroupNotFound:
            self._schedule(
                post, moment.now + _LOST_SECONDS
            )  # unless the next assignment takes it away
            return []
        except (ShrinkdError, OSError, MemoryError) as error:
            return self._failed(post, error, moment, readings)
        except Exception as error:  # a bug in one kind, or what nobody expected of one group: the others keep their ticks
            log.exception(
                "the policy %s failed at %s",
                post.policy.name,
                ", ".join(ascii(group.path) for group in post.groups),
            )
            return self._failed(post, error, moment, readings)
        if post.setback.is_over(is_act=False):
            log.info(
                "the policy %s looks at %s again",
                post.policy.name,
                ", ".join(ascii(group.path) for group in post.groups),
            )
        post.state_before, post.state = post.state, state
        post.outcomes_before, post.outcomes = post.outcomes, {}
        post.decisions, post.read_at = tuple(decisions), moment.now
        post.usage_bytes = sum(member.stat.usage_bytes for member in members.values())
        self._schedule(post, moment.now + self._look_seconds(post))
        return [
            Wish(post, decision, members[decision.group.id], decision.verdict, decision.reason)
            for decision in decisions
        ]

    def _settle(self, wish: Wish, now: float) -> None:
        """Let a post whose ask came to nothing go on as if it had not asked, and not before asking
        is of use again.
        """
        post = wish.post
        if wish.decision.ask is None or post.kind.together:
            return
        if wish.verdict not in {Verdict.ACT, Verdict.WOULD_ACT}:
            post.state, post.outcomes = post.state_before, post.outcomes_before
        if wish.put_off_seconds:
            self._schedule(post, max(post.look_at, now + wish.put_off_seconds))

    def _failed(
        self, post: Post, error: Exception, moment: Moment, readings: _Readings
    ) -> list[Wish]:
        """Let a post that could not be looked at come again later, as if this look had not been."""
        errname = errname_of(error)
        post.breaker.tell(errname, moment.now)
        self._set_back(post, post.groups, errname, words_of(error), moment.now, is_act=False)
        self._schedule(post, max(post.setback.until, post.breaker.until))
        readings.failures += [failure_of(post, group, errname, moment) for group in post.groups]
        return []


def _is_free(post: Post) -> bool:
    """Whether it may be looked at: what is being carried out ends with a look of its own."""
    return post.kind.together or not post.running
