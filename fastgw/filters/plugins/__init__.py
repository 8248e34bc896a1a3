"""Filters from extension packages, and the reference documentation made from each filter's settings."""
