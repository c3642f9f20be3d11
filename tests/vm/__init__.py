"""A virtual machine with another kernel, for the controller that this host does not have."""
