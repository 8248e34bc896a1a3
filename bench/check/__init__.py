"""Whether anything became dearer than `bench/budgets.toml` allows: `python -m bench.check`."""
