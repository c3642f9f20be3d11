"""The JSON bodies of requests and answers.

Generated from openapi/openapi.json by `make client-types`. Do not edit.
"""

from typing import Any, Literal, NotRequired, TypedDict

Size = int | str
"""Bytes, or a string in the kernel's notation such as "400M": always binary."""


class Tagged(TypedDict):
    """A resource that can be changed on the condition that it is unchanged since it was read."""

    etag: NotRequired[str]
    """The ETag header of the answer, for `if_match`. The answer to a dry run has none."""


class LimitsPatch(TypedDict, total=False):
    """A merge patch (RFC 7396).

    What is absent stays as it is, null makes a limit as if it was never set.

    That is no limit, and of low_bytes and min_bytes no protection: 0. What GET answers may be sent,
    and changes nothing.
    """

    max_bytes: Size | None
    """Bytes, or a string in the kernel's notation such as "400M" (always binary). null: no
    limit."""
    high_bytes: Size | None
    """Bytes, or a string in the kernel's notation such as "400M" (always binary). null: no
    limit."""
    low_bytes: Size | None
    """Bytes, or a string in the kernel's notation such as "400M" (always binary). "max": infinite,
    all usage is protected. null: as if never set, 0."""
    min_bytes: Size | None
    """Bytes, or a string in the kernel's notation such as "400M" (always binary). "max": infinite,
    all usage is protected. null: as if never set, 0."""
    swap_max_bytes: Size | None
    """Bytes, or a string in the kernel's notation such as "400M" (always binary). null: no
    limit."""
    soft_limit_bytes: Size | None
    """Bytes, or a string in the kernel's notation such as "400M" (always binary). null: no
    limit."""


class NewShrink(TypedDict, total=False):
    """Exactly one of target_bytes and reclaim_bytes; the rest has defaults."""

    target_bytes: Size | None
    """Bring usage below this."""
    reclaim_bytes: Size | None
    """Bring usage down by this much."""
    set_max_bytes: Size | None
    """Then make this the limit; not below target_bytes."""
    timeout_seconds: float
    max_bytes_per_second: Size | None
    """Reclaim no faster than this on average."""
    swappiness: int | None
    """Where the kernel takes it; see capabilities of /v1/node."""
    pressure_pause_percent: float | None
    """Hold while the group's PSI some avg10 is above this."""
    reason: str | None


class Version(TypedDict):
    """What runs here."""

    version: str
    python: str


class Capabilities(TypedDict):
    """What this node can do; ask these, never its version."""

    settable_limits: list[str]
    swappiness: bool
    """A shrink may carry its own swappiness."""
    pressure: bool
    """Stats tell the pressure of some groups, and a shrink may pause on it."""


class Stall(TypedDict):
    """A line of memory.pressure, in the kernel's own names.

    Averages in percent, the total in microseconds.
    """

    avg10: float
    avg60: float
    avg300: float
    total: int


class Pressure(TypedDict):
    """PSI, of a group or of the machine: some task stalled for memory, all of them did."""

    some: Stall
    full: Stall


class OwnGroup(TypedDict):
    """Where this daemon is itself among the groups.

    It changes neither that group nor those around it.
    """

    state: Literal["found", "elsewhere", "unknown"]
    """`elsewhere`: in no group below the root. `unknown`: it could not find out, and changes
    nothing near where it may be."""
    path: str | None
    """Where it was found, "" for the root; null for who may not read that group."""
    suspects: list[str]
    """While it is unknown: the groups that it may be in or below, of those that the caller may
    read. Nothing near them is changed."""
    detail: str | None
    """What could not be found out, and what to do about it."""


class UnreadableGroup(TypedDict):
    """An entry of the tree that is left out of every list."""

    path: str
    """A name that is no Unicode has backslashes in it."""
    errno: str
    """Why, such as "ENAMETOOLONG" (its path is longer than the kernel takes) or "EACCES"."""


class Unreadable(TypedDict):
    """What the last walk of the tree has left out, since it cannot be read for what it is.

    What is in it is not counted.
    """

    count: int
    groups: list[UnreadableGroup]
    """The first ten of them."""


class Node(TypedDict):
    """The machine under the groups."""

    kernel: str
    backend: Literal["v1", "v2", "simulator"]
    cgroup_version: int
    capabilities: Capabilities
    page_size_bytes: int
    total_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int
    pressure: Pressure | None
    """That of the whole machine; null where its kernel tells none."""
    root: str
    subtrees: list[str]
    """Globs of the groups that this daemon may change; empty means all."""
    boot_id: str
    own_group: OwnGroup
    unreadable: Unreadable | None
    """Null for a caller who may not read the whole node."""


class GroupRef(TypedDict):
    """Which incarnation of which group."""

    id: str
    path: str


class Limits(Tagged):
    """The limits of a group as the kernel holds them.

    Null is no limit, or one that `unsupported` names.

    low_bytes and min_bytes protect: 0 is no protection, "max" an infinite one.
    """

    group: GroupRef
    max_bytes: int | None
    high_bytes: int | None
    low_bytes: int | Literal["max"] | None
    min_bytes: int | Literal["max"] | None
    swap_max_bytes: int | None
    soft_limit_bytes: int | None
    effective_max_bytes: int | None
    limited_by: str | None
    """The group whose limit that is; null as well where the caller may not read it."""
    unsupported: list[str]
    dry_run: bool


