"""Rules and warnings for certificates, keys, CAs and revocation lists.

All of them apply to the captured bytes, not to the files' current contents.
"""

import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Final

from fastgw.config.base.problems import Problem, format_value
from fastgw.config.decoding.decoder import BROKEN
from fastgw.config.decoding.merge import Merged, SourceLocation
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.settings.gateway import ServerCertificate, Upstream, UpstreamTls
from fastgw.config.settings.secrets import SecretError, secret_in
from fastgw.net.pem import (
    Grouping,
    authority_ends,
    authority_problem,
    decoded,
    dns_names,
    has_authority,
    pair_problem,
    revocations_end,
    revocations_problem,
)
from fastgw.net.placeholder import is_placeholder

ACME_PACKAGES: Final = ("acme", "josepy")
LEAST_SECRET: Final = 32
"""Minimum length of `acme.shared_secret`: a reader of Redis may try to guess it."""
EXPIRES_SOON_S: Final = {"certificate": 14 * 24 * 3600, "ca": 14 * 24 * 3600, "crl": 24 * 3600}
"""Time before expiry from which a warning is given, in seconds. Many revocation lists are renewed weekly."""


def _speaks_tls(location: SourceLocation, upstream: Upstream) -> bool:
    """Whether any target uses TLS; for targets not known yet, whether they will. A Service without endpoints may get
    any."""
    targets: Any = upstream.targets
    if not targets:
        listed = location.raw["targets"]
        return listed == [] or listed.get("scheme", "http") not in ("http", "udp")
    return any(target is BROKEN or target.url is BROKEN or upstream.speaks_tls(target.url) for target in targets)


def tls_that_works(merged: Merged) -> None:
    """Check the TLS settings of upstreams: certificate and key come together, files are valid, and some target uses
    TLS.
    """
    for location, _, upstream in merged.upstreams_to_validate():
        if upstream.tls in (None, BROKEN, UpstreamTls()):
            continue
        tls, at = upstream.tls, location.below("tls")
        if upstream.targets is not BROKEN and not _speaks_tls(location, upstream):
            at.report("no target of this upstream uses https", "expected an https target, or no `tls`")
        if (tls.certificate is None) != (tls.key is None) and not {"certificate", "key"} <= at.raw.keys():
            given, lacking = ("certificate", "key") if tls.certificate else ("key", "certificate")
            at.below(given).report(f"there is no `{lacking}`", "expected both or neither")
        _try(tls.ca, at.below("ca"), authority_problem)
        _try_pair(tls.certificate, tls.key, at)


def served_tls_that_works(merged: Merged) -> None:
    """Check the certificates of listeners, and of the admin listener."""
    _check_on_demand(merged)
    _check_sharing(merged)
    for at, tls in _served(merged):
        for index, pair in _whole(tls.certificates):
            _check_source(merged, pair, at.below("certificates", index))
        if tls.on_demand is True:
            _check_on_demand_use(merged, at.below("on_demand"))
        if tls.ocsp_stapling is True and at.path[0] == "admin":
            at.below("ocsp_stapling").report("the admin listener staples no OCSP responses", "expected a listener")
        is_whole = BROKEN not in (tls.profile, tls.min_version, tls.max_version)
        if is_whole and tls.max_version is not None and tls.least_version > tls.max_version:
            wrong = f"the minimum version is {tls.least_version}"
            at.below("max_version").report(wrong, "expected at least one version", at_key=False)
        if tls.client_auth not in (None, BROKEN):
            below = at.below("client_auth")
            _try(tls.client_auth.ca, below.below("ca"), authority_problem)
            _try(tls.client_auth.crl, below.below("crl"), revocations_problem)


