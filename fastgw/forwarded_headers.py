"""Forwarded headers: the client's address, and what the upstream is told about it: `X-Forwarded-*`, `X-Real-IP`,
`Forwarded` (RFC 7239).

The whole family is governed as one. A field that only a proxy may write is believed from a trusted proxy alone; from
anybody else it is replaced, or an upstream could be told any address.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from itertools import islice
from typing import Final, Literal, TypeAlias

from fastgw.http.grammar import TOKEN, VALUE
from fastgw.http.messages import RequestHead
from fastgw.net.client_certificate import ClientCertificate

Policy: TypeAlias = Literal["append", "set", "strip", "pass"]

FAMILY: Final = frozenset(
    (
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-client-cert",
        b"x-real-ip",
    )
)
_NOTHING: Final[frozenset[bytes]] = frozenset()
_CLIENT_CERT: Final = frozenset((b"x-forwarded-client-cert",))
MOST_PROXIES: Final = 32
"""Proxies between the client and us, at most: further to the left nothing is read."""
MOST_BYTES: Final = 4096
"""Most bytes of `Forwarded`, counted from its end: what begins further to the left is not read."""
LONGEST_NODE: Final = 64
"""Bytes of an address with its port, at most; a longer one is none."""

# RFC 7239 section 4; values that should be quoted, such as addresses with a port, are taken without quotes too.
_QUOTED: Final = rb'"(?>(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]++|\\' + VALUE + rb')*)"'
_PAIR: Final = TOKEN + rb"++=(?:" + _QUOTED + rb'|[^\s",;]++)'
_ELEMENT: Final = _PAIR + rb"(?>(?:[ \t]*+;[ \t]*+" + _PAIR + rb")*)"
_IS_ELEMENT: Final = re.compile(_ELEMENT).fullmatch
_IS_LIST: Final = re.compile(_ELEMENT + rb"(?>(?:[ \t]*+,[ \t]*+" + _ELEMENT + rb")*)").fullmatch
# Read backwards: on to a comma that stands in no quotes. A quote with an odd number of backslashes before it, which
# come behind it here, is one between quotes; the one that opens has `=` there.
_TO_COMMA_BACKWARDS: Final = re.compile(
    rb'((?>(?:[^",]++|"(?>(?:\\\\)*)(?!\\)(?>(?:[^"]++|"\\(?>(?:\\\\)*)(?!\\))*)"(?==))*))(?:,|\Z)'
)
_FOR: Final = re.compile(
    rb"(?>(?:(?![Ff][Oo][Rr]=)"
    + _PAIR
    + rb"[ \t]*+;[ \t]*+)*)[Ff][Oo][Rr]="
    + rb'"?((?<=")(?>(?:[^"\\]++|\\.)*)|[^\s",;]++)'
)
_IS_AUTHORITY: Final = re.compile(rb"(?:[a-z0-9._~-]++|\[[0-9a-f:.]++\])(?::[0-9]{1,5})?").fullmatch
_PROTO: Final = re.compile(rb'(?:^|;)[ \t]*+[Pp][Rr][Oo][Tt][Oo]="?([A-Za-z]++)')


class Peer:
    """The other end of a client connection, for as long as it lives.

    `ip`: its address, `unix:` for a unix socket. `trusted`: a proxy whose word about the client is taken.
    `certificate`: what it has shown over TLS, verified; None where it has shown none.
    """

    __slots__ = ("_authority", "_lines", "certificate", "ip", "port", "scheme", "server_port", "trusted")

    def __init__(
        self,
        ip: str,
        port: int,
        server_port: int,
        trusted: bool,
        scheme: bytes = b"http",
        certificate: ClientCertificate | None = None,
    ) -> None:
        self.ip, self.port, self.server_port, self.trusted, self.scheme = ip, port, server_port, trusted, scheme
        self.certificate = certificate
        self._authority: bytes | None = None
        self._lines = b""

    def set_lines(self, authority: bytes) -> bytes:
        """The family as we see it ourselves. Clients rarely change the authority, so the last answer is kept."""
        if authority != self._authority:
            self._authority = authority
            self._lines = _lines(
                for_=_ip(self.ip),
                node=_node(self.ip),
                proto=self.scheme,
                host=authority,
                port=b"%d" % self.server_port if self.server_port else b"",
                real_ip=_ip(self.ip),
                client_cert=_element(self),
            )
        return self._lines


def fields_for_upstream(
    policy: Policy | None, peer: Peer, head: RequestHead, client_ip: str
) -> tuple[frozenset[bytes], bytes]:
    """Return the changes of a policy to the family: lower-case names to drop from the request, and ready lines to add.

    `policy` None: `append` for a trusted peer, else `set`.
    """
    if policy is None:
        policy = "append" if peer.trusted else "set"
    if policy == "set":
        return FAMILY, peer.set_lines(head.authority)
    if policy == "strip":
        return FAMILY, b""
    if policy == "pass":
        if peer.scheme == b"https" and not peer.trusted:  # what it has shown we know, and nobody else can
            return _CLIENT_CERT, b"X-Forwarded-Client-Cert: %b\r\n" % _element(peer) if peer.certificate else b""
        return _NOTHING, b""
    return FAMILY, _appended(peer, head, client_ip)


def _appended(peer: Peer, head: RequestHead, client_ip: str) -> bytes:
    """The lists go on. How and where the client came is taken from a trusted peer alone."""
    if client_ip == peer.ip and not head.forwarded and head.edited() is None:
        return peer.set_lines(head.authority)  # nothing was heard of anybody else
    heard = _list_of(head, b"x-forwarded-for")
    forwarded = _well_formed_end(_forwarded_of(head))
    # A proxy that writes one of the two lists is understood by readers of the other as well.
    if peer.trusted and heard and not forwarded:
        forwarded = b", ".join(b"for=" + _node(_address(name) or "unix:") for name in _last_of(heard))
    elif peer.trusted and forwarded and not heard:
        names = [_address(_for(element)) or "unknown" for element in islice(_elements(forwarded), MOST_PROXIES)]
        heard = ", ".join(reversed(names)).encode()
    first = head.first if peer.trusted else _unheard
    return _lines(
        for_=b", ".join(part for part in (heard, _ip(peer.ip)) if part),
        node=_node(peer.ip),
        proto=first(b"x-forwarded-proto") or peer.scheme,
        host=first(b"x-forwarded-host") or head.authority,
        port=first(b"x-forwarded-port") or (b"%d" % peer.server_port if peer.server_port else b""),
        real_ip=_ip(client_ip),
        forwarded=forwarded,
        own_proto=peer.scheme,
        own_host=head.authority,
        client_cert=b", ".join(
            part
            for part in (_list_of(head, b"x-forwarded-client-cert") if peer.trusted else b"", _element(peer))
            if part
        ),
    )


def _unheard(name: bytes) -> None:
    return None


def _lines(
    *,
    for_: bytes,
    node: bytes,
    proto: bytes,
    host: bytes,
    port: bytes,
    real_ip: bytes,
    forwarded: bytes = b"",
    own_proto: bytes | None = None,
    own_host: bytes | None = None,
    client_cert: bytes = b"",
) -> bytes:
    if own_host is None:
        own_host = host
    element = b"for=%b%b;proto=%b" % (node, b';host="%b"' % own_host if own_host else b"", own_proto or proto)
    named = (
        (b"X-Forwarded-For", for_),
        (b"X-Forwarded-Proto", proto),
        (b"X-Forwarded-Host", host),
        (b"X-Forwarded-Port", port),
        (b"X-Real-IP", real_ip),
        (b"X-Forwarded-Client-Cert", client_cert),
        (b"Forwarded", b"%b, %b" % (forwarded, element) if forwarded else element),
    )
    return b"".join(b"%b: %b\r\n" % (name, value) for name, value in named if value)


def _element(peer: Peer) -> bytes:
    """Return the element of `X-Forwarded-Client-Cert` for the peer; nothing where it has shown no certificate."""
    return b"" if peer.certificate is None else peer.certificate.element()


def _ip(ip: str) -> bytes:
    """An address as the `X-` fields write it; nothing for a unix socket, which has none."""
    return b"" if ip == "unix:" else ip.encode()


def _node(ip: str) -> bytes:
    """An address as RFC 7239 section 6 writes it."""
    if ip == "unix:":
        return b"unknown"
    return b'"[%b]"' % ip.encode() if ":" in ip else ip.encode()


def _list_of(head: RequestHead, name: bytes) -> bytes:
    """All lines of a list field as one value (RFC 9110 section 5.3)."""
    return b", ".join(value for value in head.received_values(name) if value)


def _last_of(heard: bytes) -> list[bytes]:
    """The last members of `X-Forwarded-For`, as many as are read."""
    return heard.rsplit(b",", MOST_PROXIES)[-MOST_PROXIES:]


def _forwarded_of(head: RequestHead) -> bytes:
    """The end of `Forwarded`, from the beginning of an element on.

    It is cut at a comma. One between quotes does no harm: what follows it up to the quote that closes is no element.
    """
    forwarded = _list_of(head, b"forwarded")
    return forwarded if len(forwarded) <= MOST_BYTES else forwarded[-MOST_BYTES:].partition(b",")[2]


def client_address(head: RequestHead, peer: Peer, trusts: Callable[[str], bool]) -> str:
    """The client's address: from right to left, the first that no trusted proxy stands at.

    Read from `X-Forwarded-For`, or, where that is missing, from `Forwarded`. What cannot be read as an address ends
    the search at the proxy that passed it on: nothing left of it can be believed.
    """
    if not peer.trusted or not head.forwarded:
        return peer.ip
    heard = _list_of(head, b"x-forwarded-for")
    names: Iterable[bytes] = reversed(_last_of(heard)) if heard else map(_for, _elements(_forwarded_of(head)))
    known = peer.ip
    for name in islice(names, MOST_PROXIES):
        ip = _address(name)
        if ip is None:
            return known
        known = ip
        if not trusts(ip):
            return ip
    return known


def client_scheme(head: RequestHead, peer: Peer) -> bytes:
    """`http` or `https`: how the client came, which the first of trusted proxies tells, else how its peer came to us.

    A client that lies about it where a proxy only adds to the list changes nothing but its own answer.
    """
    if peer.trusted:
        heard = head.first(b"x-forwarded-proto")
        if heard is None and (forwarded := head.first(b"forwarded")) is not None:
            match = _PROTO.search(forwarded.partition(b",")[0])
            heard = match[1] if match else None
        if heard is not None:
            scheme = heard.partition(b",")[0].strip(b" \t").lower()
            if scheme in (b"http", b"https"):
                return scheme
    return peer.scheme


def client_authority(head: RequestHead, peer: Peer) -> bytes:
    """The host, with its port where that is written, that the client asked for: told and believed likewise."""
    if peer.trusted:
        heard = head.first(b"x-forwarded-host")
        if heard is not None:
            authority = heard.partition(b",")[0].strip(b" \t").lower()
            if _IS_AUTHORITY(authority):
                return authority
    return head.authority


def _elements(forwarded: bytes) -> Iterator[bytes]:
    """The elements of `Forwarded` from the right, as far as they are well-formed.

    From the right, because a client may leave a quote open, in which what its proxy wrote would disappear. No byte is
    read twice on the way to a comma: any client may send thousands of them.
    """
    backwards = forwarded[::-1]
    at = 0
    while match := _TO_COMMA_BACKWARDS.match(backwards, at):
        element = match[1][::-1].strip(b" \t")
        if not _IS_ELEMENT(element):
            return
        yield element
        at = match.end()


def _well_formed_end(forwarded: bytes) -> bytes:
    """Return the end of the list that can be passed on: an open quote would swallow the element that is added."""
    if _IS_LIST(forwarded):
        return forwarded
    return b", ".join(reversed(list(islice(_elements(forwarded), MOST_PROXIES))))


def _for(element: bytes) -> bytes:
    """Return the client that a proxy forwarded for; empty where it does not say."""
    match = _FOR.match(element)
    return match[1] if match else b""


def _address(name: bytes) -> str | None:
    """`1.2.3.4`, `1.2.3.4:80`, `[::1]`, `[::1]:80` or `::1` as an address; None for anything else.

    An IPv6 zone means nothing to others, and could be any text. An IPv4 address in IPv6 clothes is the IPv4 address.
    """
    return _parsed(name) if len(name) <= LONGEST_NODE else None


# PERF: 2.3 us, 0.1 again, and each name is asked for twice or more (CPython 3.11, micro/splice).
@lru_cache(maxsize=1024)
def _parsed(name: bytes) -> str | None:
    text = name.strip().decode("latin-1")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return None if address.scope_id else str(address.ipv4_mapped or address)
    return str(address)
