"""The tests of shrinkd: they mirror app, file by file."""

import pytest

pytest.register_assert_rewrite(
    "tests.support.leaks", "tests.support.problem_checks", "tests.support.shrink_requests"
)
