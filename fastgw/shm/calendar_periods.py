"""Calendar periods: the current period with its start and end, in a time zone."""

from collections.abc import Callable
from datetime import UTC, date, datetime, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fastgw.shm.quota_table import Period

Calendar = Callable[[float], Period]
"""Function that returns the period of an instant (epoch seconds)."""

Unit = Literal["day", "month"]


def zone_of(name: str) -> tzinfo:
    """Return the time zone. Raises `ValueError` for an invalid or unknown one."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f'"{name}" is not a known time zone (see tzdata)') from error


def calendar_of(unit: Unit | float, zone: tzinfo) -> Calendar:
    """Return the calendar of a unit in the time zone: a day with a clock change has 23 or 25 hours. `unit`: a number is
    a length in seconds, counted from 1970 in UTC, independent of the zone.
    """
    if not isinstance(unit, str):
        return _spans(int(unit))
    return _days(zone) if unit == "day" else _months(zone)


def _spans(seconds: int) -> Calendar:
    def at(instant: float) -> Period:
        number = int(instant // seconds)
        return Period(number, number * seconds, (number + 1) * seconds)

    return at


def _days(zone: tzinfo) -> Calendar:
    def at(instant: float) -> Period:
        number = datetime.fromtimestamp(instant, zone).toordinal()
        return Period(number, _midnight(date.fromordinal(number), zone), _midnight(date.fromordinal(number + 1), zone))

    return at


def _months(zone: tzinfo) -> Calendar:
    def at(instant: float) -> Period:
        now = datetime.fromtimestamp(instant, zone)
        number = 12 * now.year + now.month - 1
        return Period(number, _first(number, zone), _first(number + 1, zone))

    return at


def _first(month: int, zone: tzinfo) -> float:
    return _midnight(date(month // 12, month % 12 + 1, 1), zone)


def _midnight(day: date, zone: tzinfo) -> float:
    """Return the start of a day in epoch seconds. If clocks skip midnight, it is the time of the change; of two
    midnights the first.
    """
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC).timestamp()
