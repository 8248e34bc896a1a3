"""Checks costs against the limits in `bench/budgets.toml`: `python -m bench.check`."""
