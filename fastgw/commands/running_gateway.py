"""The running gateway that a command asks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import typer

from fastgw.commands.exit_codes import UNREACHABLE, USAGE, WRONG
from fastgw.commands.output import fail
from fastgw.config.settings.secrets import SecretError

if TYPE_CHECKING:
    from fastgw.admin.client import AdminClient
    from fastgw.admin.gateway_registry import Found
    from fastgw.admin.gateway_selection import Choice, GatewayChoice


T = TypeVar("T")


def gateway_choice(file: str | None, name: str | None, admin: str | None, token_file: str | None) -> GatewayChoice:
    from fastgw.admin.gateway_selection import GatewayChoice

    if sum(each is not None for each in (file, name, admin)) > 1:
        raise typer.BadParameter("--config, --name and --admin are mutually exclusive")
    return GatewayChoice(admin, file, name, token_file)


def choose_gateway(wanted: GatewayChoice) -> Choice:
    """Return the selected gateway, and its token."""
    from fastgw.admin.gateway_selection import AmbiguousGateway, NoSuchGateway, choose

    is_asked = all(each is not None and each.isatty() for each in (sys.stdin, sys.stderr))
    try:
        return choose(wanted, _ask_which if is_asked else None)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--admin") from error
    except AmbiguousGateway as error:
        fail(USAGE, f"fastgw: {error}")
    except NoSuchGateway as error:
        fail(UNREACHABLE, f"fastgw: {error}")
    except SecretError as error:
        fail(WRONG, f"fastgw: {error}")


def _ask_which(found: Sequence[Found]) -> Found:
    from click import IntRange

    from fastgw.admin.gateway_selection import listed

    typer.echo("Several gateways run:", err=True)
    for index, line in enumerate(listed(found), 1):
        typer.echo(f"  {index}  {line}", err=True)
    number: int = typer.prompt("Which one", type=IntRange(1, len(found)), err=True)
    return found[number - 1]


def query_gateway(wanted: GatewayChoice, certificate: str | None, ask: Callable[[AdminClient], T]) -> T:
    """Return the response of a running gateway."""
    return query_chosen(choose_gateway(wanted), certificate, ask)


def query_chosen(choice: Choice, certificate: str | None, ask: Callable[[AdminClient], T]) -> T:
    from fastgw.admin.client import AdminClient, NotUtf8, RefusedByGateway, Unreachable

    if certificate is not None and not choice.admin.tls:
        raise typer.BadParameter("a client certificate needs https://", param_hint="--certificate")
    try:
        return ask(AdminClient(choice.admin, choice.token, certificate))
    except Unreachable as error:
        fail(UNREACHABLE, f"fastgw: {error}")
    except RefusedByGateway as error:
        fail(WRONG, f"fastgw: {error}")
    except NotUtf8 as error:
        fail(USAGE, f"fastgw: {error}")
