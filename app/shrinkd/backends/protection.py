"""What a daemon knows of its own place among the groups, and what it refuses to do there and around
it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shrinkd.errors import ProtectedGroup
from shrinkd.paths import are_nested, is_at_or_below

if TYPE_CHECKING:
    from shrinkd.backends.protocol import Group


@dataclass(frozen=True, slots=True)
class OwnGroup:
    """Where this daemon is among the groups. By default it is in none of them.

    Paths of groups whose names are no UTF-8 are there as os.fsdecode() gives them.
    """

    path: str | None = None
    """Its group, "" for the managed root; None where it is in none of these, or in one that was not
    found."""
    suspects: tuple[str, ...] = ()
    """Where it was not found: the groups that could not be looked into, so that it may be in each
    of them or below."""

    @property
    def shortcoming(self) -> str | None:
        """Say what could not be found out, and what follows; None where everything was."""
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

    def is_around_us(self, path: str) -> bool:
        """Tell whether this daemon is in the group of a path or below it, as far as it can tell."""
        is_near = any(are_nested(suspect, path) for suspect in self.suspects)
        return is_near or (self.path is not None and is_at_or_below(self.path, path))

    def is_inside(self, path: str) -> bool:
        """Tell whether what the group of a path uses is, or may be, charged to this daemon's own
        group.

        All is to the managed root.
        """
        return any(is_at_or_below(path, suspect) for suspect in self.suspects) or (
            bool(self.path) and is_at_or_below(path, str(self.path))
        )

    def check_apart(self, group: "Group") -> None:
        """Raise ProtectedGroup for a group that this daemon is in, or that is around that one."""
        if self.is_around_us(group.path):
            sentence = (
                f"This daemon runs in {group.path!a} or below it, and would be changed with it."
            )
            raise ProtectedGroup(self.doubt(group.path) or sentence, group=group)

    def check_outside(self, path: str) -> None:
        """Raise ProtectedGroup for the path of what is to use memory, where this daemon would have
        to share its own with it.
        """
        if self.is_inside(path):
            sentence = (
                f"This daemon runs in {self.path!a}, and would share its memory with what "
                f"is in {path!a}: take a group beside it."
            )
            raise ProtectedGroup(self.doubt(path) or sentence)

    def doubt(self, path: str) -> str | None:
        """Say to who asks for a change at a path why it is not made, without the names of other
        groups.

        None where all is known.
        """
        sentence = (
            f"This daemon cannot tell which group it is in, and it may be near {path!a}: "
            "`own_group` of /v1/node says what it lacks."
        )
        return sentence if self.suspects else None
