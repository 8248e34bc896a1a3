"""The benchmark's certificate, and what its clients offer."""

import os
import ssl
import subprocess
import sys
from pathlib import Path

from cryptography import x509

from bench.peers.peer import HOST
from bench.scenarios import tls


def test_the_certificate_is_for_its_key_and_names_host_and_address(tmp_path):
    tls.prepare(tmp_path)
    both = tmp_path / Path(tls.BOTH).name
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(both)  # raises where they do not belong together
    certificate = x509.load_pem_x509_certificate(both.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HOST]
    assert names.get_values_for_type(x509.IPAddress) == [tls.LOOPBACK]
    assert both.read_text() == "".join((tmp_path / Path(name).name).read_text() for name in (tls.CERTIFICATE, tls.KEY))


def test_clients_offer_one_cipher_of_tls_13():
    """With more than one, each server would choose as it likes."""
    offered = "(c['name'] for c in ssl.create_default_context().get_ciphers() if c['protocol'] == 'TLSv1.3')"
    asks = f"import ssl; print(*{offered})"
    environment = {**os.environ, **tls.KEPT.environment}
    told = subprocess.run([sys.executable, "-c", asks], stdout=subprocess.PIPE, text=True, check=True, env=environment)
    assert told.stdout.split() == ["TLS_AES_128_GCM_SHA256"]


def test_every_load_uses_it():
    assert all(
        load.scheme == "https" and Path(load.environment["OPENSSL_CONF"]).exists() for load in tls.SCENARIO.loads
    )
