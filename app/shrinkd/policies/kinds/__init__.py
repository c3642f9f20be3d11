"""The kinds of policies, one module a kind: each ends in `kind`, by which it is found."""
