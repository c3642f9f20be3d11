"""Policy authorization: callers need scope over every group the selector could ever match.

Groups that exist now do not count: one that is made later may match as well.
"""

from typing import Annotated

from fastapi import Depends

from shrinkd.api.http.dependencies import AllParts, Calling
from shrinkd.auth import Caller, Level
from shrinkd.errors import PolicyNotFound
from shrinkd.policies import Policy, StoredPolicy, kinds


def is_visible(caller: Caller, stored: StoredPolicy) -> bool:
    """Tell whether the caller may read every group that the policy could match.

    Its status and its decisions disclose all of them.
    """
    return caller.may(Level.READ, stored.policy.selector.reach)


def require_policy(caller: Caller, policy: Policy) -> None:
    """Raise Forbidden unless the caller may write to every group that the policy could match.

    A policy that could match any group, or that switches other policies, needs the scope admin.
    """
    reach = policy.selector.reach
    if not reach or kinds()[policy.kind].switches(policy.spec):
        caller.require(Level.ADMIN)
    caller.require(Level.WRITE, reach)


def require_change(caller: Caller, stored: StoredPolicy) -> None:
    """Check that the caller may replace or delete a policy.

    Raises PolicyNotFound if the policy is not visible to the caller, else as `require_policy`.
    """
    if not is_visible(caller, stored):
        raise _not_found(stored.policy.name)
    require_policy(caller, stored.policy)


async def _readable(parts: AllParts, caller: Calling, name: str) -> str:
    # A policy of another version is not among all(): its selector cannot be read, so only callers
    # who may read the whole node learn that it exists.
    if not caller.may(Level.READ) and not any(
        stored.policy.name == name and is_visible(caller, stored) for stored in parts.policies.all()
    ):
        raise _not_found(name)
    return parts.policies.get(name).policy.name


def _not_found(name: str) -> PolicyNotFound:
    return PolicyNotFound(f"There is no policy {name!a}.")


Readable = Annotated[str, Depends(_readable)]
"""Name of a policy that is visible to the caller; else PolicyNotFound, or PolicyUnreadable."""
