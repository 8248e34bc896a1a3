"""Settings of access log lines: their fields, and which requests have one."""

import re
from typing import Annotated, Final

from fastgw.config.base.settings_base import Settings, Some
from fastgw.config.base.value_types import Duration, Method, Notation
from fastgw.observe.access_log.log_fields import check_field

_STATUS: Final = "[1-9](?:[0-9]{2}|xx)"


def _parse_status(text: str) -> int:
    if not re.fullmatch(_STATUS, text):
        raise ValueError(f"{text!r} is not a status")
    return int(text.removesuffix("xx"))


def _write_status(status: int) -> str:
    return str(status) if status >= 100 else f"{status}xx"


LogStatus = Annotated[
    int,
    Notation(
        'a status such as 404, or a class such as "5xx"',
        _parse_status,
        {"anyOf": [{"type": "string", "pattern": f"^{_STATUS}$"}, {"type": "integer", "minimum": 100, "maximum": 999}]},
        numbers=range(100, 1000),
        write=_write_status,
    ),
]
"""Status, or the number of a class: 5 for `5xx`."""
LogField = Annotated[
    str,
    Notation(
        'a field such as "status" or "header.X-Tenant", or "NAME=TEMPLATE" such as "caller={consumer}@{client}"',
        check_field,
        {"type": "string"},
    ),
]


class LogCondition(Settings):
    """Condition on a finished request. All settings that are given have to hold."""

    status: LogStatus | Some[LogStatus] = ()
    """Status or class of statuses, such as `404` or `5xx`, or a list of them."""
    method: Method | Some[Method] = ()
    """Request method, or a list of them."""
    route: str | Some[str] = ()
    """Name of the route, or a list of them."""
    listener: str | Some[str] = ()
    """Name of the listener, or a list of them."""
    consumer: str | Some[str] = ()
    """Name of the consumer, or a list of them."""
    fault: bool | None = None
    """true: requests with a [fault](faults.md#faults); false: those without one. null = both."""
    slower_than: Duration | None = None
    """Requests that took longer. null = no limit."""