def _check_source(merged: Merged, pair: ServerCertificate, at: SourceLocation) -> None:
    """Check a certificate's files, or its settings of ACME."""
    if pair.acme is not None:
        for key in ("certificate", "key"):
            if key in at.raw:
                at.below(key).report("the certificate is obtained by ACME", f"expected `acme` or `{key}`, not both")
        _check_acme(merged, pair.acme, at.below("acme"))
        return
    lacking = [key for key, value in (("certificate", pair.certificate), ("key", pair.key)) if value is None]
    if lacking and {"certificate", "key", "acme"}.isdisjoint(at.raw):
        at.report("there is no certificate", "expected `certificate` and `key`, or `acme`")
        return
    for key in lacking:
        if key not in at.raw and "acme" not in at.raw:
            at.below(key).report("missing", "expected the name of a file")
    _try_pair(pair.certificate, pair.key, at)


def _check_acme(merged: Merged, acme: Any, at: SourceLocation) -> None:
    """Check that a certificate can be obtained: there is an issuer, and a wildcard is verified by DNS."""
    if acme is BROKEN or _lacks_packages(at):
        return
    settings = merged.single.get("acme", (None, None))[1]
    if settings is None:
        if merged.is_written("acme"):
            return  # it has problems of its own
        at.report("there is no issuer", "expected `acme` with its `directory` at the top of the configuration")
        return
    if acme.challenge is BROKEN or acme.domains is BROKEN:
        return
    for index, domain in _whole(acme.domains):
        if domain.startswith("*.") and acme.challenge != "dns-01":
            wrong = f"{format_value(domain)} is a wildcard, which {acme.challenge} cannot verify"
            at.below("domains", index).report(wrong, "expected the challenge dns-01", at_key=False)
    _check_challenge(merged, acme.challenge, settings, at)


def _lacks_packages(at: SourceLocation) -> bool:
    """Whether packages for ACME are missing, which is reported."""
    for package in ACME_PACKAGES:
        if find_spec(package) is None:
            at.report(f"the package {package} is missing", "pip install 'fastgw[acme]'")
            return True
    return False


def _check_on_demand(merged: Merged) -> None:
    """Check that certificates can be ordered on demand."""
    location, acme = merged.single.get("acme", (None, None))
    if location is None or acme in (None, BROKEN) or acme.on_demand in (None, BROKEN):
        return
    at, policy = location.below("on_demand"), acme.on_demand
    if _lacks_packages(at) or policy.challenge is BROKEN:
        return
    _check_challenge(merged, policy.challenge, acme, at)
    listeners = [listener for _, _, listener in merged.whole("listeners")]
    if all(each.tls in (None, BROKEN) or each.tls.on_demand is not True for each in listeners):
        at.report("no listener orders certificates on demand", "expected `on_demand: true` in `tls` of a listener")


def _check_sharing(merged: Merged) -> None:
    """Check that a secret to share certificates by is long enough, and that there is a Redis to share them through."""
    location, acme = merged.single.get("acme", (None, None))
    if location is None or acme in (None, BROKEN) or acme.shared_secret is BROKEN:
        return
    has_state = any(state is not None for _, state in merged.single_entry("state"))
    secret = acme.shared_secret
    if secret is None:
        return  # each node orders its own, of which lint tells
    at = location.below("shared_secret")
    if not has_state:
        at.report(
            "there is no `state`, through which certificates are shared", "expected `state: {url: ...}` beside it"
        )
        return
    file = secret.file
    try:
        length = len(secret_in(file, location.reading.files.read(file)) if file else secret.value())
    except (SecretError, SyntaxProblem):  # reported where it is read
        return
    if length < LEAST_SECRET:
        at.report("the secret is too short", "expected a secret of at least 32 characters, the same on all nodes")


def _check_on_demand_use(merged: Merged, at: SourceLocation) -> None:
    """Check that a listener with `on_demand` has a rule to follow."""
    _, acme = merged.single.get("acme", (None, None))
    if at.path[0] == "admin":
        at.report("the admin listener orders no certificates on demand", "expected a certificate in `certificates`")
    elif acme is not BROKEN and (acme is None or acme.on_demand is None):
        at.report("there is no rule for names", "expected `acme.on_demand` with `allow` or `ask`", at_key=False)


