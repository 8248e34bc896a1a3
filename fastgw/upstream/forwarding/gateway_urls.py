"""Gateway URLs: URLs in responses that point to the upstream become those by which the client reaches it.

Rule 1: URLs of other origins do not change. Of several lines, of which clients follow different ones, the first counts,
as in nginx. Rule 2: `Location`, `Content-Location` and `Refresh` are treated alike, by
the default of each route (`OwnUrls`) and by the filter `response_urls`, which takes the place of it.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from fastgw.config.base.route_patterns import parse_strip_prefix
from fastgw.config.settings import gateway as settings
from fastgw.exchange import Exchange, Response
from fastgw.forwarded_headers import ClientOrigin, Peer, client_origin
from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import normalize
from fastgw.upstream.targets.target import Target

if TYPE_CHECKING:
    from fastgw.http.messages import ResponseHead

LONGEST: Final = 8 * 1024
"""Maximum bytes of a URL that is rewritten; a longer one does not change."""
HEADERS: Final = (b"location", b"content-location", b"refresh")
"""Headers that are rewritten."""
PORTS: Final = {b"http": 80, b"https": 443}
_DEFAULT_PORTS: Final = frozenset(b"%d" % port for port in PORTS.values())
Origin = tuple[bytes, bytes, int]
"""Scheme, host (IPv6 in brackets) and port."""

# RFC 3986 appendix B; text with other characters does not change.
_IS_REFERENCE: Final = re.compile(
    rb"(?:([A-Za-z][A-Za-z0-9+.-]*+):)?(?://([^/?#]*+))?([^?#]*+)(\?[^#]*+)?(#.*+)?"
).fullmatch
_IS_AUTHORITY: Final = re.compile(rb"([^@:\[\]]++|\[[^@\[\]]++\])(?::([0-9]{0,5}))?").fullmatch
# HTML standard, section "shared declarative refresh steps": `5; url=/a`, `5, '/a'`, `5 /a`.
_IS_REFRESH: Final = re.compile(
    rb"([\t ]*+[0-9.]++[\t ]*+[;,]?+[\t ]*+(?>(?:(?i:url)[\t ]*+=[\t ]*+)?)"
    rb"""(?>(?:"(?=[^"]*+")|'(?=[^']*+'))?))([^"']*+)(.*+)"""
).fullmatch
_BEYOND_ASCII: Final = re.compile(rb"[\x80-\xff]")


class Reference(NamedTuple):
    """Parts of a URL in a response, as written; b"": left out."""

    scheme: bytes
    authority: bytes
    path: bytes
    query: bytes
    fragment: bytes

    @property
    def server(self) -> bytes:
        """Its host and port, without the credentials before them, which are for the target alone."""
        return self.authority.rpartition(b"@")[2].lower()

    def origin(self, scheme: bytes) -> Origin | None:
        """Return its origin; None: it has none. `scheme`: of a reference without one."""
        scheme = self.scheme.lower() or scheme
        parts = _IS_AUTHORITY(self.server)
        if parts is None or scheme not in PORTS:
            return None
        return scheme, parts[1], int(parts[2] or PORTS[scheme])


class OwnUrls(NamedTuple):
    """Mapping of a target's absolute URLs to the gateway's, for the responses of a route.

    Its URLs are those of its own address; and, where only the client speaks TLS, those with the client's host and
    `http`: a service that writes them does not know how it is reached, and knows no `X-Forwarded-Prefix` either.
    A URL below `upstream` gets the path below `gateway`, as the inverse of what the route does to paths; any other path
    stays. References without a host stay, because services that know their `X-Forwarded-Prefix` write them for clients.
    """

    gateway: bytes
    """Prefix that the route removes from paths, without a slash at the end."""
    upstream: bytes
    """Prefix that it puts before them, likewise."""

    def has_own(self, head: "ResponseHead", target: Target, peer: Peer) -> bool:
        """Whether a header of a response may contain a URL of the target, or has several lines. Cheap, and never
        wrongly False.
        """
        host = own_host(target.scheme, target.host)
        lacks_tls = target.scheme != "https" and (peer.trusted or peer.scheme == b"https")
        hint = b"http:" if lacks_tls else host
        for values in map(head.values, HEADERS):
            if values and (len(values) > 1 or host in (value := values[0].lower()) or hint in value):
                return True
        return False

    def rewrite(self, response: Response, exchange: Exchange, target: Target) -> None:
        """Rewrite the headers of a response of the target, if it `has_own`."""
        rewrite_urls(response, HEADERS, lambda reference: self._gateway_url(reference, exchange, target))

    def _gateway_url(self, text: bytes, exchange: Exchange, target: Target) -> bytes | None:
        reference = parse_reference(text)
        if reference is None or not reference.authority:
            return None
        client = client_origin_of(exchange)
        scheme = b"https" if target.scheme == "https" else b"http"
        origin = reference.origin(scheme)
        if origin == client:
            return None  # the client's own URL needs no change, even if the target has the same one
        if origin not in own_origins(target) and not self._lacks_tls(reference, exchange, target):
            return None
        path = reference.path or b"/"
        moved = moved_path(path, target.base_path + self.upstream, self.gateway)
        return at_client(exchange, (path if moved is None else moved) + reference.query + reference.fragment)

    def _lacks_tls(self, reference: Reference, exchange: Exchange, target: Target) -> bool:
        """Whether a URL is the client's but for its scheme, which is that of the connection to the target."""
        if target.scheme == "https" or reference.scheme.lower() != b"http":
            return False
        client = client_origin(exchange.head, exchange.peer)
        return client.scheme == b"https" and reference.server == client.authority.lower()


