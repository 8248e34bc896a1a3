"""Metrics and access logs of finished exchanges."""

from fastgw.observe.access_log.finished_exchange import FinishedExchange, record_of
from fastgw.observe.access_log.record import Record
from fastgw.observe.metrics.families import FAMILIES, Family
from fastgw.observe.metrics.series_layout import Series
from fastgw.observe.metrics.totals import Totals, totals

__all__ = [
    "FAMILIES",
    "Family",
    "FinishedExchange",
    "Record",
    "Series",
    "Totals",
    "record_of",
    "totals",
]
