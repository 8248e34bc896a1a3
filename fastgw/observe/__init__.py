"""Counters and access logs: what is recorded of every exchange."""

from fastgw.observe.ended import Ended, record_of
from fastgw.observe.families import FAMILIES, Family
from fastgw.observe.log import AccessLog
from fastgw.observe.observer import Observer
from fastgw.observe.record import Record
from fastgw.observe.series import Series
from fastgw.observe.totals import Totals, totals

__all__ = ["FAMILIES", "AccessLog", "Ended", "Family", "Observer", "Record", "Series", "Totals", "record_of", "totals"]
