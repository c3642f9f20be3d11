"""The rule "is this path below that one", which authorization, protection and policies share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkd.paths import are_nested, is_at_or_below, is_below

COMPONENTS = st.lists(st.text("ab-.%_é", min_size=1, max_size=3), max_size=4)
"""Components of a path; few letters, so that one is often the beginning of another."""


@given(COMPONENTS, COMPONENTS)
def test_a_path_is_at_or_below_another_where_its_components_begin_with_those(
    path: list[str], ancestor: list[str]
) -> None:
    expected = path[: len(ancestor)] == ancestor
    assert is_at_or_below("/".join(path), "/".join(ancestor)) == expected
    assert is_below("/".join(path), "/".join(ancestor)) == (expected and path != ancestor)


@given(COMPONENTS, COMPONENTS)
def test_a_path_that_is_extended_is_below_what_it_was(path: list[str], more: list[str]) -> None:
    shorter, longer = "/".join(path), "/".join([*path, *more, "c"])
    assert is_at_or_below(longer, shorter)
    assert is_below(longer, shorter)
    assert not is_at_or_below(shorter, longer)
    assert are_nested(longer, shorter)
    assert are_nested(shorter, longer)


@given(st.tuples(COMPONENTS, COMPONENTS, COMPONENTS))
def test_to_be_at_or_below_is_a_partial_order(parts: tuple[list[str], ...]) -> None:
    one, two, three = ("/".join(part) for part in parts)
    assert is_at_or_below(one, one)
    assert one == two or not (is_at_or_below(one, two) and is_at_or_below(two, one))
    if is_at_or_below(one, two) and is_at_or_below(two, three):
        assert is_at_or_below(one, three)


@pytest.mark.parametrize(
    ("path", "ancestor", "at_or_below", "below"),
    [
        ("", "", True, False),
        ("a", "", True, True),
        ("", "a", False, False),
        ("a", "a", True, False),
        ("a/b", "a", True, True),
        ("ab", "a", False, False),
        ("a", "ab", False, False),
        ("a/bc", "a/b", False, False),
        ("a/b", "a/bc", False, False),
        ("A/b", "a", False, False),
    ],
)
def test_the_root_is_above_all_and_the_beginning_of_a_name_is_no_ancestor(
    path: str, ancestor: str, *, at_or_below: bool, below: bool
) -> None:
    assert is_at_or_below(path, ancestor) == at_or_below
    assert is_below(path, ancestor) == below


def test_a_group_is_nested_with_itself_and_with_what_is_above_and_below_and_with_nothing_else() -> (
    None
):
    assert [
        are_nested("a/b", other) for other in ("a/b", "a", "", "a/b/c", "a/bc", "a/c", "b")
    ] == [True] * 4 + [False] * 3
