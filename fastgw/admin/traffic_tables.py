"""Tables of `fastgw top` and `fastgw shadow-report`."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live as Display
from rich.table import Table

from fastgw.admin.client import AdminClient, RefusedByGateway, Unreachable
from fastgw.admin.node_interface import Effective, Live, Routes
from fastgw.admin.status_tables import PLAIN_WIDTH, FittingTable

ROWS_SHOWN: Final = 20
ERRORS_FROM: Final = 500
NO_ROUTE: Final = "_none"
_SAMPLE: Final = re.compile(r"^(\w+)\{([^}]*)\} (\S+)$")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
DECISIONS: Final = ("pass", "change", "answer", "raise", "unknown")


class TrafficRow(msgspec.Struct):
    """A route or consumer, over the last interval."""

    name: str
    rate: float
    """Requests per second."""
    error_rate: float = 0.0
    """Responses of 500 and above per second."""
    p50_s: float | None = None
    """Median of the latency since the start; null: unknown, as for consumers."""
    p99_s: float | None = None
    requests: int = 0
    """Requests since the start."""


class Top(msgspec.Struct):
    """Traffic of the last interval, the busiest first."""

    seconds: float
    """Length of the interval."""
    rate: float
    error_rate: float
    connections: int
    routes: list[TrafficRow]
    consumers: list[TrafficRow]


class _Reading(msgspec.Struct):
    at: float
    live: Live
    routes: Routes
    consumers: Mapping[str, int]


def _read(client: AdminClient) -> _Reading:
    live, routes = client.read("/live", Live), client.read("/routes", Routes)
    counted = samples(client, "fastgw_consumer_requests_total")
    return _Reading(time.monotonic(), live, routes, {each["consumer"]: int(value) for each, value in counted})


def samples(client: AdminClient, family: str) -> Iterator[tuple[Mapping[str, str], float]]:
    """Yield labels and values of a metric."""
    for line in client.metrics().decode().splitlines():
        sample = _SAMPLE.match(line) if line.startswith(family) else None
        if sample is not None and sample[1] == family:
            yield {name: value.replace('\\"', '"') for name, value in _LABEL.findall(sample[2])}, float(sample[3])


def _between(before: _Reading, after: _Reading) -> Top:
    seconds = max(after.at - before.at, 1e-3)
    earlier = {each.name: each for each in before.routes.routes}
    routes = []
    for each in after.routes.routes:
        first = earlier.get(each.name)
        requests = each.requests - (0 if first is None else first.requests)
        errors = each.errors - (0 if first is None else first.errors)
        routes.append(
            TrafficRow(
                each.name,
                max(requests, 0) / seconds,
                max(errors, 0) / seconds,
                each.p50_s,
                each.p99_s,
                each.requests,
            )
        )
    consumers = [
        TrafficRow(name, max(count - before.consumers.get(name, 0), 0) / seconds, requests=count)
        for name, count in after.consumers.items()
    ]
    errors = after.live.responses.get("5xx", 0) - before.live.responses.get("5xx", 0)
    return Top(
        seconds,
        max(after.live.requests - before.live.requests, 0) / seconds,
        max(errors, 0) / seconds,
        after.live.connections,
        _busiest(routes),
        _busiest(consumers),
    )


def _busiest(rows: list[TrafficRow]) -> list[TrafficRow]:
    return sorted(rows, key=lambda row: (-row.rate, -row.requests, row.name))


def read_top(client: AdminClient, seconds: float) -> Top:
    """Observe the gateway for an interval."""
    before = _read(client)
    time.sleep(seconds)
    return _between(before, _read(client))


def top_table(top: Top) -> RenderableType:
    parts: list[RenderableType] = [
        f"{top.rate:,.1f} requests/s  {top.error_rate:,.1f} errors/s  {top.connections:,} connections"
    ]
    for title, rows in (("route", top.routes), ("consumer", top.consumers)):
        if not rows:
            continue
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column(title, overflow="fold")
        for name in ("req/s", "errors/s", "p50", "p99", "requests"):
            table.add_column(name, justify="right")
        for row in rows[:ROWS_SHOWN]:
            table.add_row(
                row.name,
                f"{row.rate:,.1f}",
                f"[red]{row.error_rate:,.1f}[/red]" if row.error_rate else "0.0" if title == "route" else "",
                _milliseconds(row.p50_s),
                _milliseconds(row.p99_s),
                f"{row.requests:,}",
            )
        if len(rows) > ROWS_SHOWN:
            table.caption = f"and {len(rows) - ROWS_SHOWN} more"
        parts.append(FittingTable(table, "p50", "requests", "p99", "errors/s"))
    return Group(*parts)


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:,.1f} ms"


def console() -> Console:
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def watch_top(client: AdminClient, seconds: float) -> None:
    """Refresh the table in place until Ctrl-C."""
    before = _read(client)
    with suppress(KeyboardInterrupt), Display("", console=console(), auto_refresh=False) as display:
        while True:
            time.sleep(seconds)
            try:
                after = _read(client)
            except (Unreachable, RefusedByGateway) as error:
                display.update(str(error), refresh=True)
                continue
            display.update(top_table(_between(before, after)), refresh=True)
            before = after


# --- filters in shadow mode ---


class ShadowRow(msgspec.Struct, frozen=True):
    """Decision of a filter in shadow mode."""

    filter: str
    """Name of the filter."""
    route: str
    """Name of the route; `_none` if no route matched, `_other` for routes of earlier configurations and beyond 500."""
    decision: str
    """`pass`, `change`, `answer`, `raise`, or `unknown` when it took too long."""
    requests: int


class ShadowReport(msgspec.Struct):
    """Decisions of filters in shadow mode."""

    rows: list[ShadowRow]
    routes: dict[str, list[str]]
    """Routes of each filter in shadow mode."""


def read_shadow_report(client: AdminClient) -> ShadowReport:
    """Sum up the decisions since the start of the gateway."""
    rows = [
        ShadowRow(labels["filter"], labels["route"], labels["decision"], int(value))
        for labels, value in samples(client, "fastgw_filter_shadow_decisions_total")
        if value
    ]
    named = shadow_filters(client.read("/config", Effective).config)
    shadowed = named.union(row.filter for row in rows)  # the filters of an OpenAPI document are in no configuration
    known = client.read("/routes", Routes).routes
    routes = {name: [each.name for each in known if name in each.filters] for name in sorted(shadowed)}
    return ShadowReport(sorted(rows, key=_order), routes)


def _order(row: ShadowRow) -> tuple[str, str, int]:
    return row.filter, row.route, DECISIONS.index(row.decision) if row.decision in DECISIONS else len(DECISIONS)


def shadow_filters(config: Any) -> set[str]:
    """Return the names of the filters in shadow mode, at all levels of a configuration."""
    found: set[str] = set()
    if isinstance(config, Mapping):
        for name, value in config.items():
            if isinstance(value, Mapping) and value.get("shadow") is True:
                found.add(name)
            found |= shadow_filters(value)
    elif isinstance(config, Sequence) and not isinstance(config, str):
        for each in config:
            found |= shadow_filters(each)
    return found


def shadow_text(report: ShadowReport) -> RenderableType:
    if not report.rows and not report.routes:
        return "no filter is in shadow mode"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("filter", "route", "would"):
        table.add_column(name)
    table.add_column("requests", justify="right")
    for row in report.rows:
        table.add_row(row.filter, row.route, row.decision, f"{row.requests:,}")
    for name in report.routes:
        if all(row.filter != name for row in report.rows):
            table.add_row(name, "*", "no requests yet", "0")
    lines = [f"{name}: on {', '.join(routes[:10]) or 'no route'}" for name, routes in report.routes.items()]
    return Group(table, *lines)
