"""Look up simulated groups by path and by incarnation."""

from shrinkd.backends.readings import Group
from shrinkd.backends.simulator.machine.accounting import Cgroup
from shrinkd.backends.simulator.machine.kernel_profiles import LIMIT_FIELDS
from shrinkd.backends.simulator.machine.machine import Machine
from shrinkd.backends.walks import LONGEST_PATH_BYTES, Listing, SkippedEntries
from shrinkd.errors import GroupGone, GroupNotFound


def find(machine: Machine, path: str) -> Cgroup:
    if (cgroup := machine.cgroups.get(path)) is None:
        raise GroupNotFound(f"There is no group {path!a}.")
    return cgroup


def children_of(machine: Machine, group: Group) -> Listing:
    """List the children of a group, except those whose path no kernel resolves.

    A process in the machine could have made them.
    """
    skipped, found = SkippedEntries(), []
    for child in machine.cgroups[group.path].children:
        if len(child.path.encode()) > LONGEST_PATH_BYTES:
            skipped.add(child.path, "ENAMETOOLONG")
        else:
            found.append(Group(child.path, child.id))
    return Listing(found, skipped if skipped.counts else None)


def live(machine: Machine, group: Group) -> Cgroup:
    cgroup = machine.cgroups.get(group.path)
    if cgroup is None or cgroup.id != group.id:
        raise GroupGone(f"The group {group.path!a} was removed.", group=group)
    return cgroup


def readable(machine: Machine, group: Group) -> Cgroup:
    """Return the group, or for the id 0 (a dry run's) a new one that is in no machine."""
    return (
        live(machine, group)
        if group.id
        else Cgroup(group.path, 0, find(machine, group.path.rpartition("/")[0]))
    )


def dry_run_copy(machine: Machine, group: Group) -> Cgroup:
    """Copy the limits and usage of a group to one in no machine, for a dry run."""
    real = readable(machine, group)
    tried = Cgroup(group.path, group.id, real.parent)
    for name in ("usage", "swap", "memsw", *LIMIT_FIELDS.values()):
        setattr(tried, name, getattr(real, name))
    return tried
