"""Every kind of problem.

An error's class becomes a status, a slug, a title and advice, which /problems/<slug> shows.
"""

from dataclasses import dataclass

from shrinkd import errors
from shrinkd.errors import ShrinkdError


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of problem: what /problems/<slug> shows."""

    status: int
    slug: str
    title: str
    advice: str
    """What a client does about it, in a sentence or two."""


def _rows(
    *rows: tuple[type[ShrinkdError], int, str, str, str],
) -> dict[type[ShrinkdError], Problem]:
    return {row[0]: Problem(*row[1:]) for row in rows}


_STAYS = "What was reclaimed stays reclaimed and no limit was changed."
PROBLEMS = _rows(
    (
        errors.ShrinkdError,
        500,
        "internal-error",
        "The daemon met a fault",
        "Report it with the request id; the log has the rest.",
    ),
    (
        errors.InternalError,
        500,
        "internal-error",
        "The daemon met a fault",
        "Report it with the request id; the log has the rest.",
    ),
    (
        errors.InvalidRequest,
        422,
        "invalid-request",
        "The request is not valid",
        "Mend what `errors` points at. Nothing was changed.",
    ),
    (
        errors.InvalidGroupName,
        422,
        "invalid-group-name",
        "That cannot be the name of a group",
        (
            "A name is a path below the managed root: components of 1 to 255 bytes, not . or .., "
            "no control characters, no symbolic link. "
            "With the mount point before it and a control file behind it, it has at most the 4095 "
            "bytes that a kernel resolves."
        ),
    ),
    (
        errors.RangeTooLarge,
        422,
        "range-too-large",
        "That is too much for one answer",
        "Ask for less time, longer steps or fewer fields.",
    ),
    (
        errors.MalformedBody,
        400,
        "malformed-body",
        "The body is not JSON",
        "Send one JSON value in UTF-8, nested less than 100 deep.",
    ),
    (
        errors.BodyTooLarge,
        413,
        "body-too-large",
        "The body is too large",
        "No request of this API needs more than 64 KiB.",
    ),
    (
        errors.UnsupportedMedia,
        415,
        "unsupported-media-type",
        "The body is not sent as JSON",
        "Send `Content-Type: application/json` (`curl --json` does).",
    ),
    (errors.NotFound, 404, "not-found", "There is no such thing", "Look the address up at /docs."),
    (
        errors.GroupNotFound,
        404,
        "group-not-found",
        "There is no such group",
        (
            "GET /v1/groups lists them. What you may not read is not there for you, nor for changes "
            "what is outside SHRINKD_SUBTREES."
        ),
    ),
    (
        errors.ShrinkNotFound,
        404,
        "shrink-not-found",
        "There is no such shrink",
        "GET /v1/shrinks lists them; finished ones are kept for 7 days.",
    ),
    (
        errors.SimulationNotFound,
        404,
        "simulation-not-found",
        "There is no such simulation",
        (
            "GET /v1/simulations lists them; the last hundred are kept, and none over a restart of the "
            "daemon."
        ),
    ),
    (
        errors.PolicyNotFound,
        404,
        "policy-not-found",
        "There is no such policy",
        "GET /v1/policies lists them.",
    ),
    (
        errors.ProblemNotFound,
        404,
        "problem-not-found",
        "There is no such problem",
        "GET /problems lists them.",
    ),
    (
        errors.NotSimulator,
        404,
        "not-simulator",
        "Only a simulator has that",
        (
            "The workloads, the clock and the faults of a real kernel are nobody's to choose. Start a "
            "daemon with SHRINKD_BACKEND=simulator."
        ),
    ),
    (
        errors.ProcessNotFound,
        404,
        "process-not-found",
        "There is no such process",
        "Give the pid as this daemon sees it: in its own pid namespace.",
    ),
    (
        errors.GroupGone,
        410,
        "group-gone",
        "The group was removed",
        (
            "If the path exists again it is another group: look it up anew, and decide anew. Nothing "
            "was done to a stranger."
        ),
    ),
    (
        errors.GroupExists,
        409,
        "group-exists",
        "The group exists already",
        "Use it as it is, or take another name.",
    ),
    (
        errors.PolicyExists,
        409,
        "policy-exists",
        "There is a policy of that name",
        (
            "PUT to its address replaces it, with If-Match if it is to be the one that you have read. "
            "Or take another name."
        ),
    ),
    (
        errors.PolicyConflict,
        409,
        "policy-conflict",
        "Another policy would be in its way",
        (
            "Two policies of one kind at one priority may not select the same groups: nobody could "
            "say which goes first. "
            "`policies` names both and `groups` what they share. Give one of them another "
            "priority, or a selector that leaves those out."
        ),
    ),
    (
        errors.PolicyUnreadable,
        409,
        "policy-unreadable",
        "Another version of shrinkd wrote that policy",
        (
            "It is kept as it is, and not carried out. Run the version that wrote it, or DELETE it and "
            "write it anew."
        ),
    ),
    (
        errors.GroupNotEmpty,
        409,
        "group-not-empty",
        "The group is not empty",
        "End or move its processes and remove the groups inside first.",
    ),
    (
        errors.GroupNotManaged,
        403,
        "group-not-managed",
        "The group was not made here",
        "Only groups made through this API are removed through it.",
    ),
    (
        errors.ProtectedGroup,
        403,
        "protected-group",
        "This daemon is in that group",
        (
            "It would be squeezed, and answer nobody: take another group. `own_group` of /v1/node "
            "tells where the daemon is, if it knows."
        ),
    ),
    (
        errors.Unauthenticated,
        401,
        "unauthenticated",
        "Nobody knows who you are",
        (
            "Send `Authorization: Bearer` with a token of `shrinkd token make`, or a client "
            "certificate."
        ),
    ),
    (
        errors.TokenRefused,
        401,
        "token-refused",
        "The token does not hold",
        (
            "It is unknown, expired or revoked; who asks is not told which. `shrinkd token list` tells "
            "who runs the daemon."
        ),
    ),
    (
        errors.Forbidden,
        403,
        "forbidden",
        "You may not do that",
        "`scope` is what it takes; who runs the daemon gives it with `shrinkd token make`.",
    ),
    (
        errors.AmbiguousReference,
        409,
        "ambiguous-reference",
        "More than one group answers to that",
        "Pick one of `candidates` by its id or path.",
    ),
    (errors.Busy, 409, "busy", "The kernel is busy", "Try again."),
    (
        errors.GroupBusy,
        409,
        "group-busy",
        "The kernel holds the group busy",
        "Try again; if it stays so, look who else writes to the group.",
    ),
    (
        errors.LimitBelowUsage,
        409,
        "limit-below-usage",
        "The limit is below what the group uses",
        (
            "A limit takes effect at once or changes nothing at all: no limit was moved and not "
            "one page of cache was dropped. "
            "`next` is the request that shrinks first and then sets it; it succeeds if enough can "
            "be reclaimed "
            "(`reclaimable_estimate_bytes` against `shortfall_bytes`). `room_bytes`, for a group "
            "that grows too fast to be limited so "
            "closely, is how far below the limit its usage has to be."
        ),
    ),
    (
        errors.LimitOrder,
        409,
        "limit-order",
        "The limit contradicts another one",
        (
            "Change both in one request. cgroup v1 counts memory and swap together, so max_bytes "
            "cannot pass that sum."
        ),
    ),
    (
        errors.Unsupported,
        422,
        "unsupported",
        "This node cannot do that",
        "GET /v1/node tells what it can.",
    ),
    (
        errors.UnsupportedLimit,
        422,
        "unsupported-limit",
        "This kernel has no such limit",
        "`unsupported` in GET limits names what it lacks.",
    ),
    (
        errors.UnsupportedOption,
        422,
        "unsupported-option",
        "This kernel does not take that option",
        "GET /v1/node tells the capabilities. Leave the option out.",
    ),
    (
        errors.ShrinkInProgress,
        409,
        "shrink-in-progress",
        "The group is being shrunk",
        "One shrink at a time per group. `Location` is the running one: wait for it, or cancel it.",
    ),
    (
        errors.ShrinkStalled,
        409,
        "shrink-stalled",
        "No progress in five passes",
        (
            "What is left cannot be reclaimed: anonymous memory without swap, locked pages, or a "
            f"workload that charges as fast. {_STAYS} "
            "Choose a higher target, add swap, or stop the workload."
        ),
    ),
    (
        errors.TimedOut,
        504,
        "shrink-timed-out",
        "The shrink ran out of time",
        f"{_STAYS} Start another with a longer timeout_seconds, or a higher rate.",
    ),
    (errors.Interrupted, 409, "shrink-cancelled", "The shrink was cancelled", _STAYS),
    (
        errors.DaemonStopped,
        503,
        "shrink-interrupted",
        "The daemon stopped in the shrink",
        (
            "What was reclaimed stays reclaimed. GET its limits to see whether one was set, then start "
            "it again."
        ),
    ),
    (
        errors.ShrinkFinished,
        409,
        "shrink-finished",
        "The shrink has finished",
        "There is nothing left to cancel.",
    ),
    (
        errors.TooManyShrinks,
        429,
        "too-many-shrinks",
        "Too many shrinks are waiting",
        "Try again after Retry-After, when some have finished.",
    ),
    (
        errors.TooManySimulations,
        429,
        "too-many-simulations",
        "Too many simulations run or wait",
        "Wait until some of `active` have finished, or cancel one.",
    ),
    (
        errors.TooManyStreams,
        429,
        "too-many-streams",
        "Too many streams are open",
        "Close one, or let those who listen share one.",
    ),
    (
        errors.EventsExpired,
        410,
        "events-expired",
        "Those events are not kept any more",
        "Look at what is, then go on behind `newest_id`.",
    ),
    (
        errors.TooManyRequests,
        429,
        "too-many-requests",
        "Too many requests wait for their answers",
        "Let some be answered first. Answers that stream do not count once they have begun.",
    ),
    (
        errors.MisdirectedRequest,
        421,
        "misdirected-request",
        "That name is not this daemon's",
        "Use its address, or localhost; another name of it goes into SHRINKD_HOSTS.",
    ),
    (
        errors.CrossSiteRequest,
        403,
        "cross-site-request",
        "A page from elsewhere sent that",
        (
            "Changes are taken from programs and from this daemon's own pages. Let the page's own "
            "server ask."
        ),
    ),
    (errors.NotReady, 503, "not-ready", "The daemon is not ready", "Try again after Retry-After."),
    (
        errors.PreconditionFailed,
        412,
        "precondition-failed",
        "It has changed since you read it",
        "Read it again, decide again, and send the new ETag.",
    ),
    (
        errors.KeyInUse,
        409,
        "idempotency-key-in-use",
        "The first request with this key still runs",
        "Try again after Retry-After.",
    ),
    (
        errors.KeyReused,
        422,
        "idempotency-key-reused",
        "Another request had this key",
        "Give each request its own, for its retries.",
    ),
    (
        errors.OutcomeUnknown,
        409,
        "idempotency-outcome-unknown",
        "The daemon died in it",
        "Look what is there, then take a new key.",
    ),
    (
        errors.StoreUnavailable,
        503,
        "store-unavailable",
        "The database cannot be used",
        "Free disk space, or look who has it locked; then try again.",
    ),
    (
        errors.KernelRefused,
        500,
        "kernel-refused",
        "The kernel gave an unexpected answer",
        "`errno` is what it said. Report it with the request id.",
    ),
    (
        errors.OutOfResources,
        503,
        "out-of-resources",
        "This host is short of something",
        (
            "`errno` tells of what: EMFILE, of open files (raise LimitNOFILE or ulimit -n); ENOMEM, of "
            "memory. Nothing is known of the groups."
        ),
    ),
    (
        errors.NotWritable,
        503,
        "not-writable",
        "The controller cannot be written to",
        "Run the daemon as root, with the controller mounted read-write.",
    ),
    (
        errors.BackendUnavailable,
        503,
        "backend-unavailable",
        "There is no memory controller",
        "See SHRINKD_BACKEND in the README.",
    ),
    (
        errors.SettingsError,
        500,
        "settings-error",
        "A setting is wrong",
        "See the settings in the README.",
    ),
)
