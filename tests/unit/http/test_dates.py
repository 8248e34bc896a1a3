"""HTTP dates: the three forms, and what other parsers let through."""

import pytest

from fastgw.http.dates import format_date, parse_date
from tests.support.table import for_each

NOW = 1_790_000_000  # September 2026


@pytest.mark.parametrize(
    "value",
    [
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"Sun Nov  6 08:49:37 1994",
        b"sun, 06 nov 1994 08:49:37 gmt",
        b"SUNDAY, 06-NOV-94 08:49:37 GMT",
        b"Mon, 06 Nov 1994 08:49:37 GMT",  # the day of the week is not compared
    ],
)
def test_the_three_forms_are_read(value: bytes) -> None:
    assert parse_date(value, NOW) == 784_111_777


@for_each(
    "value",
    [
        b"",
        b"0",
        b"784111777",
        b"Sun, 6 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 94 08:49:37 GMT",
        b"Sun, 06 Nov 1994 8:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:37",
        b"Sun, 06 Nov 1994 08:49:37 UTC",
        b"Sun, 06 Nov 1994 08:49:37 AEST",
        b"Sun, 06 Nov 1994 08:49:37 +0000",
        b"Sun 06 Nov 1994 08:49:37 GMT",
        b"Sun, 06-Nov-1994 08:49:37 GMT",
        b"Sunday, 06 Nov 1994 08:49:37 GMT",
        b"Sun,  06 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:37 GMT ",
        b"Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sun, 31 Feb 1994 08:49:37 GMT",
        b"Sun, 00 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 0000 08:49:37 GMT",
        b"Sun, 06 Nov 1994 24:00:00 GMT",
        b"Sun, 06 Nov 1994 08:60:37 GMT",
        b"Sun, 06 Nov 1994 08:49:61 GMT",
        b"Sun, 06 Nov 1994 08:49:37\x00GMT",
        b"Sun, 06 Nov 1994 08:49:37 GMT\n",
        b"Sun, \xd9\xa0\xd9\xa6 Nov 1994 08:49:37 GMT",
    ],
)
def test_anything_else_is_no_date(value: bytes) -> None:
    assert parse_date(value, NOW) is None


def test_two_digits_of_a_year_are_at_most_50_years_ahead() -> None:
    assert format_date(parse_date(b"Sunday, 06-Nov-76 08:49:37 GMT", NOW) or 0).split()[3] == b"2076"
    assert format_date(parse_date(b"Sunday, 06-Nov-77 08:49:37 GMT", NOW) or 0).split()[3] == b"1977"


def test_a_leap_second_and_dates_far_away_are_read() -> None:
    assert parse_date(b"Sat, 31 Dec 2016 23:59:60 GMT", NOW) == 1_483_228_800
    assert parse_date(b"Mon, 01 Jan 0001 00:00:00 GMT", NOW) == -62_135_596_800
    assert parse_date(b"Fri, 31 Dec 9999 23:59:59 GMT", NOW) == 253_402_300_799


def test_what_is_formatted_is_read_again() -> None:
    assert format_date(784_111_777) == b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert all(parse_date(format_date(each), NOW) == each for each in range(0, 4_000_000_000, 86_399 * 397))
