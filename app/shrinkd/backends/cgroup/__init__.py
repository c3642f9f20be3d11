"""What cgroup v1 and v2 share.

The tree of groups, control files, and what the kernel tells of changes.
"""
