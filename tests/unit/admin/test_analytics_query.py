"""The parameters of `GET /analytics`, and the output of `fastgw analytics`."""

from __future__ import annotations

import pytest

from fastgw.admin.analytics_csv import as_csv
from fastgw.admin.analytics_query import read_query
from fastgw.admin.node_interface import Analytics
from fastgw.analytics.queries import AnalyticsRow, UsageQuery
from fastgw.analytics.store import CannotKeepAnalytics
from fastgw.analytics.usage import TooMuch
from tests.support.admin import served
from tests.support.table import for_each

NOW = 1_800_000_000.0


def test_times_are_durations_before_now_or_dates() -> None:
    assert read_query({}, NOW) == UsageQuery("route", NOW - 86_400, NOW)
    asked = {"by": "consumer", "since": "7d", "until": "2027-01-15T08:00:00Z", "step": "hour", "consumer": "alice"}
    assert read_query(asked, NOW) == UsageQuery("consumer", NOW - 7 * 86_400, NOW, "hour", consumer="alice")
    assert read_query({"by": "status_class", "plan": ""}, NOW).plan == ""  # of consumers without groups


@for_each(
    "asked",
    [
        {"by": "colour"},
        {"step": "week"},
        {"since": "yesterday"},
        {"since": "2026-01-31T00:00:00"},
        {"since": "1h", "until": "2h"},
        {"by": "consumer", "route": "users"},
        {"by": "status", "consumer": "alice"},
        {"by": "method", "plan": "gold"},
        {"by": "plan", "plan": "gold", "route": "users"},
        {"by": "status_class", "consumer": "alice", "route": "users"},
        {"limit": "0"},
        {"limit": "10001"},
        {"limit": "\u0661"},
        {"offset": "-1"},
    ],
)
def test_what_is_unclear_is_refused(asked: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"must be|not counted"):
        read_query(asked, NOW)


def test_the_admin_api_answers_with_rows_or_a_reason() -> None:
    with served() as here:
        status, _, body = here.ask("GET /analytics?since=7d")
        assert (status, b'"route":"users"' in body, b'"total":2' in body) == (200, True, True)
        assert here.ask("GET /analytics?by=consumer")[0] == 404
        status, head, body = here.ask("GET /analytics.csv?since=7d")
        assert (status, body) == (200, b"route,requests,errors\r\nusers,3,1\r\n")
        assert "content-type: text/csv; charset=utf-8" in head.lower()
        assert here.ask("GET /analytics?limit=x")[0] == 400
        assert here.ask("GET /analytics?colour=x")[0] == 400
        here.node.broken = TooMuch("there are more than 100000 rows")
        assert here.ask("GET /analytics")[0] == 422
        here.node.broken = CannotKeepAnalytics("a.db cannot be read: file is not a database")
        assert here.ask("GET /analytics")[0] == 503


def test_csv_has_a_header_and_no_formulas() -> None:
    rows = [AnalyticsRow(3, date=NOW, consumer="=1+1"), AnalyticsRow(0, date=NOW, consumer='a "b", c')]
    lines = as_csv(Analytics(0.0, NOW, rows, 2)).split("\r\n")
    assert lines == [
        "date,consumer,requests",
        "2027-01-15T08:00:00Z,'=1+1,3",
        '2027-01-15T08:00:00Z,"a ""b"", c",0',
        "",
    ]
