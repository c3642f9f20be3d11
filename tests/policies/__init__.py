"""The kinds of policies: what is seen, and what is decided."""
