"""TLS contexts for clients, made from the bytes of files, whatever the files hold by now.

The contexts of a listener are made anew when anything of them changes, and are put in place of those before them
between two handshakes; connections go on with theirs. A ticket that was given by one is good for the other, since both
have the keys of the day: see `net.session_tickets`.
"""

import ssl
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from math import inf
from pathlib import Path
from time import time
from typing import Final

import msgspec

from fastgw.config.settings.gateway import NONE, ServerTls
from fastgw.net import openssl
from fastgw.net.pem import Grouping, as_file, authority_dates, key_kind, load_pair, revocation_dates
from fastgw.net.session_tickets import NAME_BYTES, TicketKeySeeds
from fastgw.routing.table import Steps, at_once

VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
MODES: Final = {"optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""The cipher suites of TLS 1.2 that have forward secrecy and authenticated encryption. The
suites of TLS 1.3 are all like that."""

Pair = tuple[bytes, bytes]
"""A certificate, its chain behind it, and its key."""


def files_of(tls: ServerTls) -> frozenset[str]:
    """The files that it is made of."""
    files = {file for each in tls.certificates for file in (each.certificate, each.key)}
    if tls.client_auth is not None:
        files |= {file for file in (tls.client_auth.ca, tls.client_auth.crl) if file is not None}
    return frozenset(files)


class ServerContexts:
    """The contexts of one listener.

    `entries` are those that handshakes begin with, one for each of the ticket keys that are good, today's first; both
    show the first certificate, and hand a client that asks for another's name to that one's context.
    """

    def __init__(
        self,
        settings: ServerTls,
        identity: bytes,
        purpose: bytes,
        entries: list[ssl.SSLContext],
        pairs: Sequence[Pair],
        ends: Iterable[float],
        anew: Callable[[], ssl.SSLContext],
        alpn: tuple[str, ...],
    ) -> None:
        """`pairs`: the first certificate and its key, and those that are shown in its place. `ends`: when that which
        verifies clients does so no more, piece by piece; epoch seconds. `anew`: makes another first context, which
        knows no session."""
        self.settings = settings
        self.alpn = alpn
        """Protocols that a client may choose by ALPN, the preferred one first."""
        self.identity = identity
        """Equal for contexts that are interchangeable."""
        self._purpose = purpose
        self.vouches = b"" if settings.client_auth is None else purpose
        """A digest of how client certificates are verified: another value where that is done otherwise."""
        self._entries = entries
        self._pairs = pairs
        self._seeds: TicketKeySeeds | None = None
        self._day = -1
        self._name_before = b""
        self._ends = sorted(ends)
        self._anew = anew
        self._over = 0  # how many of them are past
        self.until = inf
        """When tickets for client certificates that are good now are so no more: the next of these; epoch seconds."""
        self._look(time())

    def _look(self, now: float) -> None:
        self._over = over = bisect_right(self._ends, now)
        self.until = self._ends[over] if over < len(self._ends) else inf

    @property
    def first(self) -> ssl.SSLContext:
        """The context of a handshake, and what was selected with it."""
        return self._entries[0]

    def use_keys(self, seeds: TicketKeySeeds) -> None:
        """Give out tickets under the keys of these seeds from now on, with each day's keys on the day."""
        if self.settings.session_tickets and openssl.is_reached():
            self._seeds = seeds
            self._set_keys(seeds)

    def follow(self, before: "ServerContexts") -> None:
        """Take the place of these. Where no keys can be set, tickets are good only in the context that gave them: then
        it lives on, and shows the new certificate, which was tried in ours; not if one of another kind stayed too."""
        if openssl.is_reached() or before is self or before._purpose != self._purpose or before.until != self.until:
            return
        if before.alpn != self.alpn:
            return
        if {key_kind(certificate) for certificate, _ in before._pairs} - {key_kind(each) for each, _ in self._pairs}:
            return
        for old, new in zip(before._entries, self._entries, strict=True):
            old.minimum_version = new.minimum_version
            for pair in self._pairs:
                load_pair(old, *pair)
            old.sni_callback = new.sni_callback
        self._entries = before._entries

    def entry(self, hello: bytes) -> ssl.SSLContext:
        """Return the context to begin a handshake with.

        `hello`: its first bytes, in which a ticket names the keys it is of.
        """
        if self._seeds is not None:
            now = time()
            self._seeds.advance(now)
            another_day = self._seeds.day != self._day
            if another_day:
                self._entries.reverse()  # today's have become those of the day before
            if another_day or now >= self.until:
                self._look(now)
                self._set_keys(self._seeds)
            if self._name_before in hello:
                return self._entries[-1]
        elif self.until <= time() and not openssl.is_reached():
            # No ticket is good any more, and none can be made that is. Nor is a session of TLS 1.2 that OpenSSL keeps
            # itself where it gives none: only a context of its own knows of none.
            made = self._anew()
            made.options |= ssl.OP_NO_TICKET
            made.num_tickets = 0
            return made
        return self._entries[0]

    def _set_keys(self, seeds: TicketKeySeeds) -> None:
        self._day = seeds.day
        # What verified a client by what is past must be verified again: OpenSSL does not, when a session is resumed.
        keys = seeds.keys(self._purpose + b"\0%d" % self._over if self._over else self._purpose)
        self._name_before = keys[1][:NAME_BYTES]
        for context, each in zip(self._entries, keys, strict=True):
            openssl.set_ticket_keys(context, each)


HTTP1_ALONE: Final = ("http/1.1",)


def server_identity(name: str, tls: ServerTls, held: Mapping[str, bytes], alpn: tuple[str, ...] = HTTP1_ALONE) -> bytes:
    """`name`: the listener's; `held`: the contents of the files. Raises `OSError`."""
    digest = sha256(name.encode() + b"\0" + msgspec.msgpack.encode((tls, alpn)))
    for file in sorted(files_of(tls)):
        digest.update(sha256(_read(file, held)).digest())
    return digest.digest()


def server_contexts(
    name: str,
    tls: ServerTls,
    held: Mapping[str, bytes] = NONE,
    identity: bytes = b"",
    alpn: tuple[str, ...] = HTTP1_ALONE,
) -> Steps[ServerContexts]:
    """The contexts of a listener of this name, which select one of these protocols (ALPN); each certificate is two
    steps.

    `held`: the contents of files; one that is not there is read. Raises `OSError`, of which `ssl.SSLError` is one, when
    a file is not what it should be.
    """
    exact: dict[str, ssl.SSLContext | None] = {}
    wild: dict[str, ssl.SSLContext | None] = {}
    pairs = [(_read(each.certificate, held), _read(each.key, held)) for each in tls.certificates]
    grouping = Grouping()
    for certificate, _ in pairs:
        yield
        grouping.add(certificate)
    first = [pairs[place] for place in grouping.groups[0].places]
    for group in grouping.groups:
        yield
        context = None  # that of the first is where handshakes begin
        if group is not grouping.groups[0]:
            context = _context(tls, held, [pairs[place] for place in group.places], alpn)
        for host in group.names:
            names = wild if host.startswith("*.") else exact
            names.setdefault(host.removeprefix("*."), context)
    choose = _chooser(exact, wild)

    def entry(held: Mapping[str, bytes]) -> ssl.SSLContext:
        made = _context(tls, held, first, alpn)
        if len(grouping.groups) > 1:
            made.sni_callback = choose
        return made

    entries = []
    for _ in range(2 if tls.session_tickets else 1):
        yield
        entries.append(entry(held))
    auth = tls.client_auth
    verifiers = {} if auth is None else {file: _read(file, held) for file in (auth.ca, auth.crl) if file is not None}
    return ServerContexts(
        tls, identity, _purpose(name, tls, held), entries, first, _ends(tls, held), partial(entry, verifiers), alpn
    )


def server_context(tls: ServerTls, held: Mapping[str, bytes] = NONE) -> ssl.SSLContext:
    """`server_contexts` at once, for who needs nothing but a context. Raises `OSError`."""
    return at_once(server_contexts("", tls, held)).first


def _chooser(
    exact: Mapping[str, ssl.SSLContext | None], wild: Mapping[str, ssl.SSLContext | None]
) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]:
    """Make the callback that selects a certificate.

    It must not hold the contexts that it is set in: that is a circle.
    """

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name is None:
            return
        host = name.lower().removesuffix(".")
        chosen = exact[host] if host in exact else wild.get(host.partition(".")[2])
        if chosen is not None:
            connection.context = chosen

    return choose


