"""The tests of shrinkd: they mirror app, file by file."""

import pytest

pytest.register_assert_rewrite("tests.leaks", "tests.problems", "tests.shrinking")
