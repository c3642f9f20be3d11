"""The hosts that the conformance suite runs on.

Every *_host.py beside this file, each a parameter of `host`.
"""

from collections.abc import Iterator

import pytest

from tests.backends.hosts import HOST_NAMES, Host, SwapHost, opened


@pytest.fixture(params=HOST_NAMES)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """One host after the other."""
    with opened(request.param) as host:
        yield host


@pytest.fixture
def swap(host: SwapHost) -> Iterator[None]:
    """Swap for one test, which is marked as `on("swap")`."""
    with host.swap():
        yield
