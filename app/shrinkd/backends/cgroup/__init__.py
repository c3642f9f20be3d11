"""Share cgroupfs access between v1 and v2: groups, control files, mounts and triggers."""
