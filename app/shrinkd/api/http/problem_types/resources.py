"""Problems of what a request acts on: groups, limits, shrinks, policies, simulations, the node."""

from shrinkd import errors
from shrinkd.api.http.problem_types.problem import Problem, ProblemTable

_INTERNAL_ERROR = Problem(
    500,
    "internal-error",
    "The daemon met a fault",
    "Report it with the request id; the log of the daemon has the details.",
)
_NO_LIMIT_CHANGED = "What was reclaimed stays reclaimed, and no limit was changed."

RESOURCE_PROBLEMS: ProblemTable = {
    errors.ShrinkdError: _INTERNAL_ERROR,
    errors.InternalError: _INTERNAL_ERROR,
    errors.InvalidGroupName: Problem(
        422,
        "invalid-group-name",
        "That cannot be the name of a group",
        "A name is a path below the managed root: components of 1 to 255 bytes, not . or .., no "
        "control characters, no symbolic link. With the mount point before it and a control file "
        "behind it, it has at most the 4095 bytes that a kernel resolves.",
    ),
    errors.GroupNotFound: Problem(
        404,
        "group-not-found",
        "There is no such group",
        "GET /v1/groups lists the groups. Groups that you may not read are answered as if they did "
        "not exist, and so are changes of groups outside SHRINKD_SUBTREES.",
    ),
    errors.ShrinkNotFound: Problem(
        404,
        "shrink-not-found",
        "There is no such shrink",
        "GET /v1/shrinks lists them; finished ones are kept for 7 days.",
    ),
    errors.SimulationNotFound: Problem(
        404,
        "simulation-not-found",
        "There is no such simulation",
        "GET /v1/simulations lists them; the last hundred are kept until the daemon stops.",
    ),
    errors.PolicyNotFound: Problem(
        404,
        "policy-not-found",
        "There is no such policy",
        "GET /v1/policies lists them.",
    ),
    errors.NotSimulator: Problem(
        404,
        "not-simulator",
        "Only a simulator has that",
        "A real kernel has no workloads, clock or faults that a client could set. Start a daemon "
        "with SHRINKD_BACKEND=simulator.",
    ),
    errors.ProcessNotFound: Problem(
        404,
        "process-not-found",
        "There is no such process",
        "Give the pid in the pid namespace of this daemon.",
    ),
    errors.GroupGone: Problem(
        410,
        "group-gone",
        "The group was removed",
        "If the path exists again, it is another group: look it up again and decide again. Nothing "
        "was done to the new group.",
    ),
    errors.GroupExists: Problem(
        409,
        "group-exists",
        "The group exists already",
        "Use the existing group, or choose another name.",
    ),
    errors.PolicyExists: Problem(
        409,
        "policy-exists",
        "There is a policy of that name",
        "PUT to its address replaces it; add If-Match to replace only the version that you have "
        "read. Or choose another name.",
    ),
    errors.PolicyConflict: Problem(
        409,
        "policy-conflict",
        "Another policy would be in its way",
        "Two policies of one kind and one priority may not select the same groups, because their "
        "order would be undefined. `policies` names both and `groups` the groups that they share. "
        "Give one of them another priority, or a selector that excludes those groups.",
    ),
    errors.PolicyUnreadable: Problem(
        409,
        "policy-unreadable",
        "Another version of shrinkd wrote that policy",
        "The policy is kept as it is and does nothing. Run the version that wrote it, or DELETE "
        "the policy and create it again.",
    ),
    errors.GroupNotEmpty: Problem(
        409,
        "group-not-empty",
        "The group is not empty",
        "End or move its processes and remove the groups inside first.",
    ),
    errors.GroupNotManaged: Problem(
        403,
        "group-not-managed",
        "The group was not made here",
        "Only groups that were made through this API can be removed through it.",
    ),
    errors.ProtectedGroup: Problem(
        403,
        "protected-group",
        "This daemon is in that group",
        "The change would reclaim the daemon's own memory, and it might stop answering. Choose "
        "another group. `own_group` of /v1/node is the group of the daemon, if it knows that.",
    ),
    errors.AmbiguousReference: Problem(
        409,
        "ambiguous-reference",
        "More than one group answers to that",
        "Choose one of `candidates` by its id or path.",
    ),
    errors.Busy: Problem(409, "busy", "The kernel is busy", "Try again."),
    errors.GroupBusy: Problem(
        409,
        "group-busy",
        "The kernel holds the group busy",
        "Try again; if it persists, find out which other program writes to the group.",
    ),
    errors.LimitBelowUsage: Problem(
        409,
        "limit-below-usage",
        "The limit is below what the group uses",
        "A limit takes effect at once or nothing changes: no limit was moved and no page of cache "
        "was dropped. `next` is the request that shrinks first and then sets the limit; it "
        "succeeds if enough can be reclaimed (compare `reclaimable_estimate_bytes` with "
        "`shortfall_bytes`). `room_bytes`, present for a group that grows fast, is how far below "
        "the limit its usage has to be.",
    ),
    errors.LimitOrder: Problem(
        409,
        "limit-order",
        "The limit contradicts another one",
        "Change both in one request. cgroup v1 counts memory and swap together, so max_bytes "
        "cannot exceed that sum.",
    ),
    errors.Unsupported: Problem(
        422,
        "unsupported",
        "This node cannot do that",
        "GET /v1/node lists its capabilities.",
    ),
    errors.UnsupportedLimit: Problem(
        422,
        "unsupported-limit",
        "This kernel has no such limit",
        "`unsupported` in GET limits lists the limits that it lacks.",
    ),
    errors.UnsupportedOption: Problem(
        422,
        "unsupported-option",
        "This kernel does not take that option",
        "Leave the option out. GET /v1/node lists the capabilities.",
    ),
    errors.ShrinkInProgress: Problem(
        409,
        "shrink-in-progress",
        "The group is being shrunk",
        "A group has at most one shrink at a time. `Location` is the running one: wait for it, or "
        "cancel it.",
    ),
    errors.ShrinkStalled: Problem(
        409,
        "shrink-stalled",
        "No progress in five passes",
        "The rest cannot be reclaimed: anonymous memory without swap, locked pages, or a workload "
        f"that charges as fast. {_NO_LIMIT_CHANGED} Choose a higher target, add swap, or stop the "
        "workload.",
    ),
    errors.TimedOut: Problem(
        504,
        "shrink-timed-out",
        "The shrink ran out of time",
        f"{_NO_LIMIT_CHANGED} Start another with a longer timeout_seconds, or a higher rate.",
    ),
    errors.Interrupted: Problem(
        409, "shrink-cancelled", "The shrink was cancelled", _NO_LIMIT_CHANGED
    ),
    errors.DaemonStopped: Problem(
        503,
        "shrink-interrupted",
        "The daemon stopped in the shrink",
        "What was reclaimed stays reclaimed. GET the limits of the group to see whether one was "
        "set, then start the shrink again.",
    ),
    errors.ShrinkFinished: Problem(
        409,
        "shrink-finished",
        "The shrink has finished",
        "There is nothing left to cancel.",
    ),
    errors.TooManyShrinks: Problem(
        429,
        "too-many-shrinks",
        "Too many shrinks are waiting",
        "Try again after Retry-After, when some have finished.",
    ),
    errors.TooManySimulations: Problem(
        429,
        "too-many-simulations",
        "Too many simulations run or wait",
        "Wait until some of `active` have finished, or cancel one.",
    ),
    errors.EventsExpired: Problem(
        410,
        "events-expired",
        "Those events are not kept any more",
        "Read the current state, then continue after `newest_id`.",
    ),
    errors.NotReady: Problem(
        503, "not-ready", "The daemon is not ready", "Try again after Retry-After."
    ),
    errors.StoreUnavailable: Problem(
        503,
        "store-unavailable",
        "The database cannot be used",
        "Free disk space, or find out which process has the database locked; then try again.",
    ),
    errors.KernelRefused: Problem(
        500,
        "kernel-refused",
        "The kernel gave an unexpected answer",
        "`errno` is the kernel's answer. Report it with the request id.",
    ),
    errors.OutOfResources: Problem(
        503,
        "out-of-resources",
        "This host is short of something",
        "`errno` names the resource: EMFILE is open files (raise LimitNOFILE or ulimit -n), ENOMEM "
        "is memory. The state of the groups is unknown.",
    ),
    errors.NotWritable: Problem(
        503,
        "not-writable",
        "The controller cannot be written to",
        "Run the daemon as root, with the controller mounted read-write.",
    ),
    errors.BackendUnavailable: Problem(
        503,
        "backend-unavailable",
        "There is no memory controller",
        "See SHRINKD_BACKEND in the settings reference.",
    ),
    errors.SettingsError: Problem(
        500,
        "settings-error",
        "A setting is wrong",
        "The detail names the setting; the settings reference describes it.",
    ),
}
