"""Startup of the supervisor, before any child: shared memory, sockets, the accepted configuration."""

import errno
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from fastgw.cache.tiers.disk_claims import UnusableDisk
from fastgw.config.base.problems import Problem
from fastgw.config.base.value_types import Address
from fastgw.config.settings.gateway import DEFAULT_ADMIN, DEFAULT_STATUS, Admin, Config, Status
from fastgw.config.sources.virtual_files import awaits
from fastgw.config.validation.ocsp import lacks_stapling
from fastgw.gateway.tables import Gateway
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import notice
from fastgw.runtime.node.cache_stores import open_stores
from fastgw.runtime.node.config_snapshot import ConfigSnapshot
from fastgw.runtime.node.node_state import NodeState, Sealed, assign_endpoints
from fastgw.runtime.node.shm_layout import ShmLayout
from fastgw.runtime.process.machine_capacity import file_limit, file_limit_warning, raise_file_limit
from fastgw.runtime.sockets.listening_sockets import AddressInUse, CannotListen, ListeningEndpoint, close_endpoints
from fastgw.runtime.sockets.systemd_activation import Inherited, unclaimed_line
from fastgw.shm.memory import SharedMemory
from fastgw.shm.wakers import close_wakers, open_wakers

OWN: Final[Mapping[str, object]] = {"status": DEFAULT_STATUS, "admin": DEFAULT_ADMIN}
"""Listeners of control, with their default settings."""
PORTS_TRIED: Final = 100
"""Number of ports that are tried if a default port is in use."""


class CannotStart(Exception):
    """The gateway could not start; the text is the error message in one line."""


@contextmanager
def enough_files() -> Iterator[None]:
    """Raise `CannotStart`, which says what to do, where the block fails because too many files are open."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        why = f"{error.strerror}: with at most {file_limit()} (ulimit -n) the gateway cannot start; raise it"
        raise CannotStart(why) from error


class UnusableSettings(CannotStart):
    """The configuration is valid, but this machine cannot use some settings."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(map(str, problems)))


def open_node_state(accepted: ConfigSnapshot, gateway: Gateway, passed: Inherited, opened: ExitStack) -> NodeState:
    """Create everything for a start; closed by `opened`. Raises `CannotListen`, `CannotStart`, and `OSError` where too
    many files are open.
    """
    settings = accepted.settings
    words = ShmLayout(gateway)
    try:
        shared = SharedMemory.create(gateway.layout, accepted.workers)
        caches = open_stores(settings)
        wakers = open_wakers(accepted.workers)
    except UnusableDisk as error:
        raise CannotStart(str(error)) from error
    except (MemoryError, OverflowError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.EMFILE:
            raise
        raise CannotStart(
            f"cannot have the shared memory that workers: {accepted.workers}, limits.connections: "
            f"{settings.limits.connections} and caches need; lower them"
        ) from error
    node_state = NodeState(
        shared=shared,
        words=words,
        sealed=Sealed.of(accepted),
        gateway=gateway,
        compiled=accepted.generation,
        workers=accepted.workers,
        slots=accepted.workers,
        caches=caches,
        wakers=wakers,
        passed=passed,
        begun_date=accepted.date,
        begun_at=time.monotonic() - max(time.time() - accepted.date, 0.0),  # the same instant
    )
    opened.callback(close_node_state, node_state)
    words.set_awaits(shared, awaits(accepted.captured))
    node_state.listeners, node_state.endpoints = assign_endpoints(node_state, settings.listeners)
    for name in OWN:
        if endpoint := open_own(node_state, name, settings):
            node_state.own[name] = endpoint
    warn(node_state)
    return node_state


def open_own(node_state: NodeState, name: str, settings: Config) -> ListeningEndpoint | None:
    """Open an endpoint of control. If a default address is in use, the next free port is used. None: there is no such
    listener. Raises `CannotListen`.

    A unix socket of the admin listener is accessible to its owner only, unless there is a token.
    """
    wanted: Status | Admin | None = getattr(settings, name)
    if wanted is None:
        return None
    private = isinstance(wanted, Admin) and wanted.token is None
    try:
        return node_state.open_one(wanted.address, private=private)
    except CannotListen as error:
        if wanted is not OWN[name]:
            raise
        if isinstance(error, AddressInUse) and (endpoint := _open_next(node_state, wanted.address)):
            return endpoint
        text = f"no {name} listener: {error}; write {name}: {{address: …}} or {name}: null"
        notice(OperatorEvent.LISTENER_LEFT_OUT, text)
        return None


def _open_next(node_state: NodeState, taken: Address) -> ListeningEndpoint | None:
    """Open an endpoint at one of the ports after this one; None: all of them are in use."""
    for port in range(taken.port + 1, taken.port + PORTS_TRIED + 1):
        try:
            return node_state.open_one(Address(host=taken.host, port=port))
        except AddressInUse:
            continue
        except CannotListen:
            return None
    return None


def warn(node_state: NodeState, *, again: bool = False) -> None:
    """Log what is slower or less than configured. `again`: the previous program has logged what has not changed."""
    files = raise_file_limit()
    connections = node_state.sealed.settings.limits.connections
    limit = None if again else file_limit_warning(connections, node_state.workers, files)
    listeners = node_state.sealed.settings.listeners
    reasons = ((name, lacks_stapling(each)) for name, each in listeners.items())
    lacking = (f"listeners.{name}: {why}" for name, why in reasons if why is not None)
    for warning in (limit, *lacking):
        if warning is not None:
            notice(OperatorEvent.START_WARNING, warning)
    for line in node_state.passed.unclaimed():
        notice(OperatorEvent.START_WARNING, line)


def close_unused(node_state: NodeState, endpoints: Iterable[ListeningEndpoint]) -> None:
    """Close endpoints that the active generation does not use; log the sockets that the service manager keeps open."""
    for each in node_state.close_endpoints(endpoints):
        notice(OperatorEvent.START_WARNING, unclaimed_line(each))


def close_node_state(node_state: NodeState) -> None:
    close_endpoints([*node_state.endpoints.values(), *node_state.own.values()])
    for sealed in (*node_state.kept, node_state.sealed):
        os.close(sealed.descriptor)
    node_state.caches.close()
    close_wakers(node_state.wakers)
    node_state.passed.close()
