"""Counters and access logs: what is recorded of every exchange."""

from fastgw.observe.log import AccessLog
from fastgw.observe.observer import Observer
from fastgw.observe.record import Record
from fastgw.observe.series import FAMILIES, Series

__all__ = ["FAMILIES", "AccessLog", "Observer", "Record", "Series"]
