"""The documents: their form, their links, their examples, and how they are built."""
