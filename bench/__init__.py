"""Benchmarks against what people use today; every figure is a ratio to a peer of the same run."""
