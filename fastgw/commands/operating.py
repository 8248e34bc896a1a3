"""Commands that operate a running gateway: `reload`, `rollback`, `drain`, `status`, `purge` and `token`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from fastgw.admin import TOKEN
from fastgw.commands.exit_codes import USAGE, WRONG
from fastgw.commands.options import (
    AdminOption,
    CertificateOption,
    ConfigOption,
    Format,
    FormatOption,
    NameOption,
    TokenOption,
)
from fastgw.commands.output import fail, print_json
from fastgw.commands.running_gateway import choose_gateway, gateway_choice, query_chosen, query_gateway

if TYPE_CHECKING:
    from fastgw.admin.client import AdminClient
    from fastgw.admin.node_interface import Outcome


def reload(
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Reload the configuration file of a running gateway, and wait until it is active on all workers."""
    from fastgw.admin.node_interface import Outcome

    wanted = gateway_choice(file, name, admin, token_file)
    _tell_outcome(query_gateway(wanted, certificate, lambda client: client.change("/reload", Outcome)), answer)


def rollback(
    generation: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The generation to roll back to. Default: the previous one.")
    ] = None,
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Roll back a running gateway to an earlier configuration; each time one further back."""
    from fastgw.admin.node_interface import Outcome

    body = {"generation": generation}
    wanted = gateway_choice(file, name, admin, token_file)
    _tell_outcome(query_gateway(wanted, certificate, lambda client: client.change("/rollback", Outcome, body)), answer)


def _tell_outcome(outcome: Outcome, answer: Format) -> None:
    if answer is Format.JSON:
        print_json(outcome)
    elif outcome.ok:
        for note in outcome.notes:
            typer.echo(f"note: {note}")
        typer.echo(outcome.summary)
    else:
        hint = f"; choose one with --generation {outcome.kept[0]}" if outcome.kept else ""
        fail(WRONG, *map(str, outcome.problems), f"fastgw: {outcome.summary}{hint}")
    if not outcome.ok:
        raise typer.Exit(WRONG)


def drain(
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Drain a running gateway: finish requests in flight, accept no new connections, and stop."""
    from fastgw.admin.node_interface import Draining

    draining = query_gateway(
        gateway_choice(file, name, admin, token_file), certificate, lambda client: client.change("/drain", Draining)
    )
    if answer is Format.JSON:
        print_json(draining)
    else:
        typer.echo("draining: the gateway stops when all requests in flight have finished")


def status(
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh the display until Ctrl-C.")] = False,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Show the status of a running gateway."""
    if watch and (answer is Format.JSON or not sys.stdout.isatty()):
        raise typer.BadParameter("--watch needs a terminal", param_hint="--watch")
    wanted = gateway_choice(file, name, admin, token_file)
    if answer is Format.JSON:
        typer.echo(query_gateway(wanted, certificate, _all_status))
        return
    from fastgw.admin import status_tables  # this imports rich, which no other command needs

    if watch:
        query_gateway(wanted, certificate, status_tables.watch)
    else:
        read = query_gateway(wanted, certificate, status_tables.read_tables)
        status_tables.console().print(status_tables.overview(*read))


def _all_status(client: AdminClient) -> str:
    """Return the node's status with its upstreams and routes, as one JSON object."""
    status: dict[str, msgspec.Raw] = {}
    for path in ("/status", "/upstreams", "/routes"):
        status |= msgspec.json.decode(client.get(path), type=dict[str, msgspec.Raw])
    return msgspec.json.encode(status).decode()


def purge(
    url: Annotated[str | None, typer.Option(metavar="URL", help="Purge this URL, as clients see it.")] = None,
    prefix: Annotated[str | None, typer.Option(metavar="URL", help="Purge all URLs with this beginning.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Purge this tag. May be repeated.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Purge all objects of the store.")] = False,
    soft: Annotated[bool, typer.Option("--soft", help="Mark objects as stale instead of removing them.")] = False,
    store: Annotated[str, typer.Option(metavar="NAME", help="Store in `caches`.")] = "main",
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    certificate: CertificateOption = None,
    answer: FormatOption = Format.TEXT,
) -> None:
    """Purge objects of the response cache of a running gateway, by URL, by prefix, by tag, or all.

    Exit status 1 if there were none.
    """
    from fastgw.admin.cache_purges import CachePurge, read_purge
    from fastgw.admin.node_interface import CachePurged

    if sum([url is not None, prefix is not None, bool(tag), everything]) != 1:
        fail(USAGE, "fastgw: expected exactly one of --url, --prefix, --tag and --all")
    wanted = CachePurge(url, prefix, tag or None, everything, soft, store)
    try:
        read_purge(wanted)
    except ValueError as error:
        fail(USAGE, f"fastgw: {error}")
    purged = query_gateway(
        gateway_choice(file, name, admin, token_file),
        certificate,
        lambda client: client.change("/cache/purge", CachePurged, wanted),
    )
    if answer is Format.JSON:
        print_json(purged)
    else:
        others = {"node": "", "shared": "; other nodes follow", "away": "; other nodes follow when Redis is reachable"}
        count = f"{purged.objects} object{'' if purged.objects == 1 else 's'}"
        typer.echo(f"purged: {count}{' (soft)' if soft else ''}{others[purged.reach]}")
    if purged.objects == 0 and purged.is_counted:
        fail(WRONG, f"fastgw: nothing was purged: the store {store!r} is empty, or has nothing that matches")
    if not purged.holds_after_restart:
        why = "the disk of the store can neither be written nor emptied, or did not answer in time"
        fail(WRONG, f"fastgw: the purge holds now, but a restart may undo it: {why}; see the log for cache_disk_failed")


def token(
    file: ConfigOption = None,
    name: NameOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    header: Annotated[
        bool,
        typer.Option(
            "--header", help="Print it as a header, for `curl -H @-`, which keeps it out of the process list."
        ),
    ] = False,
) -> None:
    """Print the token of a running gateway's admin API."""
    wanted = gateway_choice(file, name, admin, token_file)
    choice = choose_gateway(wanted)
    held = choice.token
    if held is None:
        if not query_chosen(choice, None, _requires_token):
            fail(WRONG, "fastgw: the gateway requires no token")
        where = "in the gateway's configuration (`admin.token`), or in a file that cannot be read"
        fail(WRONG, f"fastgw: the token is {where}; give --token-file FILE or set {TOKEN}")
    typer.echo(f"Authorization: Bearer {held}" if header else held)


def _requires_token(client: AdminClient) -> bool:
    """Whether the gateway rejects a request without a token. Raises `Unreachable`."""
    from fastgw.admin.client import RefusedByGateway

    try:
        client.get("/status")
    except RefusedByGateway:
        return True
    return False
