"""What is said to the daemon and what it says, as JSON has it.

Openapi.json with types, and tests hold the two together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

Size = int | str
"""Bytes, or a string in the kernel's notation such as "400M": always binary."""
State = Literal[
    "queued", "running", "cancelling", "succeeded", "failed", "cancelled", "interrupted"
]


class LimitsPatch(TypedDict, total=False):
    """Limits to set.

    What is absent stays as it is, None is as if never set: no limit, and of low and min, where
    "max" is infinite, 0.
    """

    max_bytes: Size | None
    high_bytes: Size | None
    low_bytes: Size | None
    min_bytes: Size | None
    swap_max_bytes: Size | None
    soft_limit_bytes: Size | None


class NewShrink(TypedDict, total=False):
    """A shrink to start: exactly one of target_bytes and reclaim_bytes, and what else is wanted."""

    target_bytes: Size | None
    reclaim_bytes: Size | None
    set_max_bytes: Size | None
    timeout_seconds: float
    max_bytes_per_second: Size | None
    swappiness: int | None
    pressure_pause_percent: float | None
    reason: str | None


class Tagged(TypedDict):
    """What can be changed under the condition that it is still as it was read."""

    etag: NotRequired[str]
    """The ETag header of the answer, put beside its body: for `if_match`. A dry run has none."""


class Version(TypedDict):
    version: str
    python: str


class Stall(TypedDict):
    avg10: float
    avg60: float
    avg300: float
    total: int


class Pressure(TypedDict):
    some: Stall
    full: Stall


class Capabilities(TypedDict):
    settable_limits: list[str]
    swappiness: bool
    pressure: bool


class OwnGroup(TypedDict):
    state: Literal["found", "elsewhere", "unknown"]
    path: str | None
    suspects: list[str]
    detail: str | None


class UnreadableGroup(TypedDict):
    path: str
    errno: str


class Unreadable(TypedDict):
    count: int
    groups: list[UnreadableGroup]


class Node(TypedDict):
    kernel: str
    backend: str
    cgroup_version: int
    capabilities: Capabilities
    page_size_bytes: int
    total_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int
    pressure: Pressure | None
    root: str
    subtrees: list[str]
    boot_id: str
    own_group: OwnGroup
    unreadable: Unreadable | None


class GroupRef(TypedDict):
    id: str
    path: str


class Limits(Tagged):
    group: GroupRef
    max_bytes: int | None
    high_bytes: int | None
    low_bytes: int | Literal["max"] | None
    min_bytes: int | Literal["max"] | None
    swap_max_bytes: int | None
    soft_limit_bytes: int | None
    effective_max_bytes: int | None
    limited_by: str | None
    unsupported: list[str]
    dry_run: bool


class GroupLinks(TypedDict):
    self: str
    limits: str
    shrinks: str
    stats: str
    processes: str


class Group(Tagged):
    id: str
    path: str
    aliases: list[str]
    managed: bool
    limits: Limits
    links: GroupLinks
    dry_run: bool


class Counters(TypedDict):
    page_faults: int | None
    major_page_faults: int | None
    pages_scanned: int | None
    pages_reclaimed: int | None
    refaults_file: int | None
    refaults_anon: int | None


class Events(TypedDict):
    low: int | None
    high: int | None
    max: int | None
    oom: int | None
    oom_kill: int | None
    limit_failures: int | None


class Stats(TypedDict):
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
    raw: NotRequired[dict[str, str] | None]


class StatsList(TypedDict):
    items: list[dict[str, Any]]
    read_at: str


class History(TypedDict):
    group: GroupRef
    step_seconds: int
    times: list[str]
    series: dict[str, list[int | None]]


class Progress(TypedDict):
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
    self: str
    cancel: str
    events: str
    group: str


class ShrinkRequest(TypedDict):
    target_bytes: int | None
    reclaim_bytes: int | None
    set_max_bytes: int | None
    timeout_seconds: float
    max_bytes_per_second: int | None
    swappiness: int | None
    pressure_pause_percent: float | None
    reason: str | None


class Shrink(TypedDict):
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


class Decision(TypedDict):
    id: str | None
    decided_at: str
    policy: str
    generation: int
    group: GroupRef
    mode: Literal["enforce", "observe"]
    verdict: str
    reason: str
    signals: dict[str, float | int | str | None]
    look_seconds: float
    asked_bytes: int | None
    granted_bytes: int | None
    freed_bytes: int | None
    shrink_id: str | None
    errno: str | None
    times: int


class Evaluation(TypedDict):
    items: list[Decision]


class Condition(TypedDict):
    type: Literal["tripped", "failing", "out_of_hours"]
    since_at: str | None
    detail: str


class PolicyStatus(TypedDict):
    observed_generation: int
    matched_groups: int
    last_decision: Decision | None
    conditions: list[Condition]


class PolicyLinks(TypedDict):
    self: str
    evaluate: str
    decisions: str


class Selector(TypedDict):
    group: str | None
    parent: str | None
    alias: str | None
    scope: Literal["self", "children", "leaves"]


class Floor(TypedDict):
    bytes: int
    percent_of_limit: float


class Active(TypedDict):
    windows: list[str]
    timezone: str


class Policy(Tagged):
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
    generation: int
    created_at: str
    updated_at: str
    status: PolicyStatus
    links: PolicyLinks
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Event:
    """One of GET /v1/events; a `gap` says that some before it are not kept any more."""

    type: str
    id: str
    """For `after`: the events behind this one."""
    members: Mapping[str, Any]
