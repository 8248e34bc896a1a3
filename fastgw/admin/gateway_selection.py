"""Selects the running gateway for a command: by address, or from the runtime directory."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from msgspec import Struct

from fastgw.admin.client import DEFAULT, AdminAddress, parse_admin_address, token_of
from fastgw.admin.gateway_registry import Found, GatewayEntry, directories, running
from fastgw.config.base.value_types import parse_address


class NoSuchGateway(Exception):
    """No running gateway matches. The text is one line for the user."""


class AmbiguousGateway(Exception):
    """Several gateways match, and there is no terminal to ask. The text lists them, one per line."""


class Choice(Struct, frozen=True):
    """Selected gateway: address, and token to send."""

    admin: AdminAddress
    token: str | None = None


class GatewayChoice(Struct, frozen=True):
    """Command line options that select a gateway."""

    admin: str | None = None
    config: str | None = None
    name: str | None = None
    token_file: str | None = None


def choose(wanted: GatewayChoice, ask: Callable[[Sequence[Found]], Found] | None = None) -> Choice:
    """Return the selected gateway. `ask`: lets the user choose among several; None: there is no terminal.

    Raises `NoSuchGateway`, `AmbiguousGateway`, `SecretError`, and `ValueError` for an invalid address.
    """
    given = token_of(wanted.token_file)
    if wanted.admin is not None:
        admin, found = _named(parse_admin_address(wanted.admin), running())
        return Choice(admin, given or (None if found is None else found.token()))
    fitting = _fitting(running(), wanted)
    if not fitting:
        if wanted.config is None and wanted.name is None:
            return Choice(parse_admin_address(DEFAULT), given)  # a gateway in a container, or of another user
        what = f"from {wanted.config}" if wanted.config is not None else f'called "{wanted.name}"'
        raise NoSuchGateway(f"no gateway {what} runs; {known(running())}")
    if len(fitting) > 1 and ask is None:
        lines = "\n".join(f"  {each}" for each in listed(fitting))
        raise AmbiguousGateway(
            f"several gateways run; choose one with --config FILE, --name NAME or --admin ADDR:\n{lines}"
        )
    meant = fitting[0] if len(fitting) == 1 or ask is None else ask(fitting)
    where = address_of(meant)
    if where is None:
        raise NoSuchGateway(
            f"{_title(meant)} has no admin listener, which this command needs: leave `admin: null` out of its "
            f"configuration, or signal its process {meant.entry.pid}: HUP reloads, TERM drains"
        )
    return Choice(where, given or meant.token())


def _fitting(found: Sequence[Found], wanted: GatewayChoice) -> list[Found]:
    named = [each for each in found if wanted.name is None or each.entry.name == wanted.name]
    if wanted.config is None:
        return named
    file = os.path.realpath(wanted.config)
    # A release, or a volume of Kubernetes, switches a link in the path: the gateway reads the file it leads to now.
    reading = [each for each in named if _file_of(each.entry) == file]
    return reading or [each for each in named if each.entry.config == file]


def _file_of(entry: GatewayEntry) -> str:
    """Return the path without links of the file that the gateway would read now; "": unknown."""
    with suppress(ValueError):  # no path has a null byte, but the entry of another user may
        return os.path.realpath(entry.given) if entry.given else entry.config
    return ""


def _named(admin: AdminAddress, found: Sequence[Found]) -> tuple[AdminAddress, Found | None]:
    """Return the gateway bound to exactly this address. `localhost` becomes its address: a name may resolve to another
    host, which would receive the token. Over TLS the certificate proves the name."""
    for each in found:
        other = address_of(each)
        if other is None or other.tls != admin.tls:
            continue
        one, two = admin.address, other.address
        same_host = one.host == two.host or (one.host == "localhost" and two.local)
        if one.path or two.path:
            if one.path and two.path and os.path.realpath(one.path) == os.path.realpath(two.path):
                return admin, each
        elif same_host and one.port == two.port:
            return (admin if admin.tls else AdminAddress(admin.text, two)), each
    return admin, None


def address_of(found: Found) -> AdminAddress | None:
    """Return the address of its admin API; None = it has none."""
    admin = found.entry.admin
    if admin is None:
        return None
    for wildcard, here in (("0.0.0.0:", "127.0.0.1:"), ("[::]:", "[::1]:")):
        if admin.startswith(wildcard):
            admin = here + admin.removeprefix(wildcard)
    return AdminAddress(
        f"https://{admin}" if found.entry.admin_tls else admin, parse_address(admin), found.entry.admin_tls
    )


def known(found: Sequence[Found]) -> str:
    """Return a description of the running gateways, for messages."""
    if not found:
        return f"none is registered in {', '.join(directories())}"
    return "there is " + ", ".join(map(_title, found))


def _title(found: Found) -> str:
    return f'"{found.entry.name}" ({found.entry.config or "without a file"})'


def listed(found: Sequence[Found]) -> list[str]:
    """Return one line per gateway."""
    rows = [
        (each.entry.name, f"pid {each.entry.pid}", each.entry.admin or "no admin listener", each.entry.config or "-")
        for each in found
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