class GroupLinks(TypedDict):
    """Where the parts of a group are."""

    self: str
    limits: str
    shrinks: str
    stats: str
    processes: str


class Group(Tagged):
    """One incarnation of a control group."""

    id: str
    path: str
    aliases: list[str]
    managed: bool
    """Made through this API, so that it can be removed through it."""
    limits: Limits
    links: GroupLinks
    dry_run: bool


class Counters(TypedDict):
    """Events since the group was made; null where the kernel does not tell."""

    page_faults: int | None
    major_page_faults: int | None
    pages_scanned: int | None
    pages_reclaimed: int | None
    refaults_file: int | None
    refaults_anon: int | None


class Events(TypedDict):
    """How often a limit was felt; null where the kernel does not tell."""

    low: int | None
    high: int | None
    max: int | None
    oom: int | None
    oom_kill: int | None
    limit_failures: int | None


class Stats(TypedDict):
    """One reading of a group, its descendants included."""

    group: GroupRef
    usage_bytes: int
    peak_bytes: int | None
    max_bytes: int | None
    effective_max_bytes: int | None
    headroom_bytes: int | None
    working_set_bytes: int | None
    reclaimable_estimate_bytes: int | None
    anon_bytes: int | None
    file_bytes: int | None
    shmem_bytes: int | None
    kernel_bytes: int | None
    mapped_bytes: int | None
    dirty_bytes: int | None
    writeback_bytes: int | None
    active_anon_bytes: int | None
    inactive_anon_bytes: int | None
    active_file_bytes: int | None
    inactive_file_bytes: int | None
    unevictable_bytes: int | None
    slab_reclaimable_bytes: int | None
    swap_bytes: int | None
    zswap_bytes: int | None
    counters: Counters
    events: Events
    pressure: Pressure | None
    unavailable: list[str]
    """The names that this kernel cannot tell, such as "zswap_bytes" or "events.high"; they are
    null."""
    raw: NotRequired[dict[str, str] | None]
    """Control files as they were read, with ?raw=true."""


class StatsRow(TypedDict):
    """What was asked for of a reading."""

    group: GroupRef
    usage_bytes: NotRequired[int]
    peak_bytes: NotRequired[int | None]
    max_bytes: NotRequired[int | None]
    effective_max_bytes: NotRequired[int | None]
    headroom_bytes: NotRequired[int | None]
    working_set_bytes: NotRequired[int | None]
    reclaimable_estimate_bytes: NotRequired[int | None]
    anon_bytes: NotRequired[int | None]
    file_bytes: NotRequired[int | None]
    shmem_bytes: NotRequired[int | None]
    kernel_bytes: NotRequired[int | None]
    mapped_bytes: NotRequired[int | None]
    dirty_bytes: NotRequired[int | None]
    writeback_bytes: NotRequired[int | None]
    active_anon_bytes: NotRequired[int | None]
    inactive_anon_bytes: NotRequired[int | None]
    active_file_bytes: NotRequired[int | None]
    inactive_file_bytes: NotRequired[int | None]
    unevictable_bytes: NotRequired[int | None]
    slab_reclaimable_bytes: NotRequired[int | None]
    swap_bytes: NotRequired[int | None]
    zswap_bytes: NotRequired[int | None]
    counters: NotRequired[Counters]
    events: NotRequired[Events]
    pressure: NotRequired[Pressure | None]
    unavailable: NotRequired[list[str]]
    """The names that this kernel cannot tell, such as "zswap_bytes" or "events.high"; they are
    null."""
    raw: NotRequired[dict[str, str] | None]
    """Control files as they were read, with ?raw=true."""


class StatsList(TypedDict):
    """Readings of many groups, in path order; with ?fields=, only what was asked for."""

    items: list[StatsRow]
    read_at: str


class History(TypedDict):
    """The samples of a group over time: as many values of each field as there are times."""

    group: GroupRef
    step_seconds: int
    times: list[str]
    """Each is the begin of a step, a multiple of it; steps of which nothing is known are left
    out."""
    series: dict[str, list[int | None]]
    """By field, the last value that is known of each step; null where none is."""


State = Literal[
    "queued", "running", "cancelling", "succeeded", "failed", "cancelled", "interrupted"
]


class ShrinkRequest(TypedDict):
    """What was asked of a shrink, with what was left open filled in."""

    target_bytes: int | None
    reclaim_bytes: int | None
    set_max_bytes: int | None
    timeout_seconds: float
    max_bytes_per_second: int | None
    swappiness: int | None
    pressure_pause_percent: float | None
    reason: str | None


class Progress(TypedDict):
    """How far a shrink is; target_bytes is what usage has to be below."""

    start_bytes: int
    usage_bytes: int
    target_bytes: int
    reclaimed_bytes: int
    remaining_bytes: int
    passes: int
    retries_left: int
    elapsed_seconds: float
    bytes_per_second: int
    eta_seconds: float | None


