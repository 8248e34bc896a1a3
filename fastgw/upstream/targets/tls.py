"""TLS to `https` targets: contexts are created from file contents as they were read, regardless of later changes.

A connection resumes the session of an earlier one to its target (RFC 8446 section 2.2, RFC 5077), if the target allows
it.

A private key is only briefly in a memory file, because OpenSSL reads it by the name of a file.
"""

import re
import ssl
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple, final

from msgspec import Struct

from fastgw.config.settings import gateway as settings
from fastgw.net import openssl
from fastgw.net.pem import as_file
from fastgw.net.tls_profiles import cipher_text, set_versions
from fastgw.routing.table import Steps

_CERTIFICATE: Final = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


HTTP: Final = ("http/1.1",)
"""ALPN protocols for HTTP targets."""
NEGOTIATED: Final = ("h2", *HTTP)
"""ALPN protocols for targets that select the version of HTTP."""
RESUMED_S: Final = 3600.0
"""Seconds for which a session is resumed after the target's certificate was verified."""
MOST_REFUSED: Final = 3
"""Number of consecutive refusals by a target after which resumption is suspended."""
LEFT_ALONE_S: Final = 60.0
"""Seconds of that suspension; also for a target that issues no session."""
MOST_ADDRESSES: Final = 64
"""Maximum number of addresses of one target whose sessions are kept."""


class Material(NamedTuple):
    """Contents of the configured files. `ca`: None = the system's certificates, or none if verification is off."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None


class Identity(NamedTuple):
    """Identity of TLS contexts: contexts with the same identity are interchangeable. Files as digests."""

    verify: bool
    ca: bytes | None
    certificate: bytes | None
    key: bytes | None
    protocols: tuple[str, ...] = HTTP
    """Protocols that are offered (ALPN)."""
    names: tuple[str, ...] = ()
    """Subject alternative names that are accepted; (): the server name."""
    min_version: str = "1.2"
    ciphers: tuple[str, ...] = ()


def material_of(tls: settings.UpstreamTls, files: Mapping[str, bytes]) -> Material:
    """Read the configured files. `files`: contents that were read when the configuration was accepted; others are read
    now. Raises `OSError`.
    """

    def read(path: str) -> bytes:
        held = files.get(path)
        return Path(path).read_bytes() if held is None else held

    return _material(tls, read)


def _material(tls: settings.UpstreamTls, read: Callable[[str], bytes]) -> Material:
    names = (tls.ca if tls.verify else None, tls.certificate, tls.key)
    return Material(*(None if name is None else read(name) for name in names))


def identity_of(tls: settings.UpstreamTls, material: Material, protocols: tuple[str, ...] = HTTP) -> Identity:
    ca, certificate, key = (None if content is None else sha256(content).digest() for content in material)
    names = tls.subject_alt_names
    return Identity(tls.verify, ca, certificate, key, protocols, names, tls.min_version, tls.ciphers)


def protocols_of(upstream: settings.Upstream) -> tuple[str, ...]:
    """Return the ALPN protocols for an upstream's targets, the preferred one first; () for other protocols than
    HTTP.
    """
    if any(target.url.scheme == "tcp" for target in upstream.targets):
        return ()
    if upstream.protocol == "http1":
        return HTTP
    return NEGOTIATED if upstream.protocol == "auto" else ("h2",)


class ClientTls(NamedTuple):
    """TLS settings of a client, with the contents of the files."""

    settings: settings.UpstreamTls
    material: Material
    identity: Identity


def _contents(path: str) -> bytes:
    return Path(path).read_bytes()


def read_tls(tls: settings.UpstreamTls, read: Callable[[str], bytes] = _contents) -> ClientTls:
    """Read the configured files. `read`: function that returns the contents of a file, by default those of now. Raises
    its exceptions, such as `OSError`.
    """
    material = _material(tls, read)
    return ClientTls(tls, material, identity_of(tls, material))


class ClientContext(ssl.SSLContext):
    """Context for targets. `names`: subject alternative names, of which a certificate has to have one; (): OpenSSL
    verifies the server name.
    """

    names: tuple[str, ...] = ()

    def check_names(self, connection: ssl.SSLObject) -> None:
        """Verify the names of a connection's certificate. Raises `ssl.SSLCertVerificationError`."""
        if self.names and not has_any_name(connection.getpeercert() or {}, self.names):
            error = ssl.SSLCertVerificationError(1, _NO_NAME)
            error.verify_message = _NO_NAME
            raise error


