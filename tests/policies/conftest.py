"""Fixtures that several tests of policies share."""

from tests.policies.test_controller import build

__all__ = ["build"]
