"""Benchmarks: ratios to a floor or a peer, measured side by side in one run."""