def own_urls(route: settings.Route) -> OwnUrls:
    """Return the mapping of a route's responses. That of a path that is rewritten is unknown: it stays."""
    if route.rewrite is not None:
        return OwnUrls(b"", b"")
    removed, put = (each or "/" for each in (route.strip_prefix, route.add_prefix))
    return OwnUrls(*(b"" if each == "/" else parse_strip_prefix(each) for each in (removed, put)))


def rewrite_urls(response: Response, names: Iterable[bytes], gateway_url: Callable[[bytes], bytes | None]) -> None:
    """Rewrite headers of a response. `names`: some of `HEADERS`. `gateway_url`: returns the URL in place of another;
    None: it stays.
    """
    head = response.head
    if head is None:  # a response of the gateway itself
        return
    for name in names:
        if head.first(name) is not None:
            _rewrite(response, name, gateway_url if name != b"refresh" else partial(_refresh, gateway_url))


def _refresh(gateway_url: Callable[[bytes], bytes | None], value: bytes) -> bytes | None:
    """Return a `Refresh` with the gateway's URL; None: it does not change."""
    parts = _IS_REFRESH(value)
    moved = gateway_url(parts[2].rstrip(b" \t")) if parts is not None and parts[2] else None
    return None if parts is None or moved is None else parts[1] + moved + parts[3]


def parse_reference(text: bytes) -> Reference | None:
    """Parse a URL; None: it does not change."""
    parts = _IS_REFERENCE(text) if len(text) <= LONGEST else None
    return None if parts is None else Reference(*parts.groups(b""))


def moved_path(path: bytes, base: bytes, there: bytes) -> bytes | None:
    """Return a path below `base` as one below `there`; None: it is not below it, or not a path."""
    try:
        normal = normalize(_in_ascii(path), strict=False)
    except Malformed:
        return None
    if normal == base:
        return there or b"/"
    if normal.startswith(base + b"/"):
        # As written, unless dots hide its target.
        return there + (path if path.startswith(base + b"/") and b"/." not in path else normal)[len(base) :]
    return None


def at_client(exchange: Exchange, path: bytes) -> bytes | None:
    """Return the URL of a path for the client of an exchange; None: there is none.

    It is below the prefix that trusted proxies have removed. A service that knows this prefix has written it already.
    """
    client = client_origin(exchange.head, exchange.peer)
    prefix = client.prefix
    if prefix and not (path.startswith(prefix) and path[len(prefix) :][:1] in b"/?#"):
        path = prefix + path
    if not client.authority:
        return None if path.startswith(b"//") else path
    return b"%b://%b%b" % (client.scheme, _client_host(client), path)


def client_origin_of(exchange: Exchange) -> Origin | None:
    """Return the origin of the gateway for the client of an exchange."""
    client = client_origin(exchange.head, exchange.peer)
    return Reference(client.scheme, _client_host(client), b"", b"", b"").origin(client.scheme)


def _client_host(client: ClientOrigin) -> bytes:
    """Return the host of the gateway in URLs for a client, with a port that trusted proxies report beside it."""
    host = client.authority
    has_port = not host or b":" in host.rpartition(b"]")[2]
    # The default port of the other scheme is that of a proxy behind the one that ends TLS.
    return host if has_port or client.port in _DEFAULT_PORTS else b"%b:%b" % (host, client.port)


def own_host(scheme: str, host: str) -> bytes:
    """Return the host in URLs of a target: `localhost` for a unix socket."""
    if scheme == "unix":
        return b"localhost"
    return (f"[{host}]" if ":" in host else host).encode()


def own_origins(target: Target) -> tuple[Origin, ...]:
    """Return the origins of a target's own URLs. A service that does not know how it is reached may write `http` for
    `https`, or the reverse, which the client's scheme has suggested to it. Its port is the same then, because another
    one may belong to another server; only `http` without a port can mean nothing else for one at 443.
    """
    host = own_host(target.scheme, target.host)
    port = target.port or PORTS[b"http"]
    same = (b"http", host, port), (b"https", host, port)
    return (*same, (b"http", host, PORTS[b"http"])) if port == PORTS[b"https"] else same


def _in_ascii(path: bytes) -> bytes:
    """Return a path with its text escaped as recipients do (RFC 3987 section 3.1), because many services send it raw.
    Raises `Malformed` for bytes that are not UTF-8, whose text recipients guess.
    """
    if path.isascii():
        return path
    try:
        path.decode()
    except UnicodeDecodeError:
        raise Malformed("The path is not UTF-8.") from None
    return _BEYOND_ASCII.sub(lambda found: b"%%%02X" % found[0][0], path)


def _rewrite(response: Response, name: bytes, rewritten: Callable[[bytes], bytes | None]) -> None:
    fields = response.headers
    values = fields.get_all(name)
    if values:
        moved = rewritten(values[0]) or values[0]
        if values != [moved]:
            fields.set(name.title(), moved)
