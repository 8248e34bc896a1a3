"""Who the client is, and what the upstream is told about it: `X-Forwarded-*`, `X-Real-IP`, `Forwarded` (RFC 7239).

The whole family is governed as one. A field that only a proxy may write is believed from a trusted proxy alone; from
anybody else it is replaced, or an upstream could be told any address.
"""

from collections.abc import Callable
from ipaddress import ip_address
from typing import Final, Literal, TypeAlias

from fastgw.wire.framing import RequestHead

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


class Peer:
    """The other end of a client connection, for as long as it lives.

    `ip`: its address, `unix:` for a unix socket. `trusted`: a proxy whose word about the client is taken.
    """

    __slots__ = ("_authority", "_lines", "ip", "port", "scheme", "server_port", "trusted")

    def __init__(self, ip: str, port: int, server_port: int, trusted: bool, scheme: bytes = b"http") -> None:
        self.ip, self.port, self.server_port, self.trusted, self.scheme = ip, port, server_port, trusted, scheme
        self._authority: bytes | None = None
        self._lines = b""

    def set_lines(self, authority: bytes) -> bytes:
        """The family as we see it ourselves. Clients rarely change the authority, so the last answer is kept."""
        if authority != self._authority:
            self._authority = authority
            self._lines = _lines(
                for_=b"" if self.ip == "unix:" else self.ip.encode(),
                node=_node(self.ip),
                proto=self.scheme,
                host=authority,
                port=b"%d" % self.server_port if self.server_port else b"",
                real_ip=b"" if self.ip == "unix:" else self.ip.encode(),
            )
        return self._lines


def fields_for_upstream(
    policy: Policy | None, peer: Peer, head: RequestHead, client_ip: str
) -> tuple[frozenset[bytes], bytes]:
    """What a policy does to the family: lower-case names to drop from the request, and ready lines to add.

    `policy` None: `append` for a trusted peer, else `set`.
    """
    if policy is None:
        policy = "append" if peer.trusted else "set"
    if policy == "set":
        return FAMILY, peer.set_lines(head.authority)
    if policy == "strip":
        return FAMILY, b""
    if policy == "pass":
        return _NOTHING, b""
    return FAMILY, _appended(peer, head, client_ip)


def _appended(peer: Peer, head: RequestHead, client_ip: str) -> bytes:
    ip = b"" if peer.ip == "unix:" else peer.ip.encode()
    heard = _list_of(head, b"x-forwarded-for")
    forwarded = _list_of(head, b"forwarded")
    return _lines(
        for_=b", ".join(part for part in (heard, ip) if part),
        node=_node(peer.ip),
        proto=head.first(b"x-forwarded-proto") or peer.scheme,
        host=head.first(b"x-forwarded-host") or head.authority,
        port=head.first(b"x-forwarded-port") or (b"%d" % peer.server_port if peer.server_port else b""),
        real_ip=client_ip.encode() if client_ip != "unix:" else b"",
        forwarded=forwarded,
        own_proto=peer.scheme,
        own_host=head.authority,
        client_cert=head.first(b"x-forwarded-client-cert"),
    )


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
    client_cert: bytes | None = None,
) -> bytes:
    element = b'for=%b;host="%b";proto=%b' % (node, host if own_host is None else own_host, own_proto or proto)
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


def _node(ip: str) -> bytes:
    """An address as RFC 7239 section 6 writes it."""
    if ip == "unix:":
        return b"unknown"
    return b'"[%b]"' % ip.encode() if ":" in ip else ip.encode()


def _list_of(head: RequestHead, name: bytes) -> bytes:
    """All lines of a list field as one value (RFC 9110 section 5.3)."""
    return b", ".join(value for _, _, value in head.known.get(name, ()) if value)


def client_address(head: RequestHead, peer: Peer, trusts: Callable[[str], bool]) -> str:
    """The client's address: from right to left, the first that no trusted proxy stands at.

    Read from `X-Forwarded-For`, or, where that is missing, from `Forwarded`. What cannot be read as an address ends
    the search at the proxy that passed it on: nothing left of it can be believed.
    """
    if not peer.trusted:
        return peer.ip
    heard = _list_of(head, b"x-forwarded-for")
    names = heard.split(b",") if heard else _forwarded_for(_list_of(head, b"forwarded"))
    known = peer.ip
    for name in reversed(names):
        ip = _address(name)
        if ip is None:
            return known
        known = ip
        if not trusts(ip):
            return ip
    return known


def _forwarded_for(value: bytes) -> list[bytes]:
    found = []
    for element in value.split(b","):
        for pair in element.split(b";"):
            name, _, node = pair.strip().partition(b"=")
            if name.lower() == b"for":
                found.append(node.strip(b'"'))
    return found


def _address(name: bytes) -> str | None:
    """`1.2.3.4`, `1.2.3.4:80`, `[::1]`, `[::1]:80` or `::1` as an address; None for anything else."""
    text = name.strip().decode("latin-1")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ip_address(text))
    except ValueError:
        return None
