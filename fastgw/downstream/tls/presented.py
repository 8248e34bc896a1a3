"""Tells which certificate a client that asks for a name is presented, and where it comes from, without a handshake."""

from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from fastgw.acme.storage import CertificateState, read_state, state_file
from fastgw.config.settings.acme import Acme, OnDemand
from fastgw.config.settings.gateway import ServerCertificate
from fastgw.config.sources.virtual_files import issued_in
from fastgw.downstream.tls.contexts import ServerContexts
from fastgw.sync.on_demand import AllowedNames


def describe_certificate(contexts: ServerContexts, acme: Acme | None, host: str, why_not: str = "") -> str:
    """Return the certificate that a client gets that asks for `host`, with its issuer; an IP address is not sent as a
    server name. `why_not`: reason why the running gateway orders none for this name now; "": there is none. Files of
    ACME are read: it may block.
    """
    name = _server_name(host)
    listed = _all(contexts.find_certificates(name))
    if not name or name in contexts.names:
        return listed
    policy = acme.on_demand if acme is not None and contexts.settings.on_demand else None
    if acme is None or policy is None:
        return f"the first one, as none is for {name}: {listed}"
    if name not in AllowedNames(policy.allow):
        return f"the first one, as none is for {name} and `acme.on_demand.allow` does not match it: {listed}"
    return _on_demand(acme, policy, name, why_not)


def _server_name(host: str) -> str:
    try:
        ip_address(host)
    except ValueError:
        return host.lower().removesuffix(".")
    return ""


def _all(certificates: Iterable[ServerCertificate]) -> str:
    return " and ".join(_described(each) for each in certificates)


def _described(certificate: ServerCertificate) -> str:
    acme = certificate.acme
    if acme is None:
        return certificate.certificate_file
    file, names = issued_in(acme.file)
    text = f"{', '.join(names)} by ACME ({acme.challenge})"
    state = read_state(state_file(file))
    if Path(file).exists():
        return f"{text}: {_issued(state)}"
    return f"{text}: none is issued yet, clients get a self-signed one that has expired{_failed(state)}"


def _on_demand(acme: Acme, policy: OnDemand, name: str, why_not: str) -> str:
    file, _ = issued_in(policy.certificate(name, acme.storage).file)
    text = f"{name} on demand by ACME ({policy.challenge})"
    state = read_state(state_file(file))
    if Path(file).exists():
        return f"{text}: {_issued(state)}"
    if why_not:
        return f"{text}: none is ordered now, {why_not}; the client is refused (unrecognized_name)"
    issuer = str(acme.directory)
    asked = "" if policy.ask is None else f", if {policy.ask} allows it"
    return f"{text}: ordered from {issuer} when a client asks for it{asked}{_failed(state)}"


def _issued(state: CertificateState) -> str:
    renewal = f", renewed on {datetime.fromtimestamp(state.renew_date, UTC):%Y-%m-%d}" if state.renew_date else ""
    return f"issued by {state.issuer or 'an unknown issuer'}{renewal}{_failed(state)}"


def _failed(state: CertificateState) -> str:
    return f"; the last order has failed: {state.error}" if state.error else ""
