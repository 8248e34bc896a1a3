"""Forwarded headers: the client's address, and the headers that tell the upstream about it: `X-Forwarded-*`,
`X-Real-IP`, `Forwarded` (RFC 7239).

One policy applies to all of them. Their values are accepted from a trusted proxy only; those of any other peer are
replaced, otherwise it could claim any address.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from itertools import islice
from typing import Final, Literal, NamedTuple, TypeAlias

from fastgw.http.field_names import CHOSEN
from fastgw.http.fields import without_fields
from fastgw.http.grammar import TOKEN, VALUE
from fastgw.http.messages import RequestHead
from fastgw.net.client_certificate import ClientCertificate
from fastgw.net.proxy_protocol import NO_TLVS, ProxyTlvs

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
"""Maximum number of proxies between the client and the gateway: entries further to the left are ignored."""
MOST_BYTES: Final = 4096
"""Maximum bytes of `Forwarded`, counted from its end: elements further to the left are ignored."""
_EMPTY: Final = b", \t"
"""Bytes of empty members of a list, with the commas around them."""
LONGEST_NODE: Final = 64
"""Maximum bytes of an address with its port; a longer one is invalid."""

# RFC 7239 section 4; values that should be quoted, such as addresses with a port, are accepted without quotes too.
_QUOTED: Final = rb'"(?>(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]++|\\' + VALUE + rb')*)"'
_PAIR: Final = TOKEN + rb"++=(?:" + _QUOTED + rb'|[^\s",;]++)'
_ELEMENT: Final = _PAIR + rb"(?>(?:[ \t]*+;[ \t]*+" + _PAIR + rb")*)"
_IS_ELEMENT: Final = re.compile(_ELEMENT).fullmatch
_IS_LIST: Final = re.compile(_ELEMENT + rb"(?>(?:[ \t]*+,[ \t]*+" + _ELEMENT + rb")*)").fullmatch
# Matched backwards: up to a comma outside quotes. A quote with an odd number of backslashes before it (behind it here)
# is inside a quoted string; an opening quote follows `=`.
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
_SCHEMES: Final = {b"http": b"http", b"https": b"https", b"ws": b"http", b"wss": b"https"}
"""Schemes by the names that proxies report: some send that of a WebSocket (RFC 6455 section 3)."""
_PROTO: Final = re.compile(rb'(?:^|;)[ \t]*+[Pp][Rr][Oo][Tt][Oo]="?([A-Za-z]++)')


class TlsParameters(NamedTuple):
    """Parameters of a TLS connection."""

    version: str
    """Version by OpenSSL's name, such as `TLSv1.3`."""
    cipher: str
    """Cipher suite by OpenSSL's name, such as `TLS_AES_256_GCM_SHA384`."""
    server_name: str
    """Server name that the client has sent (SNI); "": none."""


class Peer:
    """The peer of a client connection.

    `ip`: its address, `unix:` for a unix socket. `trusted`: whether it is a trusted proxy. `endpoint`: scheme and port
    that it has connected to, such as `https:443`. `certificate`: its verified client certificate; None: it has
    presented none. `tls`: of the connection to the gateway; None: there is no TLS. `tlvs`: values of its PROXY header.
    """

    __slots__ = (
        "_authority",
        "_lines",
        "certificate",
        "endpoint",
        "ip",
        "port",
        "scheme",
        "server_port",
        "tls",
        "tlvs",
        "trusted",
    )

    def __init__(
        self,
        ip: str,
        port: int,
        server_port: int,
        trusted: bool,
        scheme: bytes = b"http",
        certificate: ClientCertificate | None = None,
        tlvs: ProxyTlvs = NO_TLVS,
    ) -> None:
        self.ip, self.port, self.server_port, self.trusted, self.scheme = ip, port, server_port, trusted, scheme
        self.endpoint = b"%b:%d" % (scheme, server_port)
        self.certificate = certificate
        self.tlvs = tlvs
        self.tls: TlsParameters | None = None
        self._authority: bytes | None = None
        self._lines = b""

    def set_lines(self, authority: bytes) -> bytes:
        """Return the headers of policy `set`. Clients rarely change the authority, so the last result is cached."""
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
    policy: Policy | None, peer: Peer, head: RequestHead, client_ip: str, dropped: frozenset[bytes] = _NOTHING
) -> tuple[frozenset[bytes], bytes]:
    """Return the changes of a policy to these headers: lower-case names to drop from the request, and serialized lines
    to add.

    `policy` None: `append` for a trusted peer, else `set`. `dropped`: lower-case names of headers that others have
    removed from the request: nothing is appended to a `Forwarded` of these, and with a mark (`CHOSEN`) none of the
    lines to add has this name.
    """
    names, lines = _of_policy(policy, peer, head, client_ip, dropped)
    return names, without_chosen(lines, dropped) if dropped else lines