def has_any_name(certificate: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether a certificate, as `ssl.SSLObject.getpeercert` returns it, has one of these subject alternative names."""
    held = {
        f"DNS:{value.lower()}" if kind == "DNS" else f"{_KINDS.get(kind, kind)}:{value}"
        for kind, value in certificate.get("subjectAltName", ())
    }
    for name in names:
        if name.startswith("DNS:"):
            host = name[4:].lower()
            if not held.isdisjoint((f"DNS:{host}", f"DNS:*.{host.partition('.')[2]}")):
                return True
        elif name in held:
            return True
    return False


_KINDS: Final = {"IP Address": "IP"}
_NO_NAME: Final = "the certificate has none of the names of `subject_alt_names`"


def client_tls(
    tls: settings.UpstreamTls, material: Material, protocols: tuple[str, ...] = HTTP
) -> Steps[ssl.SSLContext]:
    """Create a context: TLS of the configured versions, verified unless switched off, with these ALPN protocols. Raises
    `ssl.SSLError`, `OSError`.

    Configured files are one step, the system's certificates one each: 140 take 20 ms.
    """
    made = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    set_versions(made, tls.min_version, None)
    if tls.ciphers or tls.min_version < "1.2":
        made.set_ciphers(cipher_text(tls.ciphers or ("DEFAULT",), tls.min_version))
    made.options |= ssl.OP_NO_RENEGOTIATION  # renegotiation is not needed
    openssl.spare_memory(made)
    if protocols:
        made.set_alpn_protocols(protocols)
    yield
    if tls.subject_alt_names:
        made.check_hostname = False
        made.names = tls.subject_alt_names
    if not tls.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    elif material.ca is None:
        yield from _trust_system(made)
    else:
        with as_file(material.ca) as path:
            made.load_verify_locations(path)
    if material.certificate is not None and material.key is not None:
        yield
        with as_file(material.certificate) as certificate, as_file(material.key) as key:
            # Without a password, OpenSSL would prompt for that of an encrypted key on the terminal.
            made.load_cert_chain(certificate, key, password="")
    return made


@final
class TargetTls(Struct, eq=False):
    """TLS of one target: the context, which is shared with others, and its own sessions.

    A name may resolve to several hosts that do not share sessions, so each address has its own.
    """

    context: ssl.SSLContext
    _at: "dict[Hashable, Resuming]" = {}

    def at(self, address: Hashable) -> "Resuming":
        """Return the TLS session state for connections to this address."""
        found = self._at.get(address)
        if found is None:
            if len(self._at) >= MOST_ADDRESSES:
                del self._at[next(iter(self._at))]
            found = self._at[address] = Resuming(self.context)
        return found


@final
class Resuming(Struct, eq=False):
    """Creates the TLS object of a connection, as a context does, and resumes an earlier session if there is one.

    A session is used for as many connections as the target accepts; a target that accepts each only once resumes every
    second time. A resumed handshake does not verify the certificate, so none is resumed later
    than `RESUMED_S` after one that was verified.

    PERF: for a connection with one request it saves the gateway a third with TLS 1.2 and next to nothing with 1.3, and
    the target half and a tenth with P-256, two thirds and a third with RSA 2048 (see the guide to tuning). Python
    copies a session to store it and to use it, which takes 200 us each: resumption is suspended for a target that
    issues none, or refuses them (CPython 3.11, OpenSSL 3.0, uvloop, nginx).
    """

    _context: ssl.SSLContext
    _session: ssl.SSLSession | None = None
    _until: float = 0.0
    _not_before: float = 0.0
    _refused: int = 0

    def __repr__(self) -> str:
        return f"<Resuming {'a session' if self._session is not None else 'nothing'}>"

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_hostname: str, http1: bool = False
    ) -> ssl.SSLObject:
        """`http1`: offer HTTP/1.1 alone, with the context of targets that negotiate the version."""
        if self._session is not None and monotonic() >= self._until:
            self._session = None
        context = self._context
        if http1:  # OpenSSL copies the protocols of the context into each connection
            context.set_alpn_protocols(HTTP)
        try:
            made = context.wrap_bio(incoming, outgoing, False, server_hostname, self._session)
        finally:
            if http1:
                context.set_alpn_protocols(NEGOTIATED)
        made.offered = self._session is not None  # type: ignore[attr-defined]  # a note of ours: it has no slots
        return made

    def remember(self, connection: ssl.SSLObject) -> None:
        """Store the session of a connection after a response: by then, TLS 1.3 has received its tickets too."""
        if connection.session_reused:  # the stored one is valid, and was verified at a known time
            self._refused = 0
            return
        now = monotonic()
        if now < self._not_before:
            return
        if connection.offered:  # type: ignore[attr-defined]
            self._refused += 1
        session = connection.session if self._refused < MOST_REFUSED else None
        if session is not None and (session.has_ticket or connection.version() == "TLSv1.2"):
            self._session, self._until = session, now + RESUMED_S
        else:
            self._session, self._not_before, self._refused = None, now + LEFT_ALONE_S, 0


def _trust_system(made: ssl.SSLContext) -> Steps[None]:
    """Load the system's certificates as `load_default_certs` does, in steps."""
    paths = ssl.get_default_verify_paths()
    if paths.capath is not None:
        made.load_verify_locations(capath=paths.capath)  # read when a certificate is verified
    if paths.cafile is not None:
        for certificate in _CERTIFICATE.findall(Path(paths.cafile).read_text("ascii", "ignore")):
            with suppress(ssl.SSLError):  # invalid certificates are skipped
                made.load_verify_locations(cadata=certificate)
            yield
