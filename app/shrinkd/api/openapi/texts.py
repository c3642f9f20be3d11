"""Texts of the OpenAPI document that belong to no single route."""

from typing import Any

DESCRIPTION = """
Lower a container's memory limit without killing it.

- `PATCH …/limits` compares and sets: it takes effect, or it answers 409 and nothing has changed.
- `POST …/shrinks` reclaims first, as a job with progress, a deadline and a cancel operation.
- An address names a group by its path, with slashes as they are or as `%2F`, or by another of its
  names, such as `container:…`.
- Sizes are accepted as bytes or as `"400M"` (always binary) and answered in bytes; no limit is
  `null`.
- `?dry_run=true` makes every check of a change and changes nothing.
- Single resources have an `ETag`, for `If-None-Match` and, where they can be changed, `If-Match`;
  an `If-Match` that does not match is 412.
- A POST with an `Idempotency-Key` takes effect once, however often it is sent; with
  `Prefer: return=minimal` the answer has no body.
- Lists have pages: send `next_page_token` as `?page_token=`, or follow `Link`, which holds the
  whole address.
- Every error is `application/problem+json`; its `type` is a page of this daemon that explains it.
- A token or a client certificate has scopes, `read`, `write` or `admin`, for all groups or for a
  subtree. Groups that a caller may not read are answered with 404.
- Every answer has a `Request-Id`, which the log and the `instance` of a problem repeat.
"""
TAGS = [
    {
        "name": "groups",
        "description": "Control groups, named by their path or by the container, pod, unit or "
        "process in them.",
    },
    {"name": "limits", "description": "Compare and set limits, at once."},
    {"name": "shrinks", "description": "Reclaim memory as a job, then set a limit if wanted."},
    {
        "name": "policies",
        "description": "Rules by which the daemon adjusts the memory of groups, and the decisions "
        "that it made.",
    },
    {"name": "events", "description": "Events of the daemon, as pages or as a stream."},
    {
        "name": "stats",
        "description": "Memory statistics, the same on every kernel, read when requested.",
    },
    {
        "name": "simulator",
        "description": "The workloads, the clock and the faults of a simulated machine; 404 on a "
        "real kernel.",
    },
    {
        "name": "simulations",
        "description": "Policies tried on a simulated machine, before a host runs them.",
    },
    {"name": "node", "description": "Facts and capabilities of this machine."},
    {"name": "audit", "description": "Every attempted change, with its caller and its outcome."},
    {"name": "health", "description": "For supervisors, load balancers and bug reports."},
    {"name": "docs", "description": "Pages for people."},
]
SECURITY_SCHEMES = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of `shrinkd token make`, with its scopes and until it expires.",
    },
    "certificate": {
        "type": "mutualTLS",
        "description": "A client certificate, with the scopes that its common name was given.",
    },
}
HEADERS: dict[str, tuple[str, dict[str, str]]] = {
    "ETag": (
        "Identifies this state, strongly: for If-None-Match and If-Match.",
        {"type": "string"},
    ),
    "Link": (
        'The address of the next page as rel="next", if there is one (RFC 8288).',
        {"type": "string"},
    ),
    "Location": (
        "The address of the resource that was created, or of the one that is in the way.",
        {"type": "string", "format": "uri-reference"},
    ),
    "Idempotency-Replayed": (
        "`true`: nothing was done now; this is the stored answer to the first request of this key.",
        {"type": "string"},
    ),
    "Preference-Applied": (
        "The preferences of `Prefer` that were honoured: `wait=N`, `return=minimal`.",
        {"type": "string"},
    ),
    "Request-Id": (
        "The id of this request in the log: the client's own if it has a safe form.",
        {"type": "string"},
    ),
    "WWW-Authenticate": ("How to authenticate (RFC 6750).", {"type": "string"}),
    "Retry-After": (
        "Seconds after which to look or try again, where that may help.",
        {"type": "integer"},
    ),
}
"""Description and schema of each response header."""
IDEMPOTENCY_KEY = (
    "A name for this request that its retries repeat: it takes effect once, and retries get the "
    "stored answer. Kept for 24 h, for each caller and operation separately; a dry run leaves the "
    "key unused. 1 to 255 printable ASCII characters, with quotes around them or without."
)
PREFER = "`return=minimal`: no body if it succeeds; a dry run and a batch keep theirs."
STREAMED = (
    " The first block is `retry` alone, and after 15 s without an event comes a comment. The last "
    "event is `problem`, whose data is the problem document, if the stream cannot go on, and "
    "`closing` if the daemon stops."
)
MEANINGS = {
    "200": "As requested.",
    "201": "Created. `Location` is its address (a dry run has none).",
    "202": "Accepted. `Location` is its address (a dry run has none), and `Retry-After` says when "
    "to look again.",
    "204": "Done.",
    "207": "The outcome of each item, in the order of the request; each has a status of its own.",
}
"""Descriptions of successful responses, in place of those that FastAPI generates."""
_GIBIBYTE = 2**30
PROBLEM_EXAMPLES: dict[str, dict[str, Any]] = {
    "limit-below-usage": {
        "detail": "Cannot set max_bytes to 67108864 (64 MiB): the group uses 371195904 bytes (354 "
        "MiB).",
        "group": {"id": "354371", "path": "web"},
        "field": "max_bytes",
        "requested_bytes": 67108864,
        "usage_bytes": 371195904,
        "shortfall_bytes": 304087041,
        "reclaimable_estimate_bytes": 268435456,
        "peak_bytes": 371195904,
        "current_max_bytes": _GIBIBYTE,
        "next": {
            "method": "POST",
            "href": "/v1/groups/web/shrinks",
            "body": {"target_bytes": 67108864, "set_max_bytes": 67108864},
        },
    },
    "invalid-request": {
        "detail": "query/dryrun: not a parameter of this operation; there are: dry_run.",
        "errors": [
            {
                "pointer": "query/dryrun",
                "detail": "not a parameter of this operation; there are: dry_run",
            }
        ],
    },
    "events-expired": {
        "detail": "The event 7 is too old: event 1042 is the oldest that is kept.",
        "after": 7,
        "oldest_id": 1042,
        "newest_id": 201041,
    },
    "range-too-large": {
        "detail": "That is 21600 steps for each of 6 fields, and one answer has at most 10000 "
        "values.",
        "steps": 21600,
        "fields": 6,
        "most_values": 10000,
    },
    "unauthenticated": {
        "detail": "A token is required: send Authorization: Bearer and a token of `shrinkd token "
        "make`."
    },
    "forbidden": {
        "detail": "That takes the scope 'write@web', which 'token:ci' does not have.",
        "scope": "write@web",
    },
    "shrink-in-progress": {
        "detail": "A shrink of this group is in progress: wait for it, or cancel it.",
        "group": {"id": "354371", "path": "web"},
        "shrink": {
            "id": "019a1b2c3d4e5f60718293a4b5c6d7e8",
            "href": "/v1/shrinks/019a1b2c3d4e5f60718293a4b5c6d7e8",
        },
    },
}
"""Members of the example of a problem, by its slug."""
