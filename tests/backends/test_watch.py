"""What no backend can be brought to do at will: a group that goes while its watch is made."""

import pytest

from shrinkd.backends import EventsMove, Group, Trigger
from shrinkd.backends.watch import Source, open_watch
from shrinkd.errors import GroupGone
from tests.backends.simulator_host import open_host


def test_a_group_that_goes_while_its_watch_is_made_is_gone_and_not_unsupported() -> None:
    with open_host() as host:
        group = host.group()

        def find_nothing(group: Group, _: Trigger) -> Source:
            host.backend.remove(group)
            raise GroupGone(group.path)

        with pytest.raises(GroupGone):
            open_watch(host.backend, group, [EventsMove()], find_nothing)
