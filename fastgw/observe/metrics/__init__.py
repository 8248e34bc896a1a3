"""Metrics: families, counters in shared memory with one writer per word, and totals over all processes."""
