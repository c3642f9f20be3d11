"""What is kept of a tree of groups: as true as a walk, and read again where something changed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shrinkd.backends import Group
from shrinkd.backends.cgroup.listing_cache import ListingCache
from shrinkd.backends.cgroup.syscalls import Descriptor


@pytest.fixture
def listings(tmp_path: Path) -> Iterator[ListingCache]:
    listings = ListingCache(Descriptor(os.open(tmp_path, os.O_PATH)))
    yield listings
    listings.close()


def at(root: Path, path: str = "") -> Group:
    return Group(path, (root / path).stat().st_ino)


def inside(listings: ListingCache, group: Group) -> set[str]:
    listings.refresh()
    return {child.path for child in listings.listing_of(group).groups}


def test_what_was_listed_once_is_not_read_again(listings: ListingCache, tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    top = at(tmp_path)
    first = listings.listing_of(top)
    listings.refresh()
    assert listings.listing_of(top) is first


def test_a_group_that_comes_goes_or_is_renamed_is_told_at_once(
    listings: ListingCache, tmp_path: Path
) -> None:
    top = at(tmp_path)
    assert inside(listings, top) == set()
    (tmp_path / "web").mkdir()
    assert inside(listings, top) == {"web"}
    (tmp_path / "web").rename(tmp_path / "db")
    assert inside(listings, top) == {"db"}
    (tmp_path / "db").rmdir()
    assert inside(listings, top) == set()


def test_a_leaf_that_becomes_a_parent_is_told_at_once(
    listings: ListingCache, tmp_path: Path
) -> None:
    (tmp_path / "web").mkdir()
    web = at(tmp_path, "web")
    assert inside(listings, web) == set()
    (tmp_path / "web" / "worker").mkdir()
    assert inside(listings, web) == {"web/worker"}


def test_a_group_that_was_moved_is_known_by_its_new_path_alone(
    listings: ListingCache, tmp_path: Path
) -> None:
    (tmp_path / "web" / "worker").mkdir(parents=True)
    assert inside(listings, at(tmp_path, "web")) == {"web/worker"}
    (tmp_path / "web").rename(tmp_path / "db")
    moved = at(tmp_path, "db")
    assert inside(listings, moved) == {"db/worker"}
    (tmp_path / "db" / "another").mkdir()
    assert inside(listings, moved) == {"db/worker", "db/another"}


def test_one_that_is_made_again_has_nothing_of_the_one_before(
    listings: ListingCache, tmp_path: Path
) -> None:
    (tmp_path / "web" / "worker").mkdir(parents=True)
    before = at(tmp_path, "web")
    assert inside(listings, before) == {"web/worker"}
    (tmp_path / "web").rename(tmp_path / "aside")
    (tmp_path / "web").mkdir()
    assert inside(listings, before) == set()
    assert inside(listings, at(tmp_path, "web")) == set()


@pytest.mark.long
def test_more_changes_than_the_queue_holds_are_no_change_missed(
    listings: ListingCache, tmp_path: Path
) -> None:
    top = at(tmp_path)
    assert inside(listings, top) == set()
    other = tmp_path / "web"
    for _ in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) // 2 + 1):
        other.mkdir()
        other.rmdir()
    (tmp_path / "last").mkdir()
    assert inside(listings, top) == {"last"}


def test_without_watches_each_group_is_read_whenever_it_is_asked_for(tmp_path: Path) -> None:
    listings = ListingCache(Descriptor(os.open(tmp_path, os.O_PATH)), most=0)
    top = at(tmp_path)
    assert not listings.listing_of(top)
    (tmp_path / "web").mkdir()
    assert [child.path for child in listings.listing_of(top).groups] == ["web"]
    listings.close()
