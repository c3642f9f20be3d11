"""Describe one kind of problem: its status, name, title and advice."""

from dataclasses import dataclass

from shrinkd.errors import ShrinkdError


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of problem, shown at /problems/<slug>. Clients match on slug and title."""

    status: int
    slug: str
    title: str
    advice: str
    """The action that a client can take, in one sentence or a few."""


ProblemTable = dict[type[ShrinkdError], Problem]