class ShrinkLinks(TypedDict):
    """Where to go from a shrink."""

    self: str
    cancel: str
    events: str
    group: str


class Shrink(TypedDict):
    """One shrink: what was asked, how far it is, and how it ended."""

    id: str
    group: GroupRef
    state: State
    done: bool
    request: ShrinkRequest
    progress: Progress
    error: dict[str, Any] | None
    policy: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    links: ShrinkLinks
    dry_run: bool


Verdict = Literal[
    "act",
    "would_act",
    "hold",
    "brake",
    "cooldown",
    "backoff",
    "superseded",
    "vetoed",
    "tripped",
    "gone",
]


Reason = Literal[
    "first_look",
    "no_signal",
    "no_limit",
    "at_floor",
    "ask_too_small",
    "cooling_down",
    "little_freed",
    "below_high",
    "above_high",
    "below_target",
    "at_target",
    "above_target",
    "overshot",
    "within_budget",
    "over_budget",
    "exempt",
    "cpu_busy",
    "cpu_idle",
    "frozen",
    "not_due",
    "due",
    "missed",
    "limits_kept",
    "limits_drifted",
    "unreadable",
    "outranked",
    "chain_busy",
    "manual_change",
    "host_pressed",
    "rate_spent",
    "swap_scarce",
    "oom_killed",
    "failed_thrice",
    "out_of_hours",
    "group_gone",
]


class Decision(TypedDict):
    """One decision of a policy for a group."""

    id: str | None
    """null for one that is not written down, or not yet."""
    decided_at: str
    policy: str
    generation: int
    """Of the policy, when it decided so."""
    group: GroupRef
    mode: Literal["enforce", "observe"]
    verdict: Verdict
    reason: Reason
    signals: dict[str, float | int | str | None]
    """The numbers that it went by, with their units in their names."""
    look_seconds: float
    """It looks again after so long at the latest."""
    asked_bytes: int | None
    """What the policy wanted to reclaim; null where it wanted nothing of the sort."""
    granted_bytes: int | None
    """How much of that it was allowed to."""
    freed_bytes: int | None
    """By how much usage fell; null until that is known."""
    shrink_id: str | None
    """The shrink that did it: GET /v1/shrinks/{shrink_id}."""
    errno: str | None
    """What the kernel, or a guard of the daemon, said to it."""
    times: int
    """How often it decided so, one time after the other: `decided_at` and the numbers are those of
    the last."""


class Evaluation(TypedDict):
    """What a policy would do now."""

    items: list[Decision]
    """One for each group that it selects."""


class Selector(TypedDict):
    """Which groups.

    Exactly one of group, parent and alias finds some, and scope says what is meant by them.

    A group that appears later is selected when it appears. The root, and the daemon's own groups,
    never are.
    """

    group: str | None
    """A path as a glob, component by component: a * does not cross a slash."""
    parent: str | None
    """A path: the groups right below it ("" is the root), or with the scope leaves all below it
    that have no groups inside."""
    alias: str | None
    """A glob over the aliases of a group, such as container:…, pod:… and unit:…."""
    scope: Literal["self", "children", "leaves"]
    """What was found itself, the groups right below it, or those below it, itself included, that
    have no groups inside."""


class Floor(TypedDict):
    """What a policy leaves a group at least: the larger of the two."""

    bytes: int
    percent_of_limit: float
    """Of the effective limit; nothing where there is none."""


class Active(TypedDict):
    """When a policy is carried out; outside of it, it only looks."""

    windows: list[str]
    """Cron expressions of five fields: it is active in every minute that one of them names."""
    timezone: str
    """Whose clock on the wall they go by."""


class Condition(TypedDict):
    """Something about a policy that is so now."""

    type: Literal["tripped", "failing", "out_of_hours"]
    """tripped: three errors in a row, so it rests. failing: what nobody expects broke (the node ran
    short of memory or descriptors, say); it tries again within a minute."""
    since_at: str | None
    """null where nobody has noted it."""
    detail: str


class PolicyStatus(TypedDict):
    """What the daemon makes of a policy."""

    observed_generation: int
    """The generation that is carried out; 0 while none is."""
    matched_groups: int
    last_decision: Decision | None
    conditions: list[Condition]


class PolicyLinks(TypedDict):
    """Where to go from a policy."""

    self: str
    evaluate: str
    decisions: str


class Policy(Tagged):
    """A policy as it is carried out, with what it leaves open filled in."""

    name: str
    kind: str
    enabled: bool
    mode: Literal["enforce", "observe"]
    priority: int
    selector: Selector
    floor: Floor
    swap: Literal["allow", "file_only", "anon_only"]
    active: Active | None
    spec: dict[str, Any]
    """That of its kind, with its defaults; no two kinds have the same members."""
    generation: int
    """Grows by one with each change."""
    created_at: str
    updated_at: str
    status: PolicyStatus
    """Moves by itself, and is no part of what the ETag names."""
    links: PolicyLinks
    dry_run: bool
