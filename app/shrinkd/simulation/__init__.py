"""Try policies on a simulated machine, faster than time."""

from shrinkd.simulation.jobs import Simulation, SimulationJobs, lines, no_simulation
from shrinkd.simulation.run import Plan, Report

__all__ = [
    "Plan",
    "Report",
    "Simulation",
    "SimulationJobs",
    "lines",
    "no_simulation",
]
