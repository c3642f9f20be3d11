"""The hosts that the conformance suite runs on: every *_host.py beside this file, each a parameter of `host`."""

import importlib
from collections.abc import Iterator

import pytest

from tests.backends.hosts import HOST_NAMES, Host, SwapHost


@pytest.fixture(params=HOST_NAMES)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """One host after the other. An absent one is a visible skip, which tests/conftest.py makes a failure where CI wants them all."""
    module = importlib.import_module(f"tests.backends.{request.param}_host")
    if reason := module.absent():
        pytest.skip(f"the host {request.param} is absent: {reason}")
    with module.open_host() as opened:
        yield opened


@pytest.fixture
def swap(host: SwapHost) -> Iterator[None]:
    """Swap for one test, which is marked as `on("swap")`."""
    with host.swap():
        yield
