"""Pressure stall information as the kernel prints it, Documentation/accounting/psi.rst: that of a group, and of the machine."""

from pathlib import Path

from app.backends import Pressure, Stall


def parse_pressure(text: bytes) -> Pressure:
    """The two lines of a memory.pressure."""
    some, full = (_parse_stall(line) for line in text.decode().splitlines())
    return Pressure(some=some, full=full)


def machine_pressure() -> Pressure | None:
    """What /proc tells of the whole machine; a kernel built or started without PSI has no such file."""
    try:
        return parse_pressure(Path("/proc/pressure/memory").read_bytes())
    except OSError:
        return None


def _parse_stall(line: str) -> Stall:
    avg10, avg60, avg300, total = (word.partition("=")[2] for word in line.split()[1:])
    return Stall(float(avg10), float(avg60), float(avg300), int(total))
