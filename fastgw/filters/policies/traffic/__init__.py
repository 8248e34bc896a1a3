"""Filters for the traffic of a route: its bandwidth, and injected faults."""

from fastgw.filters.policies.traffic.bandwidth import Bandwidth
from fastgw.filters.policies.traffic.fault import FaultInjection

__all__ = ["Bandwidth", "FaultInjection"]
