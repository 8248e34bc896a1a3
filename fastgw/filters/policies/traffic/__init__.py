"""Filters for the traffic of a route: its bandwidth."""

from fastgw.filters.policies.traffic.bandwidth import Bandwidth

__all__ = ["Bandwidth"]
