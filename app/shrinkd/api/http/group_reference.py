"""References to groups in addresses: resolve one to a group, and write the address of a group."""

import re
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote

from starlette.convertors import PathConvertor, register_url_convertor

from shrinkd.auth import Caller, Level
from shrinkd.backends import Backend, Group, check_group_path
from shrinkd.errors import AmbiguousReference, GroupNotFound, InvalidRequest
from shrinkd.groups import aliases_of, check_in_subtrees
from shrinkd.settings import Settings

_PROCESS = "pid"
_PROCESS_ID = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
_CONTAINER_PREFIX = re.compile(r"[0-9a-f]{12,64}")


class ReferenceConvertor(PathConvertor):
    """Path convertor that matches any reference, line breaks included; `resolve` refuses those."""

    regex = r"(?s:.*)"


class GroupConvertor(PathConvertor):
    """Path convertor that matches a reference which does not end in the name of a sub-resource.

    So DELETE …/web/limits is 405 and never removes a group named limits.
    """

    regex = (
        r"(?s:(?!.*/(?:limits|processes|shrinks|stats|stats/history|stats/stream|policies"
        r"|decisions)\Z).*)"
    )


register_url_convertor("reference", ReferenceConvertor())
register_url_convertor("group", GroupConvertor())
_OWN_ADDRESS = re.compile(GroupConvertor.regex)


def href_of(group: Group) -> str:
    """Return the address of a group: by its path, or by id if the path would be ambiguous."""
    is_unambiguous = _OWN_ADDRESS.fullmatch(group.path) and group.path.partition(":")[0] not in {
        *_MATCHERS,
        _PROCESS,
    }
    return f"/v1/groups/{quote(group.path)}" if is_unambiguous else f"/v1/groups/id:{group.id}"


def resolve(backend: Backend, reference: str, caller: Caller) -> Group:
    """Find the group that a reference names: a path, id:, container:, pod:, unit: or pid:.

    Groups that the caller may not read are not searched, so that no answer discloses whether they
    exist. Raises GroupNotFound, AmbiguousReference, InvalidGroupName or InvalidRequest.
    """
    kind, colon, name = reference.partition(":")
    if colon and kind == _PROCESS:
        return _by_process(backend, name, caller)
    if colon and kind in _MATCHERS:
        below_the_root = backend.groups()[1:]  # the root takes no limit and cannot be shrunk
        return _only(
            reference,
            [group for group in seen_by(caller, below_the_root) if _MATCHERS[kind](group, name)],
        )
    return backend.groups(check_readable(caller, check_group_path(reference)), depth=0)[0]


def seen_by(caller: Caller, groups: list[Group]) -> list[Group]:
    """Return the groups that the caller may read."""
    return (
        groups
        if caller.may(Level.READ)
        else [group for group in groups if caller.may(Level.READ, group.path)]
    )


def check_readable(caller: Caller, path: str) -> str:
    """Return the path if the caller may read a group there, whether one exists or not.

    Raises GroupNotFound with the same text as for a group that does not exist.
    """
    if not caller.may(Level.READ, path):
        raise GroupNotFound(f"There is no group {path!a}.")
    return path


def may_change(settings: Settings, group: Group) -> Group:
    """Return the group if SHRINKD_SUBTREES lets the daemon change it, else GroupNotFound."""
    return check_in_subtrees(settings.subtrees, group)


def _by_process(backend: Backend, name: str, caller: Caller) -> Group:
    if not _PROCESS_ID.fullmatch(name):
        raise InvalidRequest(f"pid:{name!a} is not a process id.")
    with suppress(GroupNotFound):
        group = backend.group_of(int(name))
        is_root = not group.path  # it takes no limit and cannot be shrunk
        if not is_root and caller.may(Level.READ, group.path):
            return group
    raise GroupNotFound(f"There is no process {name} in any group below the managed root.")


def _by_container(group: Group, name: str) -> bool:
    if not _CONTAINER_PREFIX.fullmatch(name):
        raise InvalidRequest(
            f"container:{name!a} is not a container id: give at least its first 12 hexadecimal "
            "digits."
        )
    return any(alias.startswith(f"container:{name}") for alias in aliases_of(group.path))


_MATCHERS: dict[str, Callable[[Group, str], bool]] = {
    "id": lambda group, name: str(group.id) == name,
    "container": _by_container,
    "pod": lambda group, name: f"pod:{name}" in aliases_of(group.path),
    "unit": lambda group, name: f"unit:{name}" in aliases_of(group.path),
}


def _only(reference: str, matches: list[Group]) -> Group:
    if not matches:
        raise GroupNotFound(f"There is no group {reference!a}.")
    if len(matches) > 1:
        paths = [{"id": str(group.id), "path": group.path} for group in matches]
        raise AmbiguousReference(f"{reference!a} names {len(matches)} groups.", candidates=paths)
    return matches[0]