def without_chosen(lines: bytes, dropped: frozenset[bytes]) -> bytes:
    """Return the gateway's own lines without those that filters set or remove by name."""
    if CHOSEN.isdisjoint(dropped):
        return lines
    return without_fields(lines, {mark[1:] for mark in CHOSEN & dropped})


def _of_policy(
    policy: Policy | None, peer: Peer, head: RequestHead, client_ip: str, dropped: frozenset[bytes]
) -> tuple[frozenset[bytes], bytes]:
    if policy is None:
        policy = "append" if peer.trusted else "set"
    if policy == "set":
        return FAMILY, peer.set_lines(head.authority)
    if policy == "strip":
        return FAMILY, b""
    if policy == "pass":
        if peer.scheme == b"https" and not peer.trusted:  # only the gateway knows the client certificate
            return _CLIENT_CERT, b"X-Forwarded-Client-Cert: %b\r\n" % _element(peer) if peer.certificate else b""
        return _NOTHING, b""
    return FAMILY, _appended(peer, head, client_ip, dropped)


def _appended(peer: Peer, head: RequestHead, client_ip: str, dropped: frozenset[bytes]) -> bytes:
    """Append to the received lists. Address and scheme of the client are accepted from a trusted peer only."""
    if client_ip == peer.ip and not head.forwarded and head.edited() is None:
        return peer.set_lines(head.authority)  # there is no earlier proxy
    heard = _addresses_of(head)
    forwarded = _well_formed_end(_forwarded_of(head))
    # If a trusted proxy writes one of the two lists, readers of the other get the same entries.
    if peer.trusted and forwarded and not heard:
        names = [_address(_for(element)) or "unknown" for element in islice(_elements(forwarded), MOST_PROXIES)]
        heard = ", ".join(reversed(names)).encode()
    if b"forwarded" in dropped:
        forwarded = b""
    if peer.trusted and heard and not forwarded:
        forwarded = b", ".join(b"for=" + _node(_address(name) or "unix:") for name in _last_of(heard))
    reported = reported_value if peer.trusted else _unheard
    return _lines(
        for_=b", ".join(part for part in (heard, _ip(peer.ip)) if part),
        node=_node(peer.ip),
        proto=client_scheme(head, peer),
        host=reported(head, b"x-forwarded-host") or head.authority,
        port=reported(head, b"x-forwarded-port") or (b"%d" % peer.server_port if peer.server_port else b""),
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


def _unheard(head: RequestHead, name: bytes) -> bytes:
    return b""


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
    """Return the element of `X-Forwarded-Client-Cert` for the peer; empty without a client certificate."""
    return b"" if peer.certificate is None else peer.certificate.element()


def _ip(ip: str) -> bytes:
    """Return an address as in the `X-` headers; empty for a unix socket."""
    return b"" if ip == "unix:" else ip.encode()


def _node(ip: str) -> bytes:
    """Return an address as RFC 7239 section 6 defines it."""
    if ip == "unix:":
        return b"unknown"
    return b'"[%b]"' % ip.encode() if ":" in ip else ip.encode()


def _list_of(head: RequestHead, name: bytes) -> bytes:
    """Return all lines of a list header as one value (RFC 9110 section 5.3)."""
    return b", ".join(value for value in head.received_values(name) if value)


def _addresses_of(head: RequestHead) -> bytes:
    """Return `X-Forwarded-For`, without empty members at its ends; empty if it has no others."""
    return _list_of(head, b"x-forwarded-for").strip(_EMPTY)


def reported_value(head: RequestHead, name: bytes) -> bytes:
    """Return all lines of a header of a trusted proxy, such as `X-Forwarded-Proto`, as one list without empty members
    at its ends; empty if it has no others. The gateway decides by its first member.
    """
    return b", ".join(value for value in head.values(name) if value).strip(_EMPTY)


def _last_of(heard: bytes) -> list[bytes]:
    """Return the last members of `X-Forwarded-For`, of at most `MOST_PROXIES` with the empty ones between them, which
    are ignored (RFC 9110 section 5.6.1.2).
    """
    return [member for member in heard.rsplit(b",", MOST_PROXIES)[-MOST_PROXIES:] if member.strip(_EMPTY)]


def _forwarded_of(head: RequestHead) -> bytes:
    """Return the end of `Forwarded`, from the beginning of an element.

    It is cut at a comma. A comma between quotes does no harm: the text after it up to the closing quote is no valid
    element.
    """
    forwarded = _list_of(head, b"forwarded")
    return forwarded if len(forwarded) <= MOST_BYTES else forwarded[-MOST_BYTES:].partition(b",")[2]


def client_address(head: RequestHead, peer: Peer, trusts: Callable[[str], bool]) -> str:
    """Return the client's address: from right to left, the first that is not a trusted proxy.

    Read from `X-Forwarded-For`, or, if that is missing, from `Forwarded`. An invalid address ends the search at the
    proxy that forwarded it: entries left of it are not trustworthy. An empty entry is none (RFC 9110 section 5.6.1.2):
    a client gains nothing by one, because its proxy appends its address behind it.
    """
    if not peer.trusted or not head.forwarded:
        return peer.ip
    heard = _addresses_of(head)
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
    """Return the client's scheme, `http` or `https`: reported by the first trusted proxy, otherwise the scheme of the
    peer's connection. The upstream gets this one value, so that it and the gateway cannot read different ones.

    A client that forges it, behind a proxy that only appends to the list, affects its own responses only.
    """
    if peer.trusted:
        heard = reported_value(head, b"x-forwarded-proto")
        if not heard and (match := _PROTO.search(reported_value(head, b"forwarded").partition(b",")[0])):
            heard = match[1]
        scheme = heard.partition(b",")[0].strip(b" \t").lower()
        if scheme in _SCHEMES:
            return _SCHEMES[scheme]
    return peer.scheme


def client_authority(head: RequestHead, peer: Peer) -> bytes:
    """Return the host (with its port, if given) that the client has requested, by the same rules."""
    if peer.trusted:
        heard = reported_value(head, b"x-forwarded-host")
        authority = heard.partition(b",")[0].strip(b" \t").lower()
        if _IS_AUTHORITY(authority):
            return authority
    return head.authority


def _elements(forwarded: bytes) -> Iterator[bytes]:
    """Yield the elements of `Forwarded` from the right, as long as they are well-formed; empty ones are ignored.

    From the right, because a client may leave a quote open that would hide its proxy's element. Each byte is read once
    on the way to a comma, because clients may send thousands of them.
    """
    backwards = forwarded[::-1]
    at = 0
    while at < len(backwards) and (match := _TO_COMMA_BACKWARDS.match(backwards, at)):
        at = match.end()
        element = match[1][::-1].strip(b" \t")
        if _IS_ELEMENT(element):
            yield element
        elif element:
            return


def _well_formed_end(forwarded: bytes) -> bytes:
    """Return the end of the list that can be forwarded: an open quote would hide the element that is appended."""
    if _IS_LIST(forwarded):
        return forwarded
    return b", ".join(reversed(list(islice(_elements(forwarded), MOST_PROXIES))))


def _for(element: bytes) -> bytes:
    """Return the client that a proxy reports in `for`; empty if there is none."""
    match = _FOR.match(element)
    return match[1] if match else b""


def _address(name: bytes) -> str | None:
    """Return `1.2.3.4`, `1.2.3.4:80`, `[::1]`, `[::1]:80` or `::1` as an address; None for anything else.

    An IPv6 zone is meaningless to others, and could be any text. An IPv4-mapped IPv6 address becomes the IPv4 address.
    """
    return _parsed(name) if len(name) <= LONGEST_NODE else None


# PERF: 2.3 us, 0.1 when cached; each name is needed at least twice (CPython 3.11, micro/splice).
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
