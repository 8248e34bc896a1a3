"""Settings of ACME (RFC 8555): certificates that the gateway obtains and renews by itself."""

import os
from typing import Annotated, Final, Literal

from msgspec import Meta

from fastgw.config.base.settings_base import Settings, Some
from fastgw.config.base.value_types import Delay, Duration, EndpointUrl, FileName, ReadableFile, ServerNamePattern
from fastgw.config.settings.secrets import Secret
from fastgw.config.sources.virtual_files import issued_name

LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"
MOST_DOMAINS: Final = 100
"""Maximum number of names of a certificate, as with most issuers."""

Challenge = Literal["tls-alpn-01", "http-01", "dns-01"]
KeyKind = Literal["ecdsa", "rsa"]


class AcmeAccountKey(Settings):
    """External account binding (RFC 8555 section 7.3.4), which some issuers require."""

    key_id: Annotated[str, Meta(min_length=1, max_length=1024)]
    """Key identifier that the issuer has assigned."""
    key: Secret
    """Key that the issuer has assigned, in base64url."""


class AcmeIssuer(Settings):
    """Issuer of certificates, and the account with it."""

    directory: EndpointUrl
    """URL of the issuer's directory, with https."""
    ca: ReadableFile | None = None
    """PEM file with the CA certificates that verify the issuer's own server, such as one of a private CA. null = those
    of the system."""
    external_account: AcmeAccountKey | None = None
    """External account binding. null = the issuer needs none."""

    def __post_init__(self) -> None:
        _check_directory(self.directory)


class DnsHook(Settings):
    """Executable that sets TXT records for the challenge dns-01. It is started without a shell, with three more
    arguments: `present` or `cleanup`, the name of the record (`_acme-challenge.example.com`), and its value. It has to
    return 0 once the record is visible."""

    command: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1, max_length=32)]
    """Absolute path of the executable, and its first arguments."""
    timeout: Duration = 120.0
    """Timeout of one call. Total."""

    def __post_init__(self) -> None:
        if not self.command[0].startswith("/"):
            raise ValueError("`command` does not begin with an absolute path")


class OnDemand(Settings):
    """Certificates that are ordered when a client first connects with a name (SNI) that no certificate of the listener
    has, at listeners with `tls.on_demand`. Names that `allow` does not match get the listener's first certificate, as
    without these settings. A handshake with an allowed name waits for its certificate, or is refused
    (`unrecognized_name`)."""

    allow: Annotated[tuple[ServerNamePattern, ...], Meta(max_length=1000)] = ()
    """Names that certificates are ordered for: `shop.example.com`, or `*.example.com` for any number of labels before
    it. With `ask`, its answer is needed too. `[]` = any name, which needs `ask`."""
    ask: EndpointUrl | None = None
    """URL that is asked whether a name is allowed, with `?domain=NAME`: 200 allows an order, any other answer refuses
    it. It is asked again before a renewal; if it is unreachable then, the certificate is renewed. null = `allow` alone
    decides: clients can then use up `orders_per_hour` and `names` with names of their choice below a wildcard."""
    ask_timeout: Duration = 3.0
    """Timeout of one question to `ask`. Total."""
    challenge: Challenge = "tls-alpn-01"
    """Method by which the issuer verifies the control of the names, as for other certificates."""
    key: KeyKind = "ecdsa"
    """Kind of the certificates' keys: ECDSA with P-256, or RSA with 2048 bits."""
    names: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    """Maximum number of names with a certificate. Above it no further name gets one until another one is forgotten."""
    orders_per_hour: Annotated[int, Meta(ge=1, le=10_000)] = 60
    """Maximum number of orders for new names within an hour: of all nodes that share certificates
    (`acme.shared_secret`), else of this one. Renewals do not count, nor does a certificate of another node."""
    orders_at_once: Annotated[int, Meta(ge=1, le=16)] = 4
    """Maximum number of orders in progress."""
    wait: Delay = 8.0
    """Maximum time that a handshake waits for the certificate, at most `tls.handshake_timeout`; then the client is
    refused, and may come back later. 0 = it is refused at once, while the certificate is ordered."""
    refused_for: Duration = 300.0
    """Time for which a name is refused without another question or order, after `ask` has refused it, or its order has
    failed."""
    unused_for: Duration = 30 * 86_400.0
    """Time without any handshake after which a name is forgotten: its certificate is not renewed, and is deleted."""

    def __post_init__(self) -> None:
        if not self.allow and self.ask is None:
            raise ValueError("there is neither `allow` nor `ask`: any client could order certificates")

    def certificate(self, name: str, storage: str) -> "AcmeCertificate":
        """Return the settings of a name's certificate. `storage`: of all certificates."""
        folder = os.path.join(storage, "on-demand")
        return AcmeCertificate(domains=(name,), challenge=self.challenge, key=self.key, storage=folder)