def _context(tls: ServerTls, held: Mapping[str, bytes], pairs: Sequence[Pair], alpn: Sequence[str]) -> ssl.SSLContext:
    """Check that all certificates of a listener verify clients in the same way."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[tls.min_version]
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    if alpn:
        context.set_alpn_protocols([*alpn])
    openssl.set_groups(context)
    openssl.spare_memory(context)
    if not tls.session_tickets:
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    if tls.client_auth is not None:
        context.verify_mode = MODES[tls.client_auth.mode]
        with as_file(_read(tls.client_auth.ca, held)) as file:
            context.load_verify_locations(file)
        if tls.client_auth.crl is not None:
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
            with as_file(_read(tls.client_auth.crl, held)) as file:
                context.load_verify_locations(file)
    for pair in pairs:
        load_pair(context, *pair)
    return context


def _purpose(name: str, tls: ServerTls, held: Mapping[str, bytes]) -> bytes:
    """Return the purpose of a session ticket. It stands for a client certificate that was verified, so it ends with
    what verified
    it: another authority, or another revocation, is another purpose."""
    digest = sha256(name.encode() + b"\0" + msgspec.msgpack.encode((tls.session_tickets, tls.client_auth)))
    if tls.client_auth is not None:
        for file in (tls.client_auth.ca, tls.client_auth.crl):
            digest.update(sha256(b"" if file is None else _read(file, held)).digest())
    return digest.digest()


def _ends(tls: ServerTls, held: Mapping[str, bytes]) -> Iterator[float]:
    """When what verifies clients ends, piece by piece. Either kind may stand in either file."""
    if tls.client_auth is not None:
        for file in (tls.client_auth.ca, tls.client_auth.crl):
            if file is not None:
                contents = _read(file, held)
                yield from authority_dates(contents)
                yield from revocation_dates(contents)


def _read(file: str, held: Mapping[str, bytes]) -> bytes:
    contents = held.get(file)
    return Path(file).read_bytes() if contents is None else contents
