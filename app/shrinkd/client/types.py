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
    """A merge patch (RFC 7396): an absent limit stays, null makes it as if it was never set.

    As if never set is no limit, and for low_bytes and min_bytes no protection: 0. What GET answers
    can be sent back, and changes nothing.
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
    """Versions of the daemon and of Python."""

    version: str
    python: str


class Capabilities(TypedDict):
    """Capabilities of this node. Decide by these, not by its kernel version."""

    settable_limits: list[str]
    swappiness: bool
    """A shrink can have its own swappiness."""
    pressure: bool
    """Stats include the pressure of some groups, and a shrink can pause on it."""


class Stall(TypedDict):
    """A line of memory.pressure, with the kernel's names.

    Averages in percent, the total in microseconds.
    """

    avg10: float
    avg60: float
    avg300: float
    total: int


class Pressure(TypedDict):
    """PSI of a group or of the machine: `some` task stalled for memory, `full`: all of them."""

    some: Stall
    full: Stall


class OwnGroup(TypedDict):
    """The group of this daemon, which it does not change, nor those around it."""

    state: Literal["found", "elsewhere", "unknown"]
    """`elsewhere`: in no group below the root. `unknown`: it could not be determined; no group near
    the possible ones is changed."""
    path: str | None
    """Its path, "" for the root; null if the caller may not read that group."""
    suspects: list[str]
    """While it is unknown: groups, readable by the caller, that the daemon may be in or below. No
    group near them is changed."""
    detail: str | None
    """The reason why it is unknown, and what to do about it."""


class UnreadableGroup(TypedDict):
    """A group that is left out of every list because it cannot be read."""

    path: str
    """The path; bytes that are not UTF-8 are written with backslashes."""
    errno: str
    """The errno, such as "ENAMETOOLONG" (the path is too long for the kernel) or "EACCES"."""


class Unreadable(TypedDict):
    """The groups that the last walk of the tree left out. Groups inside them are not counted."""

    count: int
    groups: list[UnreadableGroup]
    """The first ten of them."""


class Node(TypedDict):
    """Facts of the machine."""

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
    """Pressure of the whole machine; null if its kernel does not report it."""
    root: str
    subtrees: list[str]
    """Globs of the groups that this daemon may change; empty: all."""
    boot_id: str
    own_group: OwnGroup
    unreadable: Unreadable | None
    """null if the caller may not read the whole node."""


class GroupRef(TypedDict):
    """A group in this incarnation: a group made anew at the same path has another id."""

    id: str
    path: str


class Limits(Tagged):
    """The limits of a group as the kernel holds them.

    Null is no limit, or one that `unsupported` names. low_bytes and min_bytes protect: 0 is no
    protection, "max" an infinite one.
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
    """The addresses of a group and of its parts."""

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
    """Made through this API, and so removable through it."""
    limits: Limits
    links: GroupLinks
    dry_run: bool


class Counters(TypedDict):
    """Counters since the group was made; null if the kernel does not report them."""

    page_faults: int | None
    major_page_faults: int | None
    pages_scanned: int | None
    pages_reclaimed: int | None
    refaults_file: int | None
    refaults_anon: int | None


class Events(TypedDict):
    """How often each limit took effect; null if the kernel does not report it."""

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
    """The names that this kernel does not report, such as "zswap_bytes" or "events.high"; they are
    null."""
    raw: NotRequired[dict[str, str] | None]
    """Contents of the control files, with ?raw=true."""


class StatsRow(TypedDict):
    """The requested fields of a reading."""

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
    """The names that this kernel does not report, such as "zswap_bytes" or "events.high"; they are
    null."""
    raw: NotRequired[dict[str, str] | None]
    """Contents of the control files, with ?raw=true."""


class StatsList(TypedDict):
    """Readings of many groups, in path order; with ?fields=, only those fields."""

    items: list[StatsRow]
    read_at: str


