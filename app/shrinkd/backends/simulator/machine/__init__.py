"""The simulated machine.

Cgroups, processes, reclaim, swap, pressure and time, as rules over counts of pages.

    machine    Machine: what happens (charge, release, refault, reclaim, kill, advance)
    tree       groups, areas of memory, processes, and the counters of each
    reclaim    which pages go; swap: where to; pressure: what waiting for them comes to
    profiles   what differs between kernels, and the algorithms by which their control files are written
    workloads  what processes do with memory as time passes; gallery/ has scenarios of them as JSON
    clock      whose time it is

Nothing here knows a thread, a wall clock, a Backend or an HTTP error: time is what advance() is
told. The same calls from the same start lead to the same memory.
"""