class Acme(Settings):
    """Certificates that are obtained and renewed by ACME. Each one is listed with a listener: `certificates: [{acme:
    {domains: [...]}}]`. Renewed certificates are used without a reload. While an issuer is unreachable, or refuses, the
    previous certificate stays in use."""

    email: Annotated[str, Meta(min_length=3, max_length=320)] | None = None
    """Contact address of the account. null = none."""
    directory: EndpointUrl
    """URL of the issuer's directory, with https, such as `https://acme-v02.api.letsencrypt.org/directory`."""
    agree: Literal[True]
    """Must be `true`: you agree to the issuer's terms of service, which its directory names."""
    storage: Annotated[str, FileName(readable=False, is_directory=True)]
    """Directory of the account keys and certificates, which is created if it does not exist. Its files are readable
    only by the user of the gateway. Several gateways of a machine may use the same one."""
    ca: ReadableFile | None = None
    """PEM file with the CA certificates that verify the issuer's own server, such as one of a private CA. null = those
    of the system."""
    external_account: AcmeAccountKey | None = None
    """External account binding. null = the issuer needs none."""
    fallback: tuple[AcmeIssuer, ...] = ()
    """Further issuers, which are asked in this order when those before them have failed."""
    dns_hook: DnsHook | None = None
    """Executable that sets DNS records, for the challenge dns-01."""
    shared_secret: Secret | None = None
    """Secret of at least 32 characters, the same on all nodes with the same `state`: one node orders each certificate,
    and the others get it with its key through Redis, encrypted by a key that is derived from this secret. All of these
    nodes answer the challenges. `openssl rand -hex 32` makes one. null = each node orders certificates of its own."""
    on_demand: OnDemand | None = None
    """Certificates of names that are not listed, ordered when a client first connects with them, at listeners with
    `tls.on_demand`. null = none."""

    def __post_init__(self) -> None:
        _check_directory(self.directory)
        if self.email is not None and ("@" not in self.email or not self.email.isprintable() or "," in self.email):
            raise ValueError("`email` is not an e-mail address")

    @property
    def issuers(self) -> tuple[AcmeIssuer, ...]:
        """All issuers, in the order in which they are asked."""
        first = AcmeIssuer(directory=self.directory, ca=self.ca, external_account=self.external_account)
        return (first, *self.fallback)


class AcmeCertificate(Settings):
    """Certificate that is obtained by ACME."""

    domains: Annotated[Some[ServerNamePattern], Meta(max_length=MOST_DOMAINS)]
    """Names of the certificate. A wildcard (`*.example.com`) needs the challenge dns-01."""
    challenge: Challenge = "tls-alpn-01"
    """Method by which the issuer verifies the control of the names. `tls-alpn-01`: by a TLS connection to port 443,
    which any listener with TLS answers; `http-01`: by a request to port 80, which any HTTP listener without TLS answers
    before its filters and routes; `dns-01`: by a DNS record that `acme.dns_hook` sets."""
    key: KeyKind = "ecdsa"
    """Kind of the certificate's key, a new one with each certificate: ECDSA with P-256, or RSA with 2048 bits."""
    storage: Annotated[str, FileName(readable=False, is_directory=True)] | None = None
    """Directory of this certificate. null = `acme.storage`."""

    def __post_init__(self) -> None:
        if len({*self.domains}) < len(self.domains):
            raise ValueError("`domains` has a name twice")

    @property
    def file(self) -> str:
        """Name of the virtual file with the certificate, its chain and its key; "" until the directory is known."""
        return "" if self.storage is None else issued_name(self.storage, self.domains, self.key)


def _check_directory(directory: object) -> None:
    if not str(directory).startswith("https://"):
        raise ValueError("`directory` is not an https URL")