class History(TypedDict):
    """The samples of a group over time. Each field has one value for each time."""

    group: GroupRef
    step_seconds: int
    times: list[str]
    """The start of each step, a multiple of its length; steps without samples are left out."""
    series: dict[str, list[int | None]]
    """The last known value of each step by field; null if there is none."""


State = Literal[
    "queued", "running", "cancelling", "succeeded", "failed", "cancelled", "interrupted"
]


class ShrinkRequest(TypedDict):
    """The parameters of a shrink, with the defaults filled in."""

    target_bytes: int | None
    reclaim_bytes: int | None
    set_max_bytes: int | None
    timeout_seconds: float
    max_bytes_per_second: int | None
    swappiness: int | None
    pressure_pause_percent: float | None
    reason: str | None


class Progress(TypedDict):
    """The progress of a shrink; usage has to get below target_bytes."""

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
    """The addresses of a shrink, its actions and its group."""

    self: str
    cancel: str
    events: str
    group: str


class Shrink(TypedDict):
    """One shrink: its parameters, its progress and its outcome."""

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
    """null for a decision that is not recorded, or not yet."""
    decided_at: str
    policy: str
    generation: int
    """Generation of the policy at that time."""
    group: GroupRef
    mode: Literal["enforce", "observe"]
    verdict: Verdict
    reason: Reason
    signals: dict[str, float | int | str | None]
    """The numbers that the decision is based on, with their units in their names."""
    look_seconds: float
    """The policy is evaluated again after this time at the latest."""
    asked_bytes: int | None
    """Bytes that the policy proposed to reclaim; null if it proposed no reclaim."""
    granted_bytes: int | None
    """Bytes of it that the guards granted."""
    freed_bytes: int | None
    """Decrease of usage; null until it is known."""
    shrink_id: str | None
    """The shrink that acted on it: GET /v1/shrinks/{shrink_id}."""
    errno: str | None
    """The errno with which the kernel, or a guard of the daemon, refused it."""
    times: int
    """Number of equal decisions in a row; `decided_at` and the numbers are those of the last."""


class Evaluation(TypedDict):
    """The decisions that a policy would make now."""

    items: list[Decision]
    """One for each group that the policy selects."""


class Selector(TypedDict):
    """The groups of a policy.

    Exactly one of group, parent and alias finds groups; scope says which groups there are meant. A
    group that appears later is selected when it appears. The root and the daemon's own groups are
    never selected.
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
    """The least memory that a policy leaves a group: the larger of the two."""

    bytes: int
    percent_of_limit: float
    """Of the effective limit; nothing where there is none."""


class Active(TypedDict):
    """The times in which a policy acts; outside of them it only decides."""

    windows: list[str]
    """Cron expressions of five fields: it is active in every minute that one of them names."""
    timezone: str
    """The time zone of the windows."""


class Condition(TypedDict):
    """A condition that holds for a policy now."""

    type: Literal["tripped", "failing", "out_of_hours"]
    """tripped: three errors in a row, so the policy pauses. failing: an unexpected error (for
    example, the node ran out of memory or descriptors); it is tried again within a minute."""
    since_at: str | None
    """null if the time is not known."""
    detail: str


class PolicyStatus(TypedDict):
    """The state of a policy in the daemon."""

    observed_generation: int
    """The generation in effect; 0 while none is."""
    matched_groups: int
    last_decision: Decision | None
    conditions: list[Condition]


class PolicyLinks(TypedDict):
    """Addresses that belong to a policy."""

    self: str
    evaluate: str
    decisions: str


class Policy(Tagged):
    """A policy as it is in effect, with defaults filled in."""

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
    """The settings of its kind, with defaults; each kind has members of its own."""
    generation: int
    """Grows by one with each change."""
    created_at: str
    updated_at: str
    status: PolicyStatus
    """Changes by itself, and is not covered by the ETag."""
    links: PolicyLinks
    dry_run: bool
