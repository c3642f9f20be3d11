"""Programs for those who work on shrinkd; none of them is part of the product."""
