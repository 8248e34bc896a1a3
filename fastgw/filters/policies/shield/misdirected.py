"""misdirected: refuse requests for another host than the connection was opened for (RFC 9110 section 15.5.20)."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Final

from msgspec import Meta

from fastgw.config.base.value_types import ServerNamePattern
from fastgw.config.settings.gateway import Some
from fastgw.filters.api import Env, Exchange, Fault, Filter, Hooks, Outcome, Phase

_REST: Final = -1
"""Group of the hosts that no group names."""


class Misdirected(Filter, name="misdirected", phase=Phase.ADMIT, order=-30):  # type: ignore[literal-required]  # order: ours
    """Answer requests 421 whose host belongs to another group than the server name (SNI) of their connection. Clients
    then send them on a connection of their own.

    Browsers use one HTTP/2 connection for several hosts if its certificate is valid for them. That is a problem where
    the hosts differ in what applies to the connection, such as client certificates. Requests without TLS pass.
    """

    groups: Annotated[tuple[Some[ServerNamePattern], ...], Meta(min_length=1, examples=["[[a.example, b.example]]"])]
    """Groups of hosts that may share a connection: names, or `*.example.com` for any number of labels. The exact name
    comes first, then the longest wildcard. All other hosts, and connections without a server name, are one more
    group."""

    def __post_init__(self) -> None:
        names = [name.lower() for group in self.groups for name in group]
        if len(set(names)) < len(names):
            raise ValueError("a name is in two groups; expected each of them once")

    def build(self, env: Env) -> Hooks:
        group_of = _group_of(self.groups)

        def request(exchange: Exchange) -> Outcome:
            tls = exchange.peer.tls
            if tls is None or group_of(exchange.host.decode()) == group_of(tls.server_name):
                return None
            return exchange.refuse(Fault.MISDIRECTED, why=f"the connection is for {tls.server_name or 'no name'}")

        def explain(exchange: Exchange) -> str:
            return "the request has the server name of its connection"

        return Hooks(request=request, explain=explain)


def _group_of(groups: Iterable[Sequence[str]]) -> Callable[[str], int]:
    """Return the function that returns the number of the group of a host."""
    known = {name.lower(): number for number, group in enumerate(groups) for name in group}

    def group_of(host: str) -> int:
        host = host.lower().removesuffix(".")
        found = known.get(host)
        while found is None and host:
            host = host.partition(".")[2]
            found = known.get(f"*.{host}")
        return _REST if found is None else found

    return group_of
