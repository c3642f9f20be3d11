"""Simulate a machine as a backend, with controls for its workloads, time and faults."""

from shrinkd.backends.simulator.backend import backend_class

__all__ = ["backend_class"]
