"""The lines of memory.stat, by name wherever they stand."""

from shrinkd.backends.cgroup.memory_stat import StatLines


def test_lines_are_found_wherever_they_stand() -> None:
    lines = StatLines(("b", "d"))
    assert lines.parse(b"a 1\nb 2\nc 3\nd 4\n") == {"b": 2, "d": 4}
    assert lines.parse(b"a 5\nb 6\nc 7\nd 8\n") == {"b": 6, "d": 8}
    assert lines.parse(b"d 1\nc 2\nb 3\na 4\n") == {"d": 1, "b": 3}
    assert lines.parse(b"b 1\nd 2\n") == {"b": 1, "d": 2}


def test_a_line_that_this_kernel_lacks_is_left_out() -> None:
    assert StatLines(("a", "b", "missing")).parse(b"a 1\nb 2\n") == {"a": 1, "b": 2}
