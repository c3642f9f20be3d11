"""Parse pressure stall information of a group or the machine.

The format is that of Documentation/accounting/psi.rst.
"""

import re

from shrinkd.backends.cgroup.procfs import read_file
from shrinkd.backends.readings import Pressure, Stall
from shrinkd.errors import ignoring_unreadable

_VALUE = re.compile(rb"=([0-9.]+)")


def parse_pressure(text: bytes) -> Pressure:
    """Parse the two lines of a memory.pressure."""
    some, full = text.rstrip(b"\n").split(b"\n")
    return Pressure(some=_parse_stall(some), full=_parse_stall(full))


def machine_pressure() -> Pressure | None:
    """Read the pressure of the whole machine; None on a kernel without PSI.

    A kernel built or started without PSI has no such file, or refuses to read it. May raise
    OSError.
    """
    with ignoring_unreadable():
        return parse_pressure(read_file("/proc/pressure/memory"))
    return None


def _parse_stall(line: bytes) -> Stall:
    avg10, avg60, avg300, total = _VALUE.findall(line)
    return Stall(float(avg10), float(avg60), float(avg300), int(total))
