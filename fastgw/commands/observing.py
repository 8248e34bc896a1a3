"""Commands that show the traffic of a running gateway: `tap`, `stories`, `debug`, `top` and `analytics`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from fastgw.commands.exit_codes import USAGE, WRONG
from fastgw.commands.options import (
    AdminOption,
    CertificateOption,
    ConfigOption,
    Format,
    FormatOption,
    NameOption,
    TokenOption,
    checked_share,
)
from fastgw.commands.output import fail, print_json
from fastgw.commands.running_gateway import gateway_choice, query_gateway

if TYPE_CHECKING:
    from fastgw.admin.client import AdminClient


STORY_S: Final = 5.0
"""Seconds to wait for the story of a request that was answered."""


class AnalyticsFormat(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class By(StrEnum):
    ROUTE = "route"
    CONSUMER = "consumer"
    PLAN = "plan"
    STATUS = "status"
    STATUS_CLASS = "status_class"
    METHOD = "method"


class AnalyticsStep(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"


def tap(
    route: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Requests of this route.")] = None,
    status: Annotated[list[str] | None, typer.Option(metavar="STATUS", help="This status, or class: 5xx.")] = None,
    method: Annotated[list[str] | None, typer.Option(metavar="METHOD", help="Requests with this method.")] = None,
    path: Annotated[str, typer.Option(metavar="PREFIX", help="Requests whose path begins like this.")] = "",
    consumer: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Requests of this consumer.")] = None,
    sample: Annotated[
        float,
        typer.Option(metavar="RATIO", help="Share of these requests: 0.1 = one in ten.", callback=checked_share),
    ] = 1.0,
    body: Annotated[str, typer.Option(metavar="SIZE", help="Maximum size of each body; 0: no bodies.")] = "16KiB",
    requests: Annotated[int, typer.Option(metavar="N", min=0, help="End after N requests; 0: with Ctrl-C.")] = 0,
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Show requests and responses of a running gateway with their bodies, as they end. Secrets are masked. Options for
    routes, statuses, methods and consumers may be repeated.
    """
    from fastgw.admin.client import Unreachable
    from fastgw.admin.tap_text import as_text
    from fastgw.admin.tapped_request import TappedRequest, TapRequest
    from fastgw.capture.captured_exchange import MOST_BODY
    from fastgw.config.base.value_types import parse_size, write_size

    try:
        size = 0 if body == "0" else parse_size(body)
        if size > MOST_BODY:
            raise ValueError(f"--body: {body} is more than {write_size(MOST_BODY)}")
        methods = [each.upper() for each in method or ()]
        wanted = TapRequest(route or (), methods, status or (), path, consumer or (), sample, body_bytes=size)
    except ValueError as error:
        fail(USAGE, f"fastgw: {error}")

    def show(client: AdminClient) -> str:
        """Return why the tap has ended early; "": it has not."""
        lines = client.stream_lines("/tap", wanted, wanted.seconds)
        try:
            for count, line in enumerate(lines, 1):
                if answer is Format.JSON:
                    typer.echo(line.decode(), nl=False)
                else:
                    typer.echo(as_text(msgspec.json.decode(line, type=TappedRequest)))
                if count == requests:
                    return ""
        except Unreachable as error:
            if not client.has_answered:
                raise
            return str(error)
        return "the time is over"

    if why := query_gateway(gateway_choice(file, name, admin, token_file), certificate, show):
        fail(WRONG, f"fastgw: the tap has ended early: {why}")


