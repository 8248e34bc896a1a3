"""TLS of the admin listener."""

import ssl
from typing import Final

from fastgw.config.settings import ServerTls

VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
MODES: Final = {"optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def server_context(tls: ServerTls) -> ssl.SSLContext:
    """Shows the first certificate that fits the name that a client asks for, else the first.

    Raises `OSError`, of which `ssl.SSLError` is one, when a file is not what it should be.
    """
    contexts = [_context(tls, each.certificate, each.key) for each in tls.certificates]
    names = [(_names_of(each.certificate), context) for each, context in zip(tls.certificates, contexts, strict=True)]

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name is not None:
            wanted = {name.lower(), "*." + name.lower().partition(".")[2]}
            connection.context = next((context for known, context in names if known & wanted), contexts[0])

    contexts[0].sni_callback = choose
    return contexts[0]


def _context(tls: ServerTls, certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[tls.min_version]
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate, key)
    if tls.client_auth is not None:
        context.verify_mode = MODES[tls.client_auth.mode]
        context.load_verify_locations(tls.client_auth.ca)
    return context


def _names_of(certificate: str) -> set[str]:
    """The DNS names of a certificate, in lower case."""
    # The standard library has no other decoder for a certificate that no peer has shown.
    decoded = ssl._ssl._test_decode_cert(certificate)  # type: ignore[attr-defined]
    return {name.lower() for kind, name in decoded.get("subjectAltName", ()) if kind == "DNS"}
