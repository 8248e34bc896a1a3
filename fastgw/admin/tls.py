"""TLS of the admin listener."""

import ssl
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from fastgw.config.pem import as_file
from fastgw.config.settings import NONE, ServerTls

VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
MODES: Final = {"optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def files_of(tls: ServerTls) -> frozenset[str]:
    """The files that it is made of."""
    files = {file for each in tls.certificates for file in (each.certificate, each.key)}
    return frozenset(files if tls.client_auth is None else files | {tls.client_auth.ca})


def server_context(tls: ServerTls, held: Mapping[str, bytes] = NONE) -> ssl.SSLContext:
    """Shows the first certificate that fits the name that a client asks for, else the first.

    `held`: the contents of files; one that is not there is read. Raises `OSError`, of which `ssl.SSLError` is one, when
    a file is not what it should be.
    """
    contexts = [_context(tls, each.certificate, each.key, held) for each in tls.certificates]
    names = [
        (_names_of(each.certificate, held), context) for each, context in zip(tls.certificates, contexts, strict=True)
    ]

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name is not None:
            wanted = {name.lower(), "*." + name.lower().partition(".")[2]}
            connection.context = next((context for known, context in names if known & wanted), contexts[0])

    contexts[0].sni_callback = choose
    return contexts[0]


def _context(tls: ServerTls, certificate: str, key: str, held: Mapping[str, bytes]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[tls.min_version]
    context.set_alpn_protocols(["http/1.1"])
    with _named(certificate, held) as certificate_file, _named(key, held) as key_file:
        context.load_cert_chain(certificate_file, key_file)
    if tls.client_auth is not None:
        context.verify_mode = MODES[tls.client_auth.mode]
        with _named(tls.client_auth.ca, held) as ca_file:
            context.load_verify_locations(ca_file)
    return context


def _named(file: str, held: Mapping[str, bytes]) -> AbstractContextManager[str]:
    """A name under which OpenSSL reads the file."""
    return as_file(held[file]) if file in held else nullcontext(file)


def _names_of(certificate: str, held: Mapping[str, bytes]) -> set[str]:
    """The DNS names of a certificate, in lower case."""
    with _named(certificate, held) as file:
        # The standard library has no other decoder for a certificate that no peer has shown.
        decoded = ssl._ssl._test_decode_cert(file)  # type: ignore[attr-defined]
    return {name.lower() for kind, name in decoded.get("subjectAltName", ()) if kind == "DNS"}
