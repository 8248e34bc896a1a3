"""Query parameters of `GET /analytics`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, get_args

from fastgw.analytics.queries import ROWS_MAX, STEPS, By, UsageQuery
from fastgw.config.base.value_types import parse_duration

SINCE: Final = "24h"
_BY: Final = get_args(By)
_METRIC_OF_BOTH: Final = "a metric counts both: see telemetry.metrics.request_duration.labels"
QUERY_PARAMETERS: Final = {
    "by": f"Kind of the rows: {', '.join(_BY)}. Default: route.",
    "since": f"Begin: a duration before now such as 7d, or a time such as 2026-01-31T00:00:00Z. Default: {SINCE}.",
    "until": "End, in the same form. Default: now.",
    "step": f"Rows for each step of the time: {', '.join(STEPS)}; hours where no minutes are kept"
    " any more. Default: one row for all.",
    "route": "Only this route; not by consumer or plan.",
    "consumer": "Only this consumer; by consumer, plan or status_class.",
    "plan": "Only this plan, or none if it is empty; by consumer, plan or status_class.",
    "offset": "Number of rows to leave out. Default: 0.",
    "limit": f"Maximum number of rows, up to {ROWS_MAX}. Default: 1000.",
}


def read_query(asked: Mapping[str, str], now: float) -> UsageQuery:
    """Read the parameters. `now`: epoch seconds. Raises `ValueError`, with a text for the client."""
    by, step = asked.get("by", "route"), asked.get("step")
    route, consumer, plan = asked.get("route"), asked.get("consumer"), asked.get("plan")
    if by not in _BY:
        raise ValueError(f"by must be one of {', '.join(_BY)}")
    if step is not None and step not in STEPS:
        raise ValueError(f"step must be one of {', '.join(STEPS)}")
    if route is not None and by in ("consumer", "plan"):
        raise ValueError(f"requests of a route are not counted by {by}; {_METRIC_OF_BOTH}")
    for kind, name in (("consumer", consumer), ("plan", plan)):
        if name is not None and by not in ("consumer", "plan", "status_class"):
            raise ValueError(f"requests of a {kind} are not counted by {by}; {_METRIC_OF_BOTH}")
        if name is not None and route is not None:
            raise ValueError(f"requests of a route are not counted by {kind}; {_METRIC_OF_BOTH}")
    since, until = _read_date("since", asked.get("since", SINCE), now), now
    if "until" in asked:
        until = _read_date("until", asked["until"], now)
    if until <= since:
        raise ValueError("until must be later than since")
    offset = read_number("offset", asked.get("offset", "0"), 0, 10**9)
    limit = read_number("limit", asked.get("limit", "1000"), 1, ROWS_MAX)
    return UsageQuery(by, since, until, step, route, consumer, offset, limit, plan)  # type: ignore[arg-type]


def _read_date(name: str, text: str, now: float) -> float:
    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        date = datetime.fromisoformat(text)
        if date.tzinfo is None:
            raise ValueError("no offset from UTC")
        return date.timestamp()
    except (ValueError, OverflowError) as error:
        expected = "a duration such as 7d, or a time with its offset such as 2026-01-31T00:00:00Z"
        raise ValueError(f"{name} must be {expected}") from error


def read_number(name: str, text: str, least: int, most: int) -> int:
    """Read a parameter with a number from `least` to `most`. Raises `ValueError`, with a text for the client."""
    if not (text.isascii() and text.isdigit() and len(text) < 12 and least <= int(text) <= most):
        raise ValueError(f"{name} must be a number from {least} to {most}")
    return int(text)
