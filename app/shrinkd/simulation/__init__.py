"""Run policies on a simulated machine, faster than real time, before they run on a host."""

from shrinkd.simulation.jobs import Simulation, SimulationJobs, no_simulation, run_plan
from shrinkd.simulation.run import Plan, Report

__all__ = [
    "Plan",
    "Report",
    "Simulation",
    "SimulationJobs",
    "no_simulation",
    "run_plan",
]
