"""What cgroup v1 and v2 share: the tree of groups, control files, and what the kernel tells of changes."""
