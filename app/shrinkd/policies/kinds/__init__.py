"""The kinds of policies, one module each; a module ends in `kind`, by which it is found."""
