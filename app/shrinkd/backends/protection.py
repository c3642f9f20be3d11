"""Describe which group the daemon runs in, and refuse changes to that group and its ancestors."""

from dataclasses import dataclass

from shrinkd.backends.readings import Group
from shrinkd.errors import ProtectedGroup
from shrinkd.paths import are_nested, is_at_or_below


@dataclass(frozen=True, slots=True)
class OwnGroup:
    """Name the group that this daemon runs in; the default is none of the managed groups.

    Paths that are not UTF-8 are as os.fsdecode() returns them.
    """

    path: str | None = None
    """Its group, "" for the managed root; None if it is in none of these, or was not found."""
    suspects: tuple[str, ...] = ()
    """If it was not found: the unreadable groups, each of which may contain it, directly or
    below."""

    @property
    def uncertainty(self) -> str | None:
        """Explain what could not be determined and what follows; None if all was determined."""
        if not self.suspects:
            return None
        listed = ", ".join(ascii(path or "/") for path in self.suspects[:10]) + (
            ", …" if len(self.suspects) > 10 else ""
        )
        return (
            "This daemon cannot tell which group it is in, for /proc does not name it and it may "
            f"not look into {listed}: "
            "so these, those around them and those below are not changed. Run it as root, with "
            "/proc and all of the controller mounted."
        )

    def may_contain_daemon(self, path: str) -> bool:
        """Return whether this daemon runs, or may run, in the group of a path or below it."""
        is_near = any(are_nested(suspect, path) for suspect in self.suspects)
        return is_near or (self.path is not None and is_at_or_below(self.path, path))

    def may_be_charged_to_daemon(self, path: str) -> bool:
        """Return whether memory of this group is, or may be, charged to the daemon's own group.

        The managed root does not count as the daemon's own group.
        """
        return any(is_at_or_below(path, suspect) for suspect in self.suspects) or (
            bool(self.path) and is_at_or_below(path, str(self.path))
        )

    def refuse_own(self, group: Group) -> None:
        """Raise ProtectedGroup for a group that contains the daemon, directly or below."""
        if self.may_contain_daemon(group.path):
            sentence = (
                f"This daemon runs in {group.path!a} or below it, and would be changed with it."
            )
            raise ProtectedGroup(self.uncertainty_near(group.path) or sentence, group=group)

    def refuse_inside_own(self, path: str) -> None:
        """Raise ProtectedGroup for a path whose memory is charged to the daemon's own group."""
        if self.may_be_charged_to_daemon(path):
            sentence = (
                f"This daemon runs in {self.path!a}, and would share its memory with what "
                f"is in {path!a}: take a group beside it."
            )
            raise ProtectedGroup(self.uncertainty_near(path) or sentence)

    def uncertainty_near(self, path: str) -> str | None:
        """Explain why a change at a path is refused, without the names of other groups.

        None if the daemon's group is known.
        """
        sentence = (
            f"This daemon cannot tell which group it is in, and it may be near {path!a}: "
            "`own_group` of /v1/node says what it lacks."
        )
        return sentence if self.suspects else None
