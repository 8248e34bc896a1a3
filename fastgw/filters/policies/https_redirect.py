"""https_redirect: redirect plain HTTP requests to https."""

from collections.abc import Callable, Iterable
from typing import Annotated, Final, Literal

from msgspec import Meta

from fastgw.config.base.route_patterns import HostPattern, PathKind, PathPattern, parse_host, parse_path
from fastgw.config.base.value_types import Notation
from fastgw.config.settings.gateway import Some
from fastgw.filters.api import Env, Exchange, Fault, Filter, Hooks, Outcome, Phase, Reply
from fastgw.forwarded_headers import client_scheme

_HTTPS_PORT: Final = 443


def _parse_exception(text: str) -> str:
    kind = parse_path(text).kind
    if kind not in (PathKind.EXACT, PathKind.PREFIX):
        raise ValueError(f'"{text}" is not a plain path')
    return text


def _parse_host(text: str) -> str:
    parse_host(text)
    return text


Path = Annotated[str, Notation('a path such as "/.well-known/acme-challenge/*"', _parse_exception, {"type": "string"})]
Host = Annotated[str, Notation('a host such as "example.com" or "*.example.com"', _parse_host, {"type": "string"})]


class HttpsRedirect(Filter, name="https_redirect", phase=Phase.ADMIT, order=-20):  # type: ignore[literal-required]  # order: ours
    """Redirect requests over plain HTTP to https, with the same host, path and query. Meant for a listener.

    A trusted proxy's headers are used to find out how the client connected. Requests over https pass.
    """

    status: Literal[301, 302, 307, 308] = 308
    """307 and 308 keep the method; clients may cache 301 and 308."""
    port: Annotated[int, Meta(ge=1, le=65535)] = _HTTPS_PORT
    """Port of https in the redirect; 443 is left out."""
    hosts: Some[Host] = ()
    """Hosts to redirect. Requests for other hosts are answered 404. Left out = any host."""
    exceptions: tuple[Path, ...] = ()
    """Paths that are served over plain HTTP too, such as `/.well-known/acme-challenge/*`."""

    def build(self, env: Env) -> Hooks:
        status = self.status
        port = b"" if self.port == _HTTPS_PORT else b":%d" % self.port
        serves = _any_host(map(parse_host, self.hosts))
        excepted = _any_path(map(parse_path, self.exceptions))

        def request(exchange: Exchange) -> Outcome:
            path = exchange.path
            if client_scheme(exchange.head, exchange.peer) == b"https" or excepted(path):
                return None
            if not path.startswith(b"/"):  # OPTIONS * and CONNECT have no equivalent URL
                return None
            host = exchange.host  # validated: letters, digits, `-`, `.`, `_`, `~`, or an IPv6 address in brackets
            if not host:
                return exchange.refuse(Fault.BAD_REQUEST, "The Host header is missing.")
            if not serves(host):
                return exchange.refuse(Fault.ROUTE_NOT_FOUND, why="not one of the hosts of https_redirect")
            # The path follows the authority, so it cannot change the host.
            location = b"https://%b%b%b" % (host, port, exchange.raw_path)
            if exchange.query is not None:
                location += b"?" + exchange.query
            return Reply(status, fields=((b"Location", location),))

        def explain(exchange: Exchange) -> str:
            if client_scheme(exchange.head, exchange.peer) == b"https":
                return "the request came by https"
            return "the path is an exception"

        return Hooks(request=request, explain=explain)


def _any_host(hosts: Iterable[HostPattern]) -> Callable[[bytes], bool]:
    """Return a test whether a host is one of these; without any, every host is."""
    listed = tuple(hosts)
    names = frozenset(host.name for host in listed if not host.wildcard)
    endings = tuple(host.name for host in listed if host.wildcard)
    if not listed:
        return lambda host: True
    return lambda host: host in names or host.endswith(endings)


def _any_path(paths: Iterable[PathPattern]) -> Callable[[bytes], bool]:
    """Return a test whether a path in normal form is one of these, or below one of the prefixes."""
    listed = tuple(paths)
    exact = frozenset(path.literal for path in listed)
    prefixes = tuple(path.literal + b"/" for path in listed if path.kind is PathKind.PREFIX)
    return lambda path: path in exact or path.startswith(prefixes)
