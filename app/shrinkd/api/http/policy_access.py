"""Which policies a caller may see and write.

By the groups that these can ever reach, and not by those that there are now.
"""

from typing import Annotated

from fastapi import Depends

from shrinkd.api.http.dependencies import Calling, Wired
from shrinkd.auth import Caller, Level
from shrinkd.errors import PolicyNotFound
from shrinkd.policies import Policy, StoredPolicy, kinds


def is_seen(caller: Caller, kept: StoredPolicy) -> bool:
    """Whether the caller may read all that the policy reaches.

    Its status and decisions tell of any of it.
    """
    return caller.may(Level.READ, kept.policy.selector.reach)


def require_policy(caller: Caller, policy: Policy) -> None:
    """Forbidden, unless the caller may write to all that the policy reaches.

    What may select any group of the node, or switches other policies, whatever those reach, is for
    who may do everything.
    """
    reach = policy.selector.reach
    if not reach or kinds()[policy.kind].switches(policy.spec):
        caller.require(Level.ADMIN)
    caller.require(Level.WRITE, reach)


def require_change(caller: Caller, kept: StoredPolicy) -> None:
    """Before another takes its place, or none.

    PolicyNotFound for what the caller does not see, Forbidden as in require_policy.
    """
    if not is_seen(caller, kept):
        raise _no_policy(kept.policy.name)
    require_policy(caller, kept.policy)


async def _readable(wiring: Wired, caller: Calling, name: str) -> str:
    # nobody knows what one reaches that another version wrote: that it is there is for those to
    # know who read everything
    if not caller.may(Level.READ) and not any(
        kept.policy.name == name and is_seen(caller, kept) for kept in wiring.policies.all()
    ):
        raise _no_policy(name)
    return wiring.policies.get(name).policy.name


def _no_policy(name: str) -> PolicyNotFound:
    return PolicyNotFound(f"There is no policy {name!a}.")


Readable = Annotated[str, Depends(_readable)]
"""The name of a policy, for who may read all that it reaches."""
