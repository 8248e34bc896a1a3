"""tls: additional cost of encryption per request, and cost of a handshake.

All contestants use the same ECDSA certificate on P-256. The load offers only TLS 1.3, X25519 and AES-128-GCM, so that
preferences of contestants do not matter. Sessions are not resumed: wrk offers to, so contestants are configured to
refuse.
"""

import socket
import ssl
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench import prove as plain
from bench.load.load import Environment
from bench.load.wrk import Wrk
from bench.peers import Caddy, Envoy, Fastgw, Haproxy, Nginx, Running
from bench.peers.peer import HERE, HOST
from bench.prove import NotTheSameWork, expect
from bench.samples import Told
from bench.scenarios.scenario import (
    CORE_USED,
    CPU_US,
    P50,
    P90,
    P99,
    P999,
    RATE,
    SYSTEM_US,
    USER_US,
    Kind,
    Picture,
    Scenario,
    Table,
    ratio_to,
)

CERTIFICATE, KEY, BOTH = "../certificate.pem", "../key.pem", "../both.pem"  # relative to a contestant's folder
OPENSSL_CONF = HERE.parent / "load" / "tls13.cnf"
LIFE = timedelta(days=2)  # longer than any run
LOOPBACK = IPv4Address("127.0.0.1")
RESUMES = "caddy"  # it has no setting for that

NGINX = {
    "listen": "ssl",
    "server": (
        f"ssl_certificate {CERTIFICATE}; ssl_certificate_key {KEY}; ssl_protocols TLSv1.3;"
        "ssl_session_tickets off; ssl_session_cache off;"
    ),
}
HAPROXY = {
    "scheme": "https",
    "global": "tune.ssl.cachesize 0",
    "bind": f"ssl crt {BOTH} ssl-min-ver TLSv1.3 no-tls-tickets",
}


def envoy(protocols: str) -> dict[str, str]:
    """Return its configuration. `protocols`: offered by ALPN, with commas."""
    return {
        "transport": (
            "transport_socket: {name: envoy.transport_sockets.tls, typed_config: {"
            '"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext,'
            "disable_stateless_session_resumption: true, disable_stateful_session_resumption: true,"
            f"common_tls_context: {{alpn_protocols: [{protocols}],"
            "tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3},"
            f"tls_certificates: [{{certificate_chain: {{filename: {CERTIFICATE}}}, private_key: {{filename: {KEY}}}}}]"
            "}}}"
        )
    }


CADDY = {
    "scheme": "https",
    "global": f"default_sni {HOST}\n    servers {{\n        protocols h1\n    }}",
    "site": f"tls {CERTIFICATE} {KEY} {{\n        protocols tls1.3\n    }}",
}
FASTGW = {
    "listener": {
        "tls": {
            "certificates": [{"certificate": CERTIFICATE, "key": KEY}],
            "min_version": "1.3",
            "session_tickets": False,
        }
    }
}


@dataclass(frozen=True)
class Handshakes(Wrk):
    """A new connection for each request, each with a full handshake; contestants that resume sessions are left out."""

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told | None:
        return None if name == RESUMES else super().run(name, running, environment, seconds)


def prove(name: str, running: Running) -> None:
    """Raise `NotTheSameWork` unless the contestant does the work of `plain` over TLS 1.3, without session
    resumption.
    """
    tls = ssl.create_default_context(cafile=str(running.program.output.parent / CERTIFICATE))
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    plain.prove(name, running, tls=tls)
    try:
        session, _ = _asked(running, tls, None)
        _, resumed = _asked(running, tls, session)
        expect("a session was resumed", resumed, name == RESUMES)
    except (OSError, ValueError) as error:
        raise NotTheSameWork(f"{name}: {error}") from error


def _asked(
    running: Running, tls: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[ssl.SSLSession | None, bool | None]:
    """Send one request on a new connection. Returns its session, and whether `session` was resumed."""
    with (
        socket.create_connection(("127.0.0.1", running.port), timeout=5.0) as connection,
        tls.wrap_socket(connection, server_hostname=HOST, session=session) as client,
    ):
        client.sendall(f"GET /svc0/v1/items HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        while client.recv(65_536):  # TLS 1.3 sends sessions after the handshake
            pass
        return client.session, client.session_reused


def prepare(folder: Path) -> None:
    """Write a self-signed certificate, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST), x509.IPAddress(LOOPBACK)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for file, octets in {CERTIFICATE: certificate, KEY: private, BOTH: certificate + private}.items():
        (folder / Path(file).name).write_bytes(octets)


TLS13 = {"OPENSSL_CONF": str(OPENSSL_CONF)}
KEPT = Wrk("kept alive", scheme="https", environment=TLS13, arguments={"body": "@body.json"})
HANDSHAKES = Handshakes("handshakes", scheme="https", environment=TLS13, arguments={"body": "@body.json", "close": 1})

SCENARIO = Scenario(
    name="tls",
    title="CPU per request over TLS 1.3, and per handshake",
    about=(
        "The work and the requests of `plain` over TLS 1.3 with X25519, AES-128-GCM and an ECDSA certificate on P-256: "
        "first on connections that are kept alive, then with a new one and so a whole handshake for each request. "
        "Upstreams are spoken to in clear text."
    ),
    peers=(
        Fastgw(config=FASTGW),
        Nginx(fill=NGINX),
        Haproxy(fill=HAPROXY),
        Envoy(fill=envoy("http/1.1")),
        Caddy(fill=CADDY),
    ),
    loads=(KEPT, HANDSHAKES),
    tables=(
        Table(KEPT.name, (CPU_US, USER_US, SYSTEM_US, ratio_to("nginx"), RATE, CORE_USED, P50, P90, P99, P999)),
        Table(
            HANDSHAKES.name,
            (
                replace(CPU_US, heading="CPU us/handshake and request"),
                USER_US,
                SYSTEM_US,
                ratio_to("nginx"),
                replace(RATE, heading="handshakes/s"),
                CORE_USED,
                P50,
                P99,
            ),
            "a new connection for each request",
        ),
    ),
    prove=prove,
    prepare=prepare,
    pictures=(Picture(Kind.BARS, KEPT.name, "CPU per request over TLS 1.3, connections kept"),),
)
