"""Names for groups: from what a client writes to one incarnation, and from a path to the names that people know it by."""

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from urllib.parse import quote

from starlette.convertors import PathConvertor, register_url_convertor

from app.backends import Backend, Group, check_group_path
from app.errors import AmbiguousReference, GroupNotFound, InvalidRequest
from app.settings import Settings

_CONTAINER = re.compile(r"(?:docker-|cri-containerd-|crio-|libpod-)?([0-9a-f]{64})(?:\.scope)?")
_POD = re.compile(r"(?:kubepods(?:-\w+)?-)?pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?:\.slice)?")
_UNIT = re.compile(r"[^/]+\.(?:service|scope|slice|socket|mount|swap)")
_CONTAINER_PREFIX = re.compile(r"[0-9a-f]{12,64}")


class ReferenceConvertor(PathConvertor):
    """Whatever stands in the place of a group, line breaks included: it is for resolve() to refuse them."""

    regex = r"(?s:.*)"


class GroupConvertor(PathConvertor):
    """A reference that ends in no sub-resource: DELETE …/web/limits is 405 and never removes a group named limits."""

    regex = r"(?s:(?!.*/(?:limits|processes|shrinks|stats|policies|decisions)\Z).*)"


register_url_convertor("reference", ReferenceConvertor())
register_url_convertor("group", GroupConvertor())
_OWN_ADDRESS = re.compile(GroupConvertor.regex)


def href_of(group: Group) -> str:
    """The address of a group: its path, or its id where that path would mean something else."""
    reads_as_itself = _OWN_ADDRESS.fullmatch(group.path) and group.path.partition(":")[0] not in _MATCHERS
    return f"/v1/groups/{quote(group.path)}" if reads_as_itself else f"/v1/groups/id:{group.id}"


def aliases_of(path: str) -> list[str]:
    """The references besides its path and id that name a group, by its last component."""
    name = path.rpartition("/")[2]
    aliases = []
    if match := _CONTAINER.fullmatch(name):
        aliases.append(f"container:{match[1]}")
    if match := _POD.fullmatch(name):
        aliases.append(f"pod:{match[1].replace('_', '-')}")
    if _UNIT.fullmatch(name):
        aliases.append(f"unit:{name}")
    return aliases


def resolve(backend: Backend, reference: str) -> Group:
    """Find the group that a reference names: a path, id:, container:, pod: or unit:."""
    kind, colon, name = reference.partition(":")
    if colon and kind in _MATCHERS:
        below_the_root = backend.groups()[1:]  # the root itself takes no limit and cannot be shrunk
        return _only(reference, [group for group in below_the_root if _MATCHERS[kind](group, name)])
    return backend.groups(check_group_path(reference), depth=0)[0]


def may_change(settings: Settings, group: Group) -> Group:
    """Answer the group if SHRINKD_SUBTREES lets the daemon change it, else GroupNotFound."""
    if settings.subtrees and not any(_covers(pattern, group.path) for pattern in settings.subtrees):
        raise GroupNotFound(f"{group.path!a} is outside the subtrees that this daemon may change ({', '.join(settings.subtrees)}).")
    return group


def _covers(pattern: str, path: str) -> bool:
    """A pattern covers what it matches, component by component, and everything below; "/" covers all."""
    wanted, components = pattern.strip("/").split("/") if pattern.strip("/") else [], path.split("/")
    return len(components) >= len(wanted) and all(map(fnmatchcase, components, wanted))


def _by_container(group: Group, name: str) -> bool:
    if not _CONTAINER_PREFIX.fullmatch(name):
        raise InvalidRequest(f"container:{name!a} is no container id: give at least its first 12 hexadecimal digits.")
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
