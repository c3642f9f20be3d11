"""Problems of a request itself: its form, its caller, its preconditions and its number."""

from shrinkd import errors
from shrinkd.api.http.problem_types.problem import Problem, ProblemTable

REQUEST_PROBLEMS: ProblemTable = {
    errors.InvalidRequest: Problem(
        422,
        "invalid-request",
        "The request is not valid",
        "Correct the parts that `errors` lists. Nothing was changed.",
    ),
    errors.RangeTooLarge: Problem(
        422,
        "range-too-large",
        "That is too much for one answer",
        "Request a shorter time, longer steps or fewer fields.",
    ),
    errors.MalformedBody: Problem(
        400,
        "malformed-body",
        "The body is not JSON",
        "Send one JSON value in UTF-8, nested less than 100 deep.",
    ),
    errors.BodyTooLarge: Problem(
        413,
        "body-too-large",
        "The body is too large",
        "No request of this API needs more than 64 KiB.",
    ),
    errors.UnsupportedMedia: Problem(
        415,
        "unsupported-media-type",
        "The body is not sent as JSON",
        "Send `Content-Type: application/json` (`curl --json` does).",
    ),
    errors.NotFound: Problem(
        404,
        "not-found",
        "There is no such thing",
        "Look the address up in the API documentation at /docs.",
    ),
    errors.ProblemNotFound: Problem(
        404,
        "problem-not-found",
        "There is no such problem",
        "GET /problems lists them.",
    ),
    errors.Unauthenticated: Problem(
        401,
        "unauthenticated",
        "Nobody knows who you are",
        "Send `Authorization: Bearer` with a token of `shrinkd token make`, or connect with a "
        "client certificate.",
    ),
    errors.TokenRefused: Problem(
        401,
        "token-refused",
        "The token does not hold",
        "The token is unknown, expired or revoked; the answer does not say which. On the daemon's "
        "host, the operator can look it up with `shrinkd token list`.",
    ),
    errors.Forbidden: Problem(
        403,
        "forbidden",
        "You may not do that",
        "`scope` is the scope that the request needs. The operator of the daemon grants it with "
        "`shrinkd token make`.",
    ),
    errors.MisdirectedRequest: Problem(
        421,
        "misdirected-request",
        "That name is not this daemon's",
        "Use the daemon's IP address or localhost. To use another host name, the operator adds it "
        "to SHRINKD_HOSTS.",
    ),
    errors.CrossSiteRequest: Problem(
        403,
        "cross-site-request",
        "A page from elsewhere sent that",
        "Only programs and the daemon's own pages may send changes. Send the change from the "
        "server of the page instead.",
    ),
    errors.PreconditionFailed: Problem(
        412,
        "precondition-failed",
        "It has changed since you read it",
        "Read it again, decide again, and send the new ETag.",
    ),
    errors.KeyInUse: Problem(
        409,
        "idempotency-key-in-use",
        "The first request with this key still runs",
        "Try again after Retry-After.",
    ),
    errors.KeyReused: Problem(
        422,
        "idempotency-key-reused",
        "Another request had this key",
        "Use a new key for each request, and the same key only to retry it.",
    ),
    errors.OutcomeUnknown: Problem(
        409,
        "idempotency-outcome-unknown",
        "The daemon died in it",
        "Read the state to see whether the first request took effect. To send it again, use a new "
        "key.",
    ),
    errors.TooManyRequests: Problem(
        429,
        "too-many-requests",
        "Too many requests wait for their answers",
        "Wait for some responses first. Streams do not count once they have started.",
    ),
    errors.TooManyStreams: Problem(
        429,
        "too-many-streams",
        "Too many streams are open",
        "Close a stream, or share one among several readers.",
    ),
}

HTTP_PROBLEMS = {
    400: Problem(
        400,
        "bad-request",
        "The request cannot be read",
        "Send a valid HTTP request.",
    ),
    405: Problem(
        405,
        "method-not-allowed",
        "That cannot be done here",
        "`Allow` lists the methods of this address.",
    ),
    408: Problem(
        408,
        "request-timeout",
        "The request did not arrive in time",
        "Send all of it within ten seconds of its first byte.",
    ),
    429: Problem(
        429,
        "too-many-connections",
        "Too many connections are open",
        "Reuse the open connections, or close some. One client may hold at most half of the "
        "connections that this daemon accepts.",
    ),
    431: Problem(
        431,
        "header-too-large",
        "The header is too large",
        "Send at most 64 KiB and 128 fields of header, and no trailers.",
    ),
    503: Problem(
        503,
        "overloaded",
        "This daemon has no room for another connection",
        "Try again after Retry-After.",
    ),
}
"""Problems that no error class stands for, by the status that the server or the framework uses."""
