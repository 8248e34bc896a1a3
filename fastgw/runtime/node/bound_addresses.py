"""The bound addresses, reported when the gateway serves: on stderr, and on the descriptor of `--ready-fd`."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from fastgw.config.base.value_types import Address
from fastgw.runtime.node.gateway_registration import token_file_of
from fastgw.runtime.node.node_state import NodeState


@dataclass(frozen=True)
class Bound:
    """Addresses that the gateway listens on, once all workers accept."""

    listeners: Mapping[str, Sequence[Address]]
    status: Address | None
    admin: Address | None
    workers: int
    token_file: str | None = None
    """File with the token of the admin API; None: no token is required, or it is not in a file."""
    secured: frozenset[str] = frozenset()
    """Names of the listeners with TLS."""
    transports: Mapping[str, str] = field(default_factory=dict)
    """Protocols of the listeners other than HTTP."""

    @classmethod
    def of(cls, node_state: NodeState) -> "Bound":
        own = {name: endpoint.address for name, endpoint in node_state.own.items()}
        listeners = {
            name: [node_state.endpoints[number].address for number in numbers]
            for name, numbers in node_state.listeners.items()
        }
        configured = node_state.sealed.settings.listeners
        secured = frozenset(name for name in listeners if configured[name].tls is not None)
        transports = {name: configured[name].protocol for name in listeners if configured[name].protocol != "http"}
        token_file = token_file_of(node_state)
        served = node_state.workers, token_file, secured, transports
        return cls(listeners, own.get("status"), own.get("admin"), *served)

    @property
    def urls(self) -> list[str]:
        """Return the URLs: `http://127.0.0.1:8080`, `https://127.0.0.1:8443`, `tcp://127.0.0.1:5432`, `unix:/path`."""
        return [
            str(address) if address.path else f"{self._scheme(name)}://{address}"
            for name, addresses in self.listeners.items()
            for address in addresses
        ]

    def _scheme(self, name: str) -> str:
        return self.transports.get(name) or ("https" if name in self.secured else "http")

    def __str__(self) -> str:
        return f"{', '.join(self.urls) or 'nothing yet'} ({self.workers} worker{'s' if self.workers > 1 else ''})"


def write_ready(descriptor: int, bound: Bound) -> None:
    """Write the addresses as a line of JSON, and close."""
    line = {
        "listeners": {name: [str(address) for address in each] for name, each in bound.listeners.items()},
        "status": None if bound.status is None else str(bound.status),
        "admin": None if bound.admin is None else str(bound.admin),
        "token_file": bound.token_file,
        "pid": os.getpid(),
    }
    with suppress(BrokenPipeError):  # its reader has ended
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    os.close(descriptor)
