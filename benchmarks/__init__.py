"""Benchmarks: ``python -m benchmarks.NAME [--quick] [--json FILE]`` prints one table each."""