def _check_challenge(merged: Merged, challenge: str, settings: Any, at: SourceLocation) -> None:
    """Check that the challenge can be answered."""
    if challenge == "dns-01" and settings is not BROKEN and settings.dns_hook is None:
        at.below("challenge").report("there is no `acme.dns_hook`", "expected the executable that sets DNS records")
    listeners = [listener for _, _, listener in merged.whole("listeners") if listener.protocol == "http"]
    if challenge == "http-01" and all(each.tls is not None for each in listeners):
        wrong = "no HTTP listener without TLS answers http-01"
        at.below("challenge").report(wrong, "expected a listener on port 80, or another challenge", at_key=False)


def _file_of(pair: Any) -> Any:
    """Return the certificate file of a listener; `BROKEN` or None if it is not known."""
    if pair.acme is None:
        return pair.certificate
    if pair.acme is BROKEN or BROKEN in (pair.acme.domains, pair.acme.storage, pair.acme.key):
        return BROKEN
    return BROKEN if BROKEN in pair.acme.domains else pair.certificate_file or None


def _key_of(pair: Any) -> str:
    """Return the setting that a certificate comes from."""
    return "certificate" if pair.acme is None else "acme"


def tls_notes(merged: Merged) -> list[Problem]:
    """Return warnings: server certificates that clients reject (expired, without names, or for none of a route's hosts)
    or that are never selected, and expired CAs and revocation lists for client certificates."""
    notes = []
    now = time.time()
    for at, tls in _served(merged):
        notes += [*_never_shown(tls, at), *_late_verifiers(tls, at, now), *_idle_ciphers(tls, at)]
        for index, pair in _whole(tls.certificates):
            certificate = _decoded(_file_of(pair), at)
            if certificate is not None:
                location = at.below("certificates", index, _key_of(pair))
                notes += [location.problem(wrong) for wrong in _certificate_warnings(certificate, now)]
    return [*notes, *_unnamed_hosts(merged)]


def _idle_ciphers(tls: Any, at: SourceLocation) -> Iterator[Problem]:
    if BROKEN not in (tls.ciphers, tls.profile, tls.min_version) and tls.ciphers and tls.least_version == "1.3":
        yield at.below("ciphers").problem("it has no effect: TLS 1.3, the minimum version here, has its own suites")


def _served(merged: Merged) -> Iterator[tuple[SourceLocation, Any]]:
    for location, _, listener in merged.whole("listeners"):
        if listener.tls not in (None, BROKEN):
            yield location.below("tls"), listener.tls
    for location, admin in merged.single_entry("admin"):
        if admin not in (None, BROKEN) and admin.tls not in (None, BROKEN):
            yield location.below("tls"), admin.tls


def _certificate_warnings(certificate: dict[str, Any], now: float) -> Iterator[str]:
    if is_placeholder(certificate):
        yield "there is no certificate yet: clients get a self-signed one that has expired, until one is issued"
        return
    since, until = (ssl.cert_time_to_seconds(certificate[each]) for each in ("notBefore", "notAfter"))
    if now < since:
        yield f"the certificate is not valid before {certificate['notBefore']}"
    elif until < now:
        yield f"the certificate has expired: {certificate['notAfter']}"
    elif until < now + EXPIRES_SOON_S["certificate"]:
        yield f"the certificate expires soon: {certificate['notAfter']}"
    if not certificate.get("subjectAltName"):
        yield "the certificate has no host name (subjectAltName): clients that verify it reject it"


def _never_shown(tls: Any, at: SourceLocation) -> Iterator[Problem]:
    """Yield certificates whose names are all covered by earlier ones with keys of the same kind."""
    grouping, added = Grouping(), list[tuple[int, Any, Sequence[str]]]()
    for index, pair in _whole(tls.certificates):
        if pair.hosts is BROKEN or BROKEN in pair.hosts or _decoded(_file_of(pair), at) is None:
            return  # which names this one is for is not known
        added.append((index, pair, grouping.add(at.reading.files.read(pair.certificate_file), pair.hosts)))
    used = {each for group in grouping.groups() for each in group.indexes}
    for number, (index, pair, names) in enumerate(added):
        if number not in used and names:
            wrong = "the certificate is never used: earlier ones cover the same names"
            yield at.below("certificates", index, _key_of(pair)).problem(wrong)


