"""Registration of this gateway in the runtime directory, and the token of its admin API."""

import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from fastgw import VERSION
from fastgw.admin.gateway_registry import GatewayEntry, Registration, Unregistered, is_private, one_at_a_time, running
from fastgw.config.base.value_types import Address
from fastgw.config.settings.gateway import DEFAULT_ADMIN, DEFAULT_STATUS, Admin
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import STDERR, notice
from fastgw.runtime.node.node_state import NodeState
from fastgw.runtime.node.startup import CannotStart

NAMELESS: Final = "fastgw"
"""The name of a gateway without a configuration file."""
_WHERE: Final = {"admin": DEFAULT_ADMIN, "status": DEFAULT_STATUS}


def wants_token(settings: Admin, bound: Address) -> bool:
    """Whether one has to be made: none is configured, and nothing else keeps strangers out."""
    certified = settings.tls is not None and settings.tls.client_auth is not None
    required = certified and settings.tls.client_auth.mode == "required"  # type: ignore[union-attr]
    return settings.token is None and not required and not is_private(bound)


def register(node_state: NodeState) -> None:
    """Begin an entry, or go on with that of the program before this one; without a directory do without, and say so.

    Raises `CannotStart` where another gateway has the name that this one was given.
    """
    begins = node_state.registration is None
    if begins:
        try:
            node_state.registration = Registration.create_entry()
        except Unregistered as error:
            notice(
                OperatorEvent.START_WARNING,
                f"fastgw: warning: not registered, so commands need --admin and --token-file: {error}",
            )
    registration = node_state.registration
    if not begins or registration is None or not node_state.name:
        write_entry(node_state)
        return
    try:
        with ExitStack() as starting:
            with suppress(OSError):  # without the lock two that start at once might have one name
                starting.enter_context(one_at_a_time(os.path.dirname(registration.path)))
            _check_name(node_state.name)
            write_entry(node_state)
    except CannotStart:
        node_state.registration = None
        registration.end()
        raise


def _check_name(name: str) -> None:
    """Raises `CannotStart`."""
    for each in running():
        if each.entry.name == name:
            file = f"from {each.entry.config}" if each.entry.config else "without a file"
            what = f'a gateway called "{name}" runs already (pid {each.entry.pid}, {file})'
            raise CannotStart(f"--name {name}: {what}; choose another name, or stop that one first")


def write_entry(node_state: NodeState) -> None:
    """Write what is so now: the addresses, and the token where one is needed."""
    registration = node_state.registration
    if registration is None:
        return
    try:
        registration.write_token(node_state.admin_token if _made_counts(node_state) else None)
        registration.write(_entry(node_state))
    except OSError as error:
        notice(OperatorEvent.START_WARNING, f"fastgw: warning: {registration.path}: {error.strerror}")


def _made_counts(node_state: NodeState) -> bool:
    settings, endpoint = node_state.sealed.settings.admin, node_state.own.get("admin")
    return settings is not None and endpoint is not None and wants_token(settings, endpoint.address)


def token_file_of(node_state: NodeState) -> str | None:
    """Return the file with the token of the admin API; None: no token is needed, or it is in no file."""
    settings, registration = node_state.sealed.settings.admin, node_state.registration
    if settings is not None and settings.token is not None:
        return settings.token.file or None
    return registration.token_file if registration is not None and _made_counts(node_state) else None


def _entry(node_state: NodeState) -> GatewayEntry:
    settings, file = node_state.sealed.settings.admin, node_state.sealed.accepted.file
    own = {name: str(endpoint.address) for name, endpoint in node_state.own.items()}
    return GatewayEntry(
        pid=os.getpid(),
        name=node_state.name or (Path(file).stem if file else NAMELESS),
        config=os.path.realpath(file) if file else "",
        version=VERSION,
        began_date=node_state.begun_date,
        admin=own.get("admin"),
        admin_tls=settings is not None and settings.tls is not None,
        token_file=token_file_of(node_state),
        status=own.get("status"),
    )


def own_addresses(node_state: NodeState, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the addresses of the dashboard and of the probes, a line each; and why they are not the usual ones.

    The token stands behind `#`: browsers send that to nobody. It is left out where many read what is written to stderr.
    """
    lines = []
    settings, admin, status = (
        node_state.sealed.settings.admin,
        node_state.own.get("admin"),
        node_state.own.get("status"),
    )
    if settings is not None and admin is not None:
        url = str(admin.address)
        if not admin.address.path:
            url = f"{'http' if settings.tls is None else 'https'}://{_reachable(admin.address)}/"
        if _made_counts(node_state) and not admin.address.path:
            if (file := token_file_of(node_state)) and _is_shared_log(environment):
                url += f" (token: {file})"
            else:
                url += f"#token={node_state.admin_token}"
        lines.append(f"dashboard {url}{_moved(node_state, 'admin')}")
    if status is not None:
        shown = str(status.address) if status.address.path else f"http://{_reachable(status.address)}/metrics"
        lines.append(f"status {shown}{_moved(node_state, 'status')}")
    return lines


def _moved(node_state: NodeState, name: str) -> str:
    usual, address = _WHERE[name], node_state.own[name].address
    if getattr(node_state.sealed.settings, name) is not usual or address == usual.address:
        return ""
    return f" ({usual.address.port} is taken)"


def _reachable(address: Address) -> Address:
    """One that a browser on this machine may be given: all addresses are none."""
    return {"0.0.0.0": Address("127.0.0.1", address.port), "::": Address("::1", address.port)}.get(
        address.host, address
    )


def _is_shared_log(environment: Mapping[str, str]) -> bool:
    """Whether stderr is the journal, or the log of a pod: what others collect and read."""
    if "KUBERNETES_SERVICE_HOST" in environment:
        return True
    try:
        found = os.fstat(STDERR)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
