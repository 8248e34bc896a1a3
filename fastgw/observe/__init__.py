"""Counters and access logs: what is recorded of every exchange."""

from fastgw.observe.observer import AccessLog, Observer
from fastgw.observe.record import Record
from fastgw.observe.series import FAMILIES, Series

__all__ = ["FAMILIES", "AccessLog", "Observer", "Record", "Series"]
