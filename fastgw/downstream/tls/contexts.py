"""TLS contexts for clients, created from the contents of files as they were read, regardless of later changes.

The contexts of a listener are created again when any of their inputs changes, and replace the previous ones between two
handshakes; connections keep theirs. A ticket issued by one context is valid in the other, because both have the same
keys: see `net.session_tickets`.
"""

import ssl
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from math import inf
from pathlib import Path
from time import time
from typing import Final, NamedTuple

import msgspec

from fastgw.config.settings.gateway import NONE, ServerCertificate, ServerTls
from fastgw.net import openssl
from fastgw.net.ocsp_stapling import Staple, staple
from fastgw.net.pem import Grouping, any_labels, as_file, authority_dates, key_kind, load_pair, revocation_dates
from fastgw.net.session_tickets import NAME_BYTES, TicketKeySeeds
from fastgw.net.tls_profiles import HYBRID, PROFILES, cipher_text, set_versions
from fastgw.routing.table import Steps, at_once
from fastgw.sync.acme_challenges import PROTOCOL
from fastgw.sync.ocsp_responses import NO_RESPONSES

MODES: Final = {"optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}

Pair = tuple[bytes, bytes]
"""A certificate followed by its chain, and its key."""


class OnDemandContext(NamedTuple):
    """Context of an on-demand certificate. `serial`: of the certificate, as control has sent it."""

    serial: str
    context: ssl.SSLContext


class _Names:
    """Contexts of a listener's certificates by their names. None: the context that the handshake has begun with.
    `exact`: by name; `wild`, `wider`: by the part of a name after its first label, and after any number of labels.
    """

    def __init__(self) -> None:
        self.exact: dict[str, ssl.SSLContext | None] = {}
        self.wild: dict[str, ssl.SSLContext | None] = {}
        self.wider: dict[str, ssl.SSLContext | None] = {}

    def __contains__(self, host: str) -> bool:
        """Whether a certificate is for this name, in lower case without a trailing dot."""
        parent = host.partition(".")[2]
        return host in self.exact or parent in self.wild or self._wider(parent) in self.wider

    def find(self, host: str) -> ssl.SSLContext | None:
        if host in self.exact:
            return self.exact[host]
        parent = host.partition(".")[2]
        return self.wild[parent] if parent in self.wild else self.wider.get(self._wider(parent))

    def _wider(self, parent: str) -> str:
        """Return the longest part of a name that a wildcard for any number of labels is for; "": there is none."""
        while self.wider and parent and parent not in self.wider:
            parent = parent.partition(".")[2]
        return parent if self.wider else ""


def files_of(tls: ServerTls) -> frozenset[str]:
    """Return the files that it is read from."""
    files = {file for each in tls.certificates for file in (each.certificate_file, each.key_file)}
    if tls.client_auth is not None:
        files |= {file for file in (tls.client_auth.ca, tls.client_auth.crl) if file is not None}
    return frozenset(files)


class ServerContexts:
    """The contexts of one listener.

    `entries`: contexts that handshakes begin with, one for each valid ticket key, today's first. All of them present
    the first certificate, and switch to the context of another certificate if the client requests its name (SNI).
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
        """`pairs`: the first certificate and its key, and its alternatives. `ends`: when each piece that verifies
        clients expires; epoch seconds. `anew`: creates another first context, without sessions."""
        self.settings = settings
        self.alpn = alpn
        """ALPN protocols that a client may select, the preferred one first."""
        self.identity = identity
        """Equal for contexts that are interchangeable."""
        self._purpose = purpose
        self.vouches = b"" if settings.client_auth is None else purpose
        """A digest of the settings by which client certificates are verified."""
        self._entries = entries
        self._pairs = pairs
        self._seeds: TicketKeySeeds | None = None
        self._day = -1
        self._name_before = b""
        self._ends = sorted(ends)
        self._anew = anew
        self._over = 0  # number of them that have passed
        self.until = inf
        """When currently valid tickets for client certificates become invalid: the next such time; epoch seconds."""
        self.names = _Names()
        """Names of the certificates."""
        self.certificates: Mapping[ssl.SSLContext | None, Sequence[ServerCertificate]] = {}
        """Certificates of each context in `names`, alternatives for the same name."""
        self._responses = NO_RESPONSES
        self.on_demand: dict[str, OnDemandContext] = {}
        """On-demand certificates by name, those used last at the end."""
        self.make_context: Callable[[bytes], ssl.SSLContext]
        """Creates the context of one more certificate. Raises `OSError` for invalid contents."""
        self._check_expiry(time())

    def _check_expiry(self, now: float) -> None:
        self._over = over = bisect_right(self._ends, now)
        self.until = self._ends[over] if over < len(self._ends) else inf

    def find_certificates(self, host: str) -> Sequence[ServerCertificate]:
        """Return the listed certificate, and its alternatives, for a name in lower case without a trailing dot: the
        first one if none is for it.
        """
        return self.certificates[self.names.find(host)]

    @property
    def first(self) -> ssl.SSLContext:
        """The context of a handshake, and the selection that has led to it."""
        return self._entries[0]

    def use_keys(self, seeds: TicketKeySeeds) -> None:
        """Issue tickets with the keys of these seeds from now on, each day with the keys of the day."""
        if self.settings.session_tickets and openssl.is_reached():
            self._seeds = seeds
            self._set_keys(seeds)

    def take_over_from(self, before: "ServerContexts") -> None:
        """Replace the contexts `before`. If no keys can be set, tickets are valid only in the context that issued them:
        then it is kept and presents the new certificate, which was tested in ours; unless a certificate of another key
        type would remain in it."""
        if openssl.is_reached() or before is self or before._purpose != self._purpose or before.until != self.until:
            return
        if before.alpn != self.alpn or before.settings.ocsp_stapling != self.settings.ocsp_stapling:
            return
        if {key_kind(certificate) for certificate, _ in before._pairs} - {key_kind(each) for each, _ in self._pairs}:
            return
        for old, new in zip(before._entries, self._entries, strict=True):
            old.minimum_version, old.maximum_version = new.minimum_version, new.maximum_version
            old.set_ciphers(_ciphers(self.settings))
            old.options = new.options
            for pair in self._pairs:
                load_pair(old, *pair)
            old.sni_callback = new.sni_callback
        self._entries = before._entries

    def use_responses(self, responses: Mapping[bytes, Staple]) -> None:
        """Staple these OCSP responses from now on (`staple`)."""
        if self.settings.ocsp_stapling:
            self._responses = responses
            for context in (*self._entries, *self.certificates):
                if context is not None:
                    staple(context, responses)

    def entry(self, hello: bytes) -> ssl.SSLContext:
        """Return the context for a new handshake.

        `hello`: its first bytes, in which a ticket names its keys.
        """
        if self._seeds is not None:
            now = time()
            self._seeds.advance(now)
            another_day = self._seeds.day != self._day
            if another_day:
                self._entries.reverse()  # today's keys have become yesterday's
            if another_day or now >= self.until:
                self._check_expiry(now)
                self._set_keys(self._seeds)
            if self._name_before in hello:
                return self._entries[-1]
        elif self.until <= time() and not openssl.is_reached():
            # No ticket is valid any more, and no valid one can be issued. Nor are TLS 1.2 sessions that OpenSSL stores
            # itself if it issues no tickets: only a new context has no sessions.
            made = self._without_sessions()
            made.options |= ssl.OP_NO_TICKET
            made.num_tickets = 0
            return made
        return self._entries[0]

    def forget_sessions(self) -> None:
        """Invalidate all sessions because the client certificate of one has expired, if OpenSSL cannot ignore that one
        (`openssl.ignore_expired`): its client would resume it again and again.
        """
        if not openssl.is_reached():
            self._entries = [self._without_sessions(), *self._entries[1:]]

    def _without_sessions(self) -> ssl.SSLContext:
        made = self._anew()
        staple(made, self._responses)
        return made

    def _set_keys(self, seeds: TicketKeySeeds) -> None:
        self._day = seeds.day
        # Clients verified by an expired piece must be verified again: OpenSSL does not do so when a session is resumed.
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

    `held`: the contents of files; missing ones are read. Raises `OSError` (`ssl.SSLError` is a subclass) if a file is
    invalid.
    """
    names = _Names()
    on_demand: dict[str, OnDemandContext] = {}
    pairs = [(_read(each.certificate_file, held), _read(each.key_file, held)) for each in tls.certificates]
    grouping = Grouping()
    for (certificate, _), each in zip(pairs, tls.certificates, strict=True):
        yield
        grouping.add(certificate, each.hosts)
    groups = grouping.groups()
    first = [pairs[index] for index in groups[0].indexes]
    certificates: dict[ssl.SSLContext | None, Sequence[ServerCertificate]] = {}
    for group in groups:
        yield
        context = None  # handshakes begin with the first certificate's
        if group is not groups[0]:
            context = _context(tls, held, [pairs[index] for index in group.indexes], alpn)
        certificates[context] = [tls.certificates[index] for index in group.indexes]
        for host in group.names:
            if below := any_labels(host):
                names.wider[below] = context
                continue
            those = names.wild if host.startswith("*.") else names.exact
            those[host.removeprefix("*.")] = context
    choose = _chooser(names, on_demand)

    def entry(held: Mapping[str, bytes]) -> ssl.SSLContext:
        made = _context(tls, held, first, alpn)
        if len(groups) > 1 or tls.on_demand:
            made.sni_callback = choose
        return made

    entries = []
    for _ in range(2 if tls.session_tickets else 1):
        yield
        entries.append(entry(held))
    auth = tls.client_auth
    verifiers = {} if auth is None else {file: _read(file, held) for file in (auth.ca, auth.crl) if file is not None}
    made = ServerContexts(
        tls, identity, _purpose(name, tls, held), entries, first, _ends(tls, held), partial(entry, verifiers), alpn
    )
    made.names, made.certificates, made.on_demand = names, certificates, on_demand
    made.make_context = partial(_one_pair_context, tls, verifiers, alpn)
    return made


def server_context(tls: ServerTls, held: Mapping[str, bytes] = NONE) -> ssl.SSLContext:
    """Like `server_contexts`, at once, for callers that need a single context. Raises `OSError`."""
    return at_once(server_contexts("", tls, held)).first


def challenge_context(pair: bytes) -> ssl.SSLContext:
    """Return the context that answers the ACME challenge tls-alpn-01 with this certificate and key. Raises
    `ssl.SSLError`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([PROTOCOL])
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    load_pair(context, pair, pair)
    return context


def _chooser(
    names: _Names, on_demand: Mapping[str, OnDemandContext]
) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]:
    """Create the callback that selects a certificate.

    It must not refer to the contexts that it is set in: that would be a reference cycle.
    """

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name is None:
            return
        host = name.lower().removesuffix(".")
        chosen = names.find(host)
        if chosen is None and host in on_demand and host not in names:
            chosen = on_demand[host].context
        if chosen is not None:
            connection.context = chosen

    return choose


def _one_pair_context(
    tls: ServerTls, held: Mapping[str, bytes], alpn: tuple[str, ...], content: bytes
) -> ssl.SSLContext:
    """`content`: a certificate with its chain and its key."""
    return _context(tls, held, [(content, content)], alpn)


def _context(tls: ServerTls, held: Mapping[str, bytes], pairs: Sequence[Pair], alpn: Sequence[str]) -> ssl.SSLContext:
    """Check that all certificates of a listener verify clients in the same way."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    profile = PROFILES[tls.profile]
    set_versions(context, tls.least_version, tls.max_version)
    context.set_ciphers(_ciphers(tls))
    context.options |= ssl.OP_NO_RENEGOTIATION
    if profile.prefers_own or tls.ciphers:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if alpn:
        context.set_alpn_protocols([*alpn])
    openssl.set_groups(context, tls.groups or ((HYBRID,) if HYBRID not in profile.groups else ()) + profile.groups)
    openssl.spare_memory(context)
    if not tls.session_tickets:
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    if tls.client_auth is not None:
        context.verify_mode = MODES[tls.client_auth.mode]
        openssl.ignore_expired(context)
        with as_file(_read(tls.client_auth.ca, held)) as file:
            context.load_verify_locations(file)
        if tls.client_auth.crl is not None:
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
            with as_file(_read(tls.client_auth.crl, held)) as file:
                context.load_verify_locations(file)
    for pair in pairs:
        load_pair(context, *pair)
    return context


def _ciphers(tls: ServerTls) -> str:
    return cipher_text(tls.ciphers or PROFILES[tls.profile].ciphers, tls.least_version)


def _purpose(name: str, tls: ServerTls, held: Mapping[str, bytes]) -> bytes:
    """Return the purpose of a session ticket. A ticket stands for a verified client certificate, so it becomes invalid
    with the settings that verified it: another authority or revocation list is another purpose."""
    digest = sha256(name.encode() + b"\0" + msgspec.msgpack.encode((tls.session_tickets, tls.client_auth)))
    if tls.client_auth is not None:
        for file in (tls.client_auth.ca, tls.client_auth.crl):
            digest.update(sha256(b"" if file is None else _read(file, held)).digest())
    return digest.digest()


def _ends(tls: ServerTls, held: Mapping[str, bytes]) -> Iterator[float]:
    """Return when each piece that verifies clients expires. Either kind may be in either file."""
    if tls.client_auth is not None:
        for file in (tls.client_auth.ca, tls.client_auth.crl):
            if file is not None:
                contents = _read(file, held)
                yield from authority_dates(contents)
                yield from revocation_dates(contents)


def _read(file: str, held: Mapping[str, bytes]) -> bytes:
    contents = held.get(file)
    return Path(file).read_bytes() if contents is None else contents
