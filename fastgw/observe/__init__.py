"""Metrics and access logs of finished exchanges."""
