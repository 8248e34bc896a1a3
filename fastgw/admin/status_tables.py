"""Tables of `fastgw status`, in colour on a terminal."""

import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import replace
from typing import Final

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from fastgw.admin.client import AdminClient, RefusedByGateway, Unreachable
from fastgw.admin.node_interface import (
    AcmeInfo,
    CacheStoreInfo,
    CertificateInfo,
    FeedInfo,
    LastError,
    OcspInfo,
    OnDemandInfo,
    RedisTierInfo,
    Reloads,
    RouteInfo,
    Routes,
    Status,
    TargetInfo,
    Upstreams,
    VerifierInfo,
    Worker,
)

WATCH_EVERY: Final = 1.0
"""Seconds between two updates."""
PLAIN_WIDTH: Final = 240
"""Width in columns without a terminal: wide enough that lines for `grep` are not wrapped."""
SHORTEST_TEXT: Final = 8
"""Columns of a narrow terminal to which a text may be folded."""
COLOURS: Final = {
    "serving": "green",
    "ready": "green",
    "healthy": "green",
    "starting": "yellow",
    "draining": "yellow",
    "silent": "red",
    "failing": "red",
    "unhealthy": "red",
    "ejected": "red",
}
RELOADS_SHOWN: Final = 5
KEPT_SHOWN: Final = 5
"""Maximum number of kept files that are listed."""
ROUTES_SHOWN: Final = 20
SOON_S: Final = 14 * 86400
"""Seconds before its expiry from which a certificate is shown in yellow."""
LIST_SOON_S: Final = 86400
"""Seconds before its expiry from which a revocation list is shown as expiring: many are renewed weekly."""
_SIZES: Final = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))
_ANY_WIDTH: Final = 10_000
_SPANS: Final = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


class FittingTable:
    """A table, and the headers of the columns that a narrow terminal does without, the least important first."""

    __slots__ = ("_spare", "_table")

    def __init__(self, table: Table, *spare: str) -> None:
        self._table, self._spare = table, spare
        for column in table.columns:
            if column.justify == "right":  # rich folds other columns first
                column.no_wrap = True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._table
        for header in self._spare:
            if _least_width(table, console, options) <= options.max_width:
                break
            table = _without(table, header)
        yield table


def _least_width(table: Table, console: Console, options: ConsoleOptions) -> int:
    """Return the width in which all numbers are whole."""
    wide = options.update(width=_ANY_WIDTH)
    width = console.measure(table, options=wide).maximum
    for column in table.columns:
        if column.justify != "right":
            cells = max((console.measure(each, options=wide).maximum for each in column.cells), default=0)
            width -= max(max(cells, len(str(column.header))) - SHORTEST_TEXT, 0)
    return width


def _without(table: Table, header: str) -> Table:
    kept: list[Column] = [each for each in table.columns if each.header != header]
    fitted = copy(table)
    fitted.columns = [replace(each, _index=index) for index, each in enumerate(kept)]
    return fitted