def stories(
    story: Annotated[str | None, typer.Argument(metavar="[ID]", help="Request id, trace id or number.")] = None,
    route: Annotated[str | None, typer.Option(metavar="NAME", help="Stories of this route.")] = None,
    status: Annotated[str | None, typer.Option(metavar="STATUS", help="This status, or class: 5xx.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="Maximum number of stories.")] = 20,
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Show the stories of failed and slow requests of a running gateway: filters, attempts and timings."""
    from fastgw.admin.client import resource_path
    from fastgw.admin.story_text import as_table, as_text
    from fastgw.observe.access_log.formats import rfc3339

    asked = {"limit": str(limit), **({"route": route} if route else {}), **({"status": status} if status else {})}
    names, query = (("stories",), asked) if story is None else (("stories", story), {})
    wanted = gateway_choice(file, name, admin, token_file)
    found = query_gateway(
        wanted, certificate, lambda client: client.read(resource_path(*names, query=query), dict[str, Any])
    )
    if answer is Format.JSON:
        print_json(found)
    elif story is not None:
        typer.echo(as_text(found, rfc3339))
    else:
        typer.echo(as_table(found["stories"], rfc3339))


def debug(
    url: Annotated[
        str | None, typer.Argument(metavar="[URL]", help="Request this URL, and show the story of the request.")
    ] = None,
    method: Annotated[str, typer.Option("-X", "--method", metavar="METHOD", help="Method of the request.")] = "GET",
    header: Annotated[
        list[str] | None, typer.Option("-H", "--header", metavar="'N: V'", help="Header of the request.")
    ] = None,
    route: Annotated[str, typer.Option(metavar="NAME", help="The token is valid for this route alone.")] = "",
    lifetime: Annotated[str, typer.Option("--for", metavar="TIME", help="Lifetime of the token, at most 1h.")] = "10m",
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Show the story of a request to URL; without a URL, make a token for the header X-Fastgw-Debug of any request."""
    from fastgw.admin.client import parse_debugged_request, send_debugged
    from fastgw.admin.node_interface import DebugTokenMade, DebugWanted
    from fastgw.admin.story_text import as_text
    from fastgw.capture.debug_token import MOST_S
    from fastgw.config.base.value_types import parse_duration, write_duration
    from fastgw.observe.access_log.formats import rfc3339

    try:
        wanted = DebugWanted(route, parse_duration(lifetime))
        if not 0.0 < wanted.seconds <= MOST_S:
            raise ValueError(f"--for: {lifetime} is not above 0 and at most {write_duration(MOST_S)}")
        request = None if url is None else parse_debugged_request(url, method, header or ())
    except ValueError as error:
        fail(USAGE, f"fastgw: {error}")

    def debugged(client: AdminClient) -> None:
        made = client.change("/debug", DebugTokenMade, wanted)
        if request is None:
            if answer is Format.JSON:
                print_json(made)
            else:
                typer.echo(f"X-Fastgw-Debug: {made.token}")
                typer.echo(f"valid until {rfc3339(made.expires_date)}", err=True)
            return
        story = _debugged_story(client, lambda: send_debugged(request, made.token))
        if answer is Format.JSON:
            print_json(story)
        else:
            typer.echo(as_text(story, rfc3339))

    query_gateway(gateway_choice(file, name, admin, token_file), certificate, debugged)


def _debugged_story(client: AdminClient, send: Callable[[], tuple[int, str]]) -> dict[str, Any]:
    """Send a request, and return its story, which comes a moment later than the response."""
    from fastgw.admin.client import RefusedByGateway

    status, number = send()
    until = time.monotonic() + STORY_S
    if not number:
        fail(WRONG, f"fastgw: the response ({status}) has no story: is it a URL of this gateway, and of the route?")
    while True:
        try:
            return client.read(f"/stories/{number}", dict[str, Any])
        except RefusedByGateway:
            if time.monotonic() >= until:
                raise
            time.sleep(0.05)


def top(
    once: Annotated[bool, typer.Option("--once", help="Print one table, and end.")] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, max=60.0, metavar="S", help="Seconds over which rates are measured.")
    ] = 2.0,
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Show the busiest routes and consumers of a running gateway, with rates, errors and latencies, until Ctrl-C."""
    from fastgw.admin import traffic_tables

    choice = gateway_choice(file, name, admin, token_file)
    if not once and answer is Format.TEXT and sys.stdout.isatty():
        query_gateway(choice, certificate, lambda client: traffic_tables.watch_top(client, interval))
        return
    seen = query_gateway(choice, certificate, lambda client: traffic_tables.read_top(client, interval))
    if answer is Format.JSON:
        print_json(seen)
    else:
        traffic_tables.console().print(traffic_tables.top_table(seen))


def analytics(
    by: Annotated[By, typer.Option(help="Kind of the rows.")] = By.ROUTE,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Begin: 7d before now, or a time such as 2026-01-31T00:00:00Z.")
    ] = "24h",
    until: Annotated[str | None, typer.Option(metavar="TIME", help="End, in the same form. Default: now.")] = None,
    step: Annotated[
        AnalyticsStep | None, typer.Option(help="Rows for each step of the time. Default: one for all.")
    ] = None,
    route: Annotated[str | None, typer.Option(metavar="NAME", help="Only this route.")] = None,
    consumer: Annotated[str | None, typer.Option(metavar="NAME", help="Only this consumer.")] = None,
    plan: Annotated[str | None, typer.Option(metavar="NAME", help="Only this plan; an empty one: none.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="Maximum number of rows.")] = 1000,
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: Annotated[AnalyticsFormat, typer.Option("--format", help="Output format.")] = AnalyticsFormat.TABLE,
) -> None:
    """Show the requests of a running gateway by route, consumer, plan, status or method, over minutes to weeks."""
    from fastgw.admin.client import resource_path
    from fastgw.admin.node_interface import Analytics

    given = {"until": until, "step": step, "route": route, "consumer": consumer, "plan": plan}
    query = {"by": by.value, "since": since, "limit": str(limit), **{key: each for key, each in given.items() if each}}
    wanted = gateway_choice(file, name, admin, token_file)
    if answer is AnalyticsFormat.JSON:
        typer.echo(
            query_gateway(wanted, certificate, lambda client: client.get(resource_path("analytics", query=query)))
        )
        return
    found = query_gateway(
        wanted, certificate, lambda client: client.read(resource_path("analytics", query=query), Analytics)
    )
    if answer is AnalyticsFormat.CSV:
        from fastgw.admin.analytics_csv import as_csv

        typer.echo(as_csv(found), nl=False)
    else:
        from fastgw.commands.analytics_table import print_table

        print_table(found, step)