def _late_verifiers(tls: Any, at: SourceLocation, now: float) -> Iterator[Problem]:
    """Yield the problems of CA files: certificates that are no CA; CAs and revocation lists that have expired or expire
    soon.
    """
    if tls.client_auth in (None, BROKEN):
        return
    if isinstance(tls.client_auth.ca, str) and not has_authority(at.reading.files.read(tls.client_auth.ca)):
        wrong = "it contains no CA certificate: no client certificate can be verified with it"
        yield at.below("client_auth", "ca").problem(wrong)
    for name, file, ends in (
        ("ca", tls.client_auth.ca, authority_ends),
        ("crl", tls.client_auth.crl, revocations_end),
    ):
        until = ends(at.reading.files.read(file)) if isinstance(file, str) else None
        if until is None or until >= now + EXPIRES_SOON_S[name]:
            continue
        date = time.strftime("%b %d %H:%M:%S %Y GMT", time.gmtime(until))
        what = "a revocation list" if name == "crl" else "a CA certificate"
        refused = (
            "clients with certificates of its issuer are rejected"
            if name == "crl"
            else "clients with its certificates are rejected"
        )
        wrong = f"{what} has expired, {refused}: {date}" if until < now else f"{what} expires soon: {date}"
        yield at.below("client_auth", name).problem(wrong)


def _unnamed_hosts(merged: Merged) -> Iterator[Problem]:
    """Yield hosts of routes, on listeners with TLS, without a certificate."""
    named: dict[str, set[str]] = {}
    for location, name, listener in merged.whole("listeners"):
        if listener.tls in (None, BROKEN):
            continue
        pairs = [pair for _, pair in _whole(listener.tls.certificates)]
        certificates = [_decoded(_file_of(pair), location) for pair in pairs]
        if all(each is not None for each in certificates):
            named[name] = {host for each in certificates if each is not None for host in dns_names(each)}
    for location, route in merged.routes() if named else ():
        wanted = named if not route.listeners else [each for each in route.listeners if each in named]
        for index, host in _whole(route.hosts):
            bare = host.lower()
            for listener in wanted:
                if _is_name(bare) and not {bare, "*." + bare.partition(".")[2]} & named[listener]:
                    wrong = f"no certificate of listener {listener} is for {format_value(host)}"
                    yield location.below("hosts", index).problem(wrong)


def _is_name(host: str) -> bool:
    return not host.startswith("[") and not host.replace(".", "").isdigit() and ":" not in host


def _decoded(certificate: Any, at: SourceLocation) -> dict[str, Any] | None:
    if isinstance(certificate, str):
        with suppress(ssl.SSLError):
            return decoded(at.reading.files.read(certificate))
    return None


def _try(file: Any, at: SourceLocation, wrong_with: Callable[[bytes], str]) -> None:
    if isinstance(file, str) and (wrong := wrong_with(at.reading.files.read(file))):
        at.report(wrong, "expected a PEM file", at_key=False)


def _try_pair(certificate: Any, key: Any, at: SourceLocation) -> None:
    """Report a certificate and key that are invalid or do not match."""
    if isinstance(certificate, str) and isinstance(key, str):  # configured and valid
        wrong = pair_problem(at.reading.files.read(certificate), at.reading.files.read(key))
        if wrong is not None:
            at.below(wrong.of).report(wrong.wrong, wrong.expected, at_key=False)


def _whole(values: Any) -> Iterator[tuple[int, Any]]:
    return ((index, value) for index, value in enumerate(() if values is BROKEN else values) if value is not BROKEN)
