"""Problem types (RFC 9457): the table from error classes and HTTP statuses to problems."""

from shrinkd import errors
from shrinkd.api.http.problem_types.problem import Problem, ProblemTable
from shrinkd.api.http.problem_types.requests import HTTP_PROBLEMS, REQUEST_PROBLEMS
from shrinkd.api.http.problem_types.resources import RESOURCE_PROBLEMS
from shrinkd.errors import ShrinkdError

__all__ = ["BY_SLUG", "BY_STATUS", "PROBLEMS", "Problem", "problem_of"]

PROBLEMS: ProblemTable = REQUEST_PROBLEMS | RESOURCE_PROBLEMS
"""Problem of each error class. A class without an entry takes that of its nearest base class."""
BY_STATUS = HTTP_PROBLEMS | {
    404: PROBLEMS[errors.NotFound],
    500: PROBLEMS[errors.ShrinkdError],
}
"""Problem of each HTTP status that the framework or the server answers by itself."""
BY_SLUG = {problem.slug: problem for problem in (*PROBLEMS.values(), *BY_STATUS.values())}
"""Every problem by the last part of its `type`."""


def problem_of(error: ShrinkdError) -> Problem:
    """Return the problem of the error's class, or of its nearest base class that has one."""
    return next(PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS)
