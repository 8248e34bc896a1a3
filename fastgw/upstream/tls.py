"""How `https` targets are spoken to: TLS contexts, made from the bytes of files, whatever stands in the files by now.

A key is held in memory alone, a moment long, for OpenSSL takes it by the name of a file only.
"""

import re
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from fastgw.config import settings
from fastgw.config.pem import as_file
from fastgw.routing import Steps

_CERTIFICATE: Final = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


class Material(NamedTuple):
    """The contents of the files that are named. ca None: the system's, or none when nothing is verified."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None


class Identity(NamedTuple):
    """Tells TLS contexts apart: those of one identity are interchangeable. Files as digests."""

    verify: bool
    ca: bytes | None
    certificate: bytes | None
    key: bytes | None


def material_of(tls: settings.UpstreamTls, files: Mapping[str, bytes]) -> Material:
    """`files`: what was read when the configuration was accepted; the others are read now. Raises `OSError`."""

    def read(path: str) -> bytes:
        held = files.get(path)
        return Path(path).read_bytes() if held is None else held

    return _material(tls, read)


def _material(tls: settings.UpstreamTls, read: Callable[[str], bytes]) -> Material:
    names = (tls.ca if tls.verify else None, tls.certificate, tls.key)
    return Material(*(None if name is None else read(name) for name in names))


def identity_of(tls: settings.UpstreamTls, material: Material) -> Identity:
    return Identity(tls.verify, *(None if content is None else sha256(content).digest() for content in material))


class ClientTls(NamedTuple):
    """How to speak TLS as a client, with what stands in the files."""

    settings: settings.UpstreamTls
    material: Material
    identity: Identity


def read_tls(tls: settings.UpstreamTls, read: Callable[[str], bytes]) -> ClientTls:
    """`read`: gives the contents of a file. Raises what that raises."""
    material = _material(tls, read)
    return ClientTls(tls, material, identity_of(tls, material))


def client_tls(tls: settings.UpstreamTls, material: Material) -> Steps[ssl.SSLContext]:
    """TLS 1.2 or later, verified unless switched off, HTTP/1.1 alone. Raises `ssl.SSLError`, `OSError`.

    One's own files are one step, the system's certificates one each: 140 take 20 ms.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    yield
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
            # Without a password OpenSSL would ask the terminal for the one of an encrypted key.
            made.load_cert_chain(certificate, key, password="")
    return made


def _trust_system(made: ssl.SSLContext) -> Steps[None]:
    """What `load_default_certs` does, in steps."""
    paths = ssl.get_default_verify_paths()
    if paths.capath is not None:
        made.load_verify_locations(capath=paths.capath)  # looked into when a certificate is to be verified
    if paths.cafile is not None:
        for certificate in _CERTIFICATE.findall(Path(paths.cafile).read_text("ascii", "ignore")):
            with suppress(ssl.SSLError):  # one that is no good is left out
                made.load_verify_locations(cadata=certificate)
            yield
