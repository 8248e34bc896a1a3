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
"""Name of a gateway without a configuration file."""
_WHERE: Final = {"admin": DEFAULT_ADMIN, "status": DEFAULT_STATUS}


def wants_token(settings: Admin, bound: Address) -> bool:
    """Whether a token has to be generated: none is configured, and access is not restricted otherwise."""
    certified = settings.tls is not None and settings.tls.client_auth is not None
    required = certified and settings.tls.client_auth.mode == "required"  # type: ignore[union-attr]
    return settings.token is None and not required and not is_private(bound)


def register(node_state: NodeState, *, is_upgrade: bool = False) -> None:
    """Create the entry, or continue with that of the previous program; without a directory, log that there is none.

    Raises `CannotStart` if another gateway has the given name, except in an upgrade, which nothing may end.
    """
    begins = node_state.registration is None
    if begins:
        try:
            node_state.registration = Registration.create_entry()
        except Unregistered as error:
            notice(
                OperatorEvent.START_WARNING,
                f"not registered, so commands need --admin and --token-file: {error}",
            )
    registration = node_state.registration
    if is_upgrade or not begins or registration is None or not node_state.name:
        write_entry(node_state)
        return
    try:
        with ExitStack() as starting:
            with suppress(OSError):  # without the lock, two simultaneous starts could get the same name
                starting.enter_context(one_at_a_time(os.path.dirname(registration.path)))
            _check_name(node_state.name)
            write_entry(node_state)
    except CannotStart:
        node_state.registration = None
        registration.end()
        raise


def end_registration(node_state: NodeState) -> None:
    """Remove the entry at the end of the gateway: the one of then."""
    if node_state.registration is not None:
        node_state.registration.end()


def _check_name(name: str) -> None:
    """Check that the name is free. Raises `CannotStart`."""
    for each in running():
        if each.entry.name == name:
            file = f"from {each.entry.config}" if each.entry.config else "without a file"
            what = f'a gateway called "{name}" runs already (pid {each.entry.pid}, {file})'
            raise CannotStart(f"--name {name}: {what}; choose another name, or stop that one first")


def write_entry(node_state: NodeState) -> None:
    """Write the current addresses, and the token if it is required; log why it fails."""
    registration = node_state.registration
    if registration is None:
        return
    if not registration.is_there:
        registration = _registered_again(node_state, registration)
    registration.is_written = False
    try:
        registration.write_token(node_state.admin_token if _made_counts(node_state) else None)
        registration.write(_entry(node_state))
        registration.is_written = True
    except OSError as error:
        why = f"{error.filename or registration.path}: {error.strerror}"
        advice = "commands do not find this gateway, or its token, until SIGHUP or another reload has written it"
        notice(OperatorEvent.START_WARNING, f"{why}; {advice}")


def _registered_again(node_state: NodeState, gone: Registration) -> Registration:
    """Create an entry in place of one that was removed, with its directory for example. Returns the one that is used
    from now on.
    """
    try:
        created = Registration.create_entry()
    except Unregistered as error:
        notice(OperatorEvent.START_WARNING, f"{gone.path} was removed, and there is no other: {error}")
        return gone
    created.replace_entry(gone)
    gone.close()
    node_state.registration = created
    return created


def is_entry_due(node_state: NodeState) -> bool:
    """Whether the entry could not be written, or was removed, so that the next reload tries again."""
    held = node_state.registration
    return held is not None and not (held.is_written and held.is_there)


def _made_counts(node_state: NodeState) -> bool:
    settings, endpoint = node_state.sealed.settings.admin, node_state.own.get("admin")
    return settings is not None and endpoint is not None and wants_token(settings, endpoint.address)


def token_file_of(node_state: NodeState) -> str | None:
    """Return the file with the token of the admin API; None: no token is required, or it is not in a file."""
    settings, registration = node_state.sealed.settings.admin, node_state.registration
    if settings is not None and settings.token is not None:
        return settings.token.file or None
    return registration.token_file if registration is not None and registration.has_token else None


def _entry(node_state: NodeState) -> GatewayEntry:
    settings, file = node_state.sealed.settings.admin, node_state.sealed.accepted.file
    own = {name: str(endpoint.address) for name, endpoint in node_state.own.items()}
    config, given = _paths_of(file, node_state.registration)
    return GatewayEntry(
        pid=os.getpid(),
        name=node_state.name or (Path(file).stem if file else NAMELESS),
        config=config,
        version=VERSION,
        began_date=node_state.begun_date,
        admin=own.get("admin"),
        admin_tls=settings is not None and settings.tls is not None,
        token_file=token_file_of(node_state),
        status=own.get("status"),
        given=given,
    )


def _paths_of(file: str, registration: Registration | None) -> tuple[str, str]:
    """Return the absolute paths of the configuration file: without links, and as given."""
    if not file:
        return "", ""
    try:
        # Not normalized: `link/..` is not the directory of the link.
        return os.path.realpath(file), file if os.path.isabs(file) else os.path.join(os.getcwd(), file)
    except FileNotFoundError:  # the working directory has been removed; commands know the gateway by its former paths
        last = None if registration is None else registration.last
        return (file, "") if last is None else (last.config, last.given)


def own_addresses(node_state: NodeState, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the addresses of the dashboard and of the probes, one per line, with the reason if they are not the
    defaults.

    The token follows `#`, which browsers do not send. It is shown on a terminal only: a file, a pipe or the journal may
    be read by others, who would have it as long as the gateway runs.
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
            url += f"#token={node_state.admin_token}" if _is_terminal(environment) else f" ({_token_hint(node_state)})"
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
    """Return an address that a browser on this machine can use, also for wildcard addresses."""
    return {"0.0.0.0": Address("127.0.0.1", address.port), "::": Address("::1", address.port)}.get(
        address.host, address
    )


def _token_hint(node_state: NodeState) -> str:
    """Return where the generated token is."""
    if node_state.registration is None:
        return "no token file: set admin.token"
    file = token_file_of(node_state)
    return f"token: {file}; fastgw token prints it" if file else "token: its file could not be written"


def _is_terminal(environment: Mapping[str, str]) -> bool:
    """Whether stderr is shown to the user alone. That of a pod is collected, also if it is a terminal (`tty: true`)."""
    return "KUBERNETES_SERVICE_HOST" not in environment and os.isatty(STDERR)
