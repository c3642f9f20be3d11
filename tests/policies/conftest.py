"""The fixture of machines with a controller, which several modules of tests use."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Any]:
    """Make machines with a controller, and close them after the test."""
    # not at the top: pytest has to rewrite the asserts of that module first
    from tests.policies.test_controller import House  # noqa: PLC0415

    built: list[House] = []

    def make(groups: Mapping[str, Any], **more: Any) -> House:
        built.append(House(tmp_path / "shrinkd.db", groups, **more))
        return built[-1]

    yield make
    for house in built:
        house.close()
