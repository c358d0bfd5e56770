"""Bring embedding shards home from GPU clusters and make one trusted dataset of them."""
