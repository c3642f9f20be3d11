"""The model of a policy: the members that all kinds share, around the spec of its kind."""

import re
from datetime import datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from pydantic import Field, TypeAdapter, ValidationError, create_model, model_validator

from shrinkd.backends import Group
from shrinkd.errors import PolicyUnreadable
from shrinkd.groups import aliases_of, matches
from shrinkd.policies.cron import Cron, Timezone, names
from shrinkd.policies.kind import NAME, Swap, kinds
from shrinkd.strict_model import Size, Strict, pointer, reason

Scope = Literal["self", "children", "leaves"]
_GLOB = re.compile(r"[*?[]")


class Selector(Strict):
    """The groups of a policy.

    Exactly one of group, parent and alias finds groups; scope says which groups there are meant.
    A group that appears later is selected when it appears. The root and the daemon's own groups
    are never selected.
    """

    group: str | None = Field(
        default=None, min_length=1, max_length=4096, examples=["kubepods.slice/*"]
    )
    """A path as a glob, component by component: a * does not cross a slash."""
    parent: str | None = Field(default=None, max_length=4096, examples=["kubepods.slice", ""])
    """A path: the groups right below it ("" is the root), or with the scope leaves all below it
    that have no groups inside."""
    alias: str | None = Field(
        default=None, min_length=1, max_length=4096, examples=["unit:nginx*.service"]
    )
    """A glob over the aliases of a group, such as container:…, pod:… and unit:…."""
    scope: Scope = "self"
    """What was found itself, the groups right below it, or those below it, itself included, that
    have no groups inside."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(way is not None for way in (self.group, self.parent, self.alias)) != 1:
            raise ValueError("give exactly one of group, parent and alias")
        return self

    @property
    def reach(self) -> str:
        """The path of the narrowest group that has every selectable group at or below it.

        "" is the root.
        """
        if self.parent is not None:
            return self.parent.strip("/")
        components = (self.group or "*").strip("/").split("/")
        return "/".join(takewhile(lambda component: not _GLOB.search(component), components))

    def select(self, groups: list[Group]) -> list[Group]:
        """Return the selected groups of all (parents before children, the root among them)."""
        found = {group.path for group in groups if self._finds(group.path)}
        scope = "children" if self.parent is not None and self.scope == "self" else self.scope
        if scope == "self":
            return [group for group in groups if group.path and group.path in found]
        if scope == "children":
            return [group for group in groups if group.path and _parent(group.path) in found]
        inner = {_parent(group.path) for group in groups if group.path}
        # below a parent is not the parent itself, even when it has no groups inside
        itself = found if self.parent is not None else set[str]()
        leaves = [group for group in groups if group.path and group.path not in inner | itself]
        return [group for group in leaves if not found.isdisjoint(_chain(group.path))]

    def _finds(self, path: str) -> bool:
        if self.parent is not None:
            return path == self.parent.strip("/")
        if self.group is not None:
            return bool(path) and matches(self.group.strip("/"), path)
        return any(matches(str(self.alias), alias) for alias in aliases_of(path))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _chain(path: str) -> list[str]:
    """Return a path and those of all groups above it, with the root's."""
    components = path.split("/")
    return ["", *("/".join(components[:depth]) for depth in range(1, len(components) + 1))]


class Floor(Strict):
    """The least memory that a policy leaves a group: the larger of the two."""

    bytes: Size = 64 << 20
    percent_of_limit: float = Field(default=0.0, ge=0, le=100)
    """Of the effective limit; nothing where there is none."""


class Active(Strict):
    """The times in which a policy acts; outside of them it only decides."""

    windows: list[Cron] = Field(
        min_length=1, max_length=32, examples=[["* 22-23 * * *", "* 0-5 * * *"]]
    )
    """Cron expressions of five fields: it is active in every minute that one of them names."""
    timezone: Timezone = "UTC"
    """The time zone of the windows."""

    def covers(self, wall: datetime) -> bool:
        return any(names(window, self.timezone, wall) for window in self.windows)


class Draft(Strict):
    """A policy whose name may be left out, since the address has it."""

    name: str | None = Field(None, pattern=NAME, examples=["keep-headroom"])
    kind: str
    enabled: bool = True
    mode: Literal["enforce", "observe"] = "enforce"
    """observe decides and records as enforce does, and changes nothing."""
    priority: int = Field(default=100, ge=0, le=1_000_000)
    """Among policies of one kind the smaller number goes first."""
    selector: Selector
    floor: Floor = Floor()
    swap: Swap = "allow"
    """Whether reclaim may take anonymous memory, or file cache, or both: where the kernel takes a
    swappiness, or swap is off."""
    active: Active | None = None
    spec: Any


class Policy(Draft):
    """A policy: its groups, its floor, its times, and the spec of its kind."""

    name: str = Field(pattern=NAME, examples=["keep-headroom"])


def _of_kind(name: str, base: type[Draft] = Policy) -> type[Draft]:
    spec = kinds()[name].spec
    # a spec whose fields all have defaults may be left out
    whole = (
        ...
        if any(field.is_required() for field in spec.model_fields.values())
        else Field(default_factory=spec)
    )
    fields: dict[str, Any] = {"kind": (Literal[name], ...), "spec": (spec, whole)}
    title = f"{name.title()}{'Policy' if base is Policy else base.__name__}"
    return create_model(title, __base__=base, __doc__=base.__doc__, **fields)


# a union, which is no type to a checker
def _of_any_kind(base: type[Draft]) -> Any:  # noqa: ANN401
    models = tuple(_of_kind(name, base) for name in kinds())
    # X | Y takes no tuple
    return Annotated[Union[models], Field(discriminator="kind")]  # noqa: UP007


if TYPE_CHECKING:
    AnyPolicy = Policy
    PolicyDraft = Draft
else:
    AnyPolicy = _of_any_kind(Policy)
    PolicyDraft = _of_any_kind(Draft)
_adapter: TypeAdapter[Policy] = TypeAdapter(AnyPolicy)


def parse(value: object) -> Policy:
    """Make a policy from stored JSON values. Raises pydantic.ValidationError."""
    return _adapter.validate_python(value)


def restore(value: object) -> Policy:
    """Parse a row that another version of this daemon may have written.

    Raises PolicyUnreadable, whose text says in one line what is wrong.
    """
    try:
        return parse(value)
    except ValidationError as error:
        wrong = "; ".join(
            f"{pointer(row['loc'])}: {reason(row['msg'])}"
            for row in error.errors(include_url=False)
        )
        raise PolicyUnreadable(wrong) from None


def written(policy: Policy) -> dict[str, Any]:
    """Return a policy as JSON values without the members that its writer left out.

    So a later version may have another default for them.
    """
    return policy.model_dump(mode="json", exclude_unset=True)


def means_the_same(one: Policy, other: Policy) -> bool:
    """Return whether two policies are equal once their defaults are filled in."""
    return one.model_dump(mode="json") == other.model_dump(mode="json")
