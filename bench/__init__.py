"""Benchmark of fastgw against other proxies: `python -m bench --help`."""
