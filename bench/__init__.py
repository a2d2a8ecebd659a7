"""Benchmarks beside a peer in the same process; the peer also serves the tests as their oracle."""
