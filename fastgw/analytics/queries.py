"""Queries of analytics and their rows, for the node, the admin API and the commands."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from msgspec import UNSET, Struct, UnsetType

MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 86_400
By = Literal["route", "consumer", "plan", "status", "status_class", "method"]
StepName = Literal["minute", "hour", "day"]
STEPS: Final[Mapping[StepName, int]] = {"minute": MINUTE, "hour": HOUR, "day": DAY}
ROWS_MAX: Final = 10_000
"""Maximum number of rows of a response."""


class UsageQuery(NamedTuple):
    """Query. Dates are epoch seconds; a count belongs to the time if its minute overlaps it, or its hour if that has no
    minutes any more."""

    by: By
    since_date: float
    until_date: float
    step: StepName | None = None
    route: str | None = None
    consumer: str | None = None
    offset: int = 0
    limit: int = 1000
    plan: str | None = None
    """Groups, separated by commas; "": of consumers without groups."""


class AnalyticsRow(Struct, frozen=True, omit_defaults=True):
    """Usage of a route, consumer, plan, status, class of statuses or method. Members that do not apply are left out."""

    requests: int = 0
    date: float | UnsetType = UNSET
    """Begin of the step, epoch seconds."""
    route: str | UnsetType = UNSET
    """Route; `_none`: none matched, `_other`: routes beyond those that are counted by name, and removed ones."""
    consumer: str | UnsetType = UNSET
    plan: str | UnsetType = UNSET
    """Groups of a consumer at the time of its requests, separated by commas."""
    status: int | UnsetType = UNSET
    status_class: str | UnsetType = UNSET
    """Class of the status: `2xx`, for example; `5xx` are all from 500 on. `_other`: not counted, or none of HTTP."""
    method: str | UnsetType = UNSET
    client_errors: int | UnsetType = UNSET
    """Responses of 400 to 499."""
    errors: int | UnsetType = UNSET
    """Responses of 500 and above."""
    request_bytes: int | UnsetType = UNSET
    response_bytes: int | UnsetType = UNSET
    p50_s: float | UnsetType = UNSET
    """Median of the latency in seconds, interpolated within a bucket."""
    p95_s: float | UnsetType = UNSET
    p99_s: float | UnsetType = UNSET
    cache_hits: int | UnsetType = UNSET
    cache_requests: int | UnsetType = UNSET


class Usage(NamedTuple):
    """Rows of a page, and how many there are in all. Most requests first; with steps the oldest first."""

    rows: Sequence[AnalyticsRow]
    total: int
    minutes_since_date: float | None = None
    """Date from which on minutes are kept; before it there are hours only. None: there are no minutes."""