def console() -> Console:
    """Return the console of stdout; plain text if it is not a terminal."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def read_tables(client: AdminClient) -> tuple[Status, Upstreams, Routes]:
    return client.read("/status", Status), client.read("/upstreams", Upstreams), client.read("/routes", Routes)


def overview(status: Status, upstreams: Upstreams, routes: Routes, before: Status | None = None) -> Group:
    """Return the overview of a gateway. `before`: earlier status, to compute rates."""
    parts: list[RenderableType] = [_head(status, before), _workers(status.workers)]
    if upstreams.upstreams:
        parts.append(_targets(upstreams))
    if shown := _routes_to_show(routes.routes):
        parts.append(_routes(shown, len(routes.routes)))
    if status.certificates:
        parts.append(_certificates(status.certificates))
    if any(map(_is_shown, status.acme)):
        parts.append(_issued(status.acme))
    if status.ocsp:
        parts.append(_stapled(status.ocsp))
    if status.on_demand is not None:
        parts.append(_on_demand(status.on_demand))
    if status.verifiers:
        parts.append(_verifiers(status.verifiers))
    if status.feeds:
        parts.append(_feeds(status.feeds))
    if status.caches:
        parts.append(_caches(status.caches))
    if status.reloads.last:
        parts.append(_reloads(status.reloads))
    return Group(*parts)


def watch(client: AdminClient) -> None:
    """Show the status every second until Ctrl-C. If the gateway stops responding, wait for it.

    Raises `Unreachable` or `RefusedByGateway` if the first request fails.
    """
    before, upstreams, routes = read_tables(client)
    shown = Live(overview(before, upstreams, routes), console=console(), auto_refresh=False)
    ended = False

    def end(number: int, frame: object) -> None:
        # Only an assignment: a handler that takes a lock, as `Event.set` does, deadlocks if it interrupts the holder.
        nonlocal ended
        ended = True  # an exception raised while an object is being freed would be lost
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, end)
    with suppress(KeyboardInterrupt), shown:
        while not ended:
            time.sleep(WATCH_EVERY)
            try:
                status, upstreams, routes = read_tables(client)
            except (Unreachable, RefusedByGateway) as error:
                shown.update(Text(str(error), "red"), refresh=True)
            else:
                shown.update(overview(status, upstreams, routes, before), refresh=True)
                before = status


def _head(status: Status, before: Status | None) -> Text:
    rate = ""
    if before is not None and before.started_date == status.started_date and before.uptime_s < status.uptime_s:
        rate = f" ({(status.requests - before.requests) / (status.uptime_s - before.uptime_s):,.0f}/s)"
    text = Text(f"fastgw {status.version} ")
    text.append(status.state, COLOURS[status.state])
    text.append(f", generation {status.generation}, up {span(status.uptime_s)}, pid {status.pid}\n")
    text.append(f"{status.connections:,} connections, {status.requests:,} requests{rate}\n")
    text.append(_configured(status), "dim")
    if status.shared_state is not None and status.shared_state.reason:
        text.append(f"\n{status.shared_state}", "red")
    if status.stale is not None:
        since = span(time.time() - status.stale.since_date)
        text.append(
            f"\nthe file on disk differs from the active configuration since {since}: {status.stale.why}", "red"
        )
    for each in status.kept_files[:KEPT_SHOWN]:
        more = f" and {each.files - 1:,} more" if each.files > 1 else ""
        since = span(time.time() - each.since_date)
        text.append(
            f"\n{each.file}{more} on disk differs from the active configuration since {since}: {each.why}", "red"
        )
    if rest := sum(each.files for each in status.kept_files[KEPT_SHOWN:]):
        text.append(f"\nand {rest:,} more files", "red")
    return text


def _configured(status: Status) -> str:
    """Describe the source of the configuration."""
    if not status.config_hash:
        return "configured by the command line"
    return f"{status.config_file or 'configured over the admin API'} ({status.config_hash[:12]})"


def _table(title: str, left: Iterable[str], right: Iterable[str] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.title, table.title_justify, table.title_style = f"\n{title}", "left", "bold"
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, overflow="fold", justify="right")
    return table


def _state(word: str) -> Text:
    return Text(word, COLOURS.get(word, "dim"))


def _health(target: TargetInfo) -> Text:
    return _state(target.health) + Text(", drained" if target.drained else "", "yellow")


def _workers(workers: Iterable[Worker]) -> FittingTable:
    numbers = ("pid", "gen", "up", "conns", "requests", "memory", "cpu", "lag")
    table = _table("workers", ("slot", "state"), numbers)
    for each in workers:
        table.add_row(
            str(each.slot),
            _state(each.state),
            str(each.pid),
            str(each.generation),
            span(each.uptime_s),
            f"{each.connections:,}",
            f"{each.requests:,}",
            size(each.memory_bytes),
            f"{each.cpu_s:,.1f} s",
            f"{each.loop_lag_s * 1000:,.1f} ms",
        )
    return FittingTable(table, "gen", "cpu", "lag", "pid", "memory", "up", "conns")


def _targets(upstreams: Upstreams) -> FittingTable:
    numbers = ("rate", "p50", "p99", "weight", "in use", "idle", "waiting")
    table = _table("upstreams", ("upstream", "target", "health", "errors", "last error", "problem"), numbers)
    for upstream in upstreams.upstreams:
        name = Text(upstream.name)
        if upstream.breaker not in (None, "closed"):
            name.append(f" (breaker {upstream.breaker.replace('_', '-')})", "red")
        if not upstream.targets:
            table.add_row(name, "none", Text("unknown", "red"), "its targets cannot be resolved yet", "", "", "", "")
        for each in upstream.targets:
            words = _errors(each.errors), _last(each.last_error), Text(each.problem, "red")
            speed = f"{each.rate:,.1f}/s", _ms(each.p50_s), _ms(each.p99_s)
            busy = map(str, (each.weight, each.in_use, each.idle, each.waiting))
            table.add_row(name, Text(each.url), _health(each), *words, *speed, *busy)
    spare = "idle", "waiting", "weight", "last error", "p50", "in use", "errors", "p99", "problem", "rate", "upstream"
    return FittingTable(table, *spare)


def _routes_to_show(routes: Iterable[RouteInfo]) -> list[RouteInfo]:
    """Return the most important routes: those with recent errors, then with errors, then by rate; unused ones are left
    out.
    """

    def weight(route: RouteInfo) -> tuple[int, int, float]:
        return sum(route.recent_faults.values()), route.errors, route.rate

    return sorted((route for route in routes if route.requests), key=weight, reverse=True)[:ROUTES_SHOWN]


def _routes(routes: Iterable[RouteInfo], count: int) -> FittingTable:
    title = "routes" if count <= ROUTES_SHOWN else f"routes: {ROUTES_SHOWN} of {count:,}"
    shown = list(routes)
    has_cache = ("cache",) if any(each.cache for each in shown) else ()
    table = _table(title, ("route", "to", "errors", "last error"), ("requests", "rate", "p50", "p99", *has_cache))
    for each in shown:
        words = Text(each.name), Text(each.to), _errors(each.faults), _last(each.last_error)
        numbers = f"{each.requests:,}", f"{each.rate:,.1f}/s", _ms(each.p50_s), _ms(each.p99_s)
        table.add_row(*words, *numbers, *((_hits(each.cache),) if has_cache else ()))
    return FittingTable(table, "p50", "cache", "last error", "to", "requests", "p99", "errors")


def _hits(results: Mapping[str, int]) -> str:
    """Format the share of requests that a cache has answered without a request of their own: `93 % hit`."""
    total = sum(results.values())
    answered = sum(results.get(name, 0) for name in ("hit", "stale", "collapsed"))
    return f"{answered * 100 // total} % hit" if total else ""


def _errors(counts: Mapping[str, int]) -> Text:
    """Format errors: `connect_refused 12, status_5xx 3`."""
    most = sorted(counts.items(), key=lambda each: -each[1])
    return Text(", ".join(f"{name} {count:,}" for name, count in most), "yellow")


def _last(error: LastError | None) -> Text:
    """Format the last error: `connect_refused (ECONNREFUSED) 5 s ago`."""
    if error is None:
        return Text("")
    reason = f" ({error.reason})" if error.reason else ""
    return Text(f"{error.fault}{reason} {span(max(time.time() - error.date, 0.0))} ago")


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:,.1f} ms"


def _certificates(certificates: Iterable[CertificateInfo]) -> Table:
    table = _table("certificates", ("listener", "names", "file", "expires", "in", "problem"))
    now = time.time()
    for each in certificates:
        names = ", ".join(each.names)
        ends = _ends(each.expires_date, now, SOON_S)
        table.add_row(Text(each.listener), Text(names), Text(each.certificate), *ends, Text(each.problem, "red"))
    return table


def _issued(certificates: Iterable[AcmeInfo]) -> Table:
    table = _table(
        "certificates by ACME",
        ("names", "challenge", "issuer", "issued", "renews in", "ordered by", "next try", "problem"),
    )
    now = time.time()
    for each in certificates:
        if not _is_shown(each):
            continue  # there may be thousands
        issued = Text("yes") if each.issued else Text("no", "red")
        renews = "" if each.renews_date is None else span(max(each.renews_date - now, 0.0))
        again = span(max(each.next_attempt_date - now, 0.0)) if each.problem else ""
        names, problem = Text(", ".join(each.names)), Text(each.problem, "red")
        by = Text(each.ordered_by.replace("_", " ").replace("redis", "Redis"))
        table.add_row(names, Text(each.challenge), Text(each.issuer), issued, Text(renews), by, Text(again), problem)
    return table


def _is_shown(certificate: AcmeInfo) -> bool:
    """Whether a certificate by ACME is listed: of those on demand, only what is ordered, or has a problem."""
    return not certificate.on_demand or bool(certificate.problem or certificate.ordered_by)


def _stapled(certificates: Iterable[OcspInfo]) -> Table:
    table = _table("OCSP responses", ("certificate", "responder", "expires", "in", "next try", "problem"))
    now = time.time()
    for each in certificates:
        ends = _ends(each.expires_date, now, 0.0) if each.expires_date is not None else (Text("none", "red"), Text(""))
        again = "" if each.next_attempt_date is None else span(max(each.next_attempt_date - now, 0.0))
        table.add_row(Text(each.certificate), Text(each.responder), *ends, Text(again), Text(each.problem, "red"))
    return table


def _on_demand(numbers: OnDemandInfo) -> Table:
    table = _table("certificates on demand", ("names", "of", "pending", "refused"))
    refused = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in numbers.refused.items() if count)
    table.add_row(*(Text(f"{each:,}") for each in (numbers.names, numbers.most_names, numbers.pending)), Text(refused))
    return table


def _verifiers(verifiers: Iterable[VerifierInfo]) -> Table:
    table = _table("client certificates are verified with", ("listener", "kind", "file", "expires", "in", "problem"))
    now = time.time()
    for each in verifiers:
        date = each.expires_date
        ends = (
            (Text("never"), Text(""))
            if date is None
            else _ends(date, now, LIST_SOON_S if each.kind == "crl" else SOON_S)
        )
        table.add_row(Text(each.listener), Text(each.kind), Text(each.file), *ends, Text(each.problem, "red"))
    return table


def _ends(date: float, now: float, soon_s: float) -> tuple[Text, Text]:
    """Format a date, with the time left."""
    left = date - now
    style = "red" if left <= 0 else "yellow" if left < soon_s else ""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(date))
    return Text(when, style), Text(span(left) if left > 0 else "expired", style)


def _feeds(feeds: Iterable[FeedInfo]) -> Table:
    table = _table("fetched for all workers", ("what", "for", "last fetched", "problem"))
    for each in feeds:
        date = each.last_success_date
        when = "not yet" if date is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(date))
        used_by = each.used_by + (f" and {each.users - 1} more" if each.users > 1 else "")
        table.add_row(Text(each.feed), Text(used_by), Text(when), Text(each.problem, "red"))
    return table


def _caches(caches: Iterable[CacheStoreInfo]) -> Table:
    names = ("store", "tier", "objects", "used", "of", "hits", "evicted", "problem")
    table = _table("stores of the response cache", names)
    for each in caches:
        table.add_row(
            *map(Text, (each.name, "memory", f"{each.objects:,}", size(each.bytes), size(each.most_bytes), "")),
            Text(f"{each.evicted:,}"),
            "",
        )
        disk, redis = each.disk, each.redis
        if disk is not None:
            problem = "" if disk.is_up else "not used: a purge could not be written"
            if disk.is_up and disk.errors:
                problem = f"{disk.errors:,} accesses failed"
            shown = f"{disk.objects:,}", size(disk.bytes), size(disk.most_bytes), f"{disk.hits:,}", f"{disk.evicted:,}"
            table.add_row(Text(each.name), Text(f"disk {disk.path}"), *map(Text, shown), Text(problem, "red"))
        if redis is not None:
            problem = _trouble_of(redis)
            shown = "", "", "", f"{redis.hits:,}", ""
            table.add_row(*map(Text, (each.name, "Redis", *shown)), Text(problem, "red" if problem else ""))
    return table


def _trouble_of(redis: RedisTierInfo) -> str:
    if redis.is_up is False:
        return "unreachable"
    counts = (redis.dropped, "not written"), (redis.damaged, "damaged")
    return ", ".join(f"{count:,} {what}" for count, what in counts if count)


def _reloads(reloads: Reloads) -> Table:
    table = _table(f"reloads: {reloads.ok} ok, {reloads.failed} failed", ("when", "by", "what"))
    for each in reloads.last[:RELOADS_SHOWN]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.date))
        table.add_row(when, each.source, Text(each.summary, "" if each.ok else "red"))
    return table


def span(seconds: float) -> str:
    """Format seconds: `2 d 3 h`, `4 min 5 s`, `6 s`."""
    whole = int(seconds)
    for large, large_name, small, small_name in _SPANS:
        if whole >= large:
            return f"{whole // large} {large_name} {whole % large // small} {small_name}"
    return f"{whole} s"


def size(count: int) -> str:
    """Format bytes: `34.5 MiB`."""
    for unit, name in _SIZES:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"
