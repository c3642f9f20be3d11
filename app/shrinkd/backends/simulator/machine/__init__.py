"""Simulate cgroups, processes, reclaim, swap, pressure and time, as rules over counts of pages.

    machine          Machine: processes and groups, charge, release, refault, kill, advance
    accounting       groups, areas of memory, processes, and the counters of each
    reclaim          choose the pages to reclaim; swap: their destination; pressure: the stalls
    kernel_profiles  the differences between kernels; control_files: their write algorithms
    workloads        how processes use memory over time; gallery/ has scenarios as JSON
    clock            the time

This package uses no thread, wall clock, Backend or HTTP error: time is the argument of advance().
The same calls from the same start lead to the same memory.
"""
