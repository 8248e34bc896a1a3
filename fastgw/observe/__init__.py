"""Counters and access logs: what is recorded of every exchange."""

from fastgw.observe.ended import Ended, record_of
from fastgw.observe.log import AccessLog
from fastgw.observe.observer import Observer
from fastgw.observe.record import Record
from fastgw.observe.series import FAMILIES, Series

__all__ = ["FAMILIES", "AccessLog", "Ended", "Observer", "Record", "Series", "record_of"]
