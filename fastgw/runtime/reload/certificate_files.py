"""Certificate files: certificates of listeners and CAs of client certificates: their expiry, and whether new contents
can be used.

Renewal tools write a key and its certificate one after the other. Files that cannot be used yet keep their previous
contents in force, and other changes become active. The same applies to a certificate that is expired or not yet valid,
while the active one is valid.
"""

import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import partial
from math import inf
from types import MappingProxyType
from typing import Any, Final

from fastgw.admin.node_interface import CertificateInfo, VerifierInfo
from fastgw.config.base.problems import shown_file
from fastgw.config.kyma.objects import ObjectFile
from fastgw.config.kyma.provider import documents_in
from fastgw.config.settings.gateway import Config, ServerCertificate, ServerTls
from fastgw.config.sources.virtual_files import is_derived
from fastgw.net.client_certificate import expiry
from fastgw.net.pem import (
    authority_ends,
    authority_problem,
    decoded,
    dns_names,
    pair_problem,
    revocations_end,
    revocations_problem,
)
from fastgw.net.placeholder import is_placeholder

OF_ADMIN: Final = "(admin)"
"""Name of the admin listener, which cannot be that of a listener."""

SHOWN: Final = 5
"""Maximum number of names that are listed."""

Files = Mapping[str, bytes]
Why = Mapping[str, str]
"""Reason why a file's present contents, or those of a related file, are not active, by file."""


def settled(
    config: Config, before: Files, now: Files, away: Why = MappingProxyType({})
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the present contents of files that can be active, and the reasons why the others cannot.

    `before`: the active contents; new files have none. `away`: files that cannot be read, which have their active
    contents in `now`, with the reason; "" = one can be. Related files are used together or not at all.
    """
    date = time.time()
    taken, why = dict(now), dict[str, str]()
    groups = [*_groups(config), *_documents(config, before, now)]
    again = True
    while again:  # a file may belong to several groups
        again = False
        for files, wrong_with in groups:
            if not before.keys() >= {*files} or all(taken[file] == before[file] for file in files):
                continue
            wrong = wrong_with(taken)
            if not wrong and files[1:]:  # a certificate and its key
                wrong = _refusal_reason(files[0], before, taken, date)
            if wrong:
                wrong = next((away[file] for file in files if away.get(file)), wrong)  # it is the cause
                why |= dict.fromkeys(files, wrong)
                taken |= {file: before[file] for file in files}
                again = True
    return taken, why


def looked_at_again(files: Collection[str], before: Files, now: Files) -> float:
    """Return when an inactive file may become usable: it becomes valid, or the active one expires (epoch seconds)."""
    date = time.time()
    contents = [held[file] for file in files for held in (before, now) if file in held]
    return min((each for content in contents for each in _validity(content) if each > date), default=inf)


def _refusal_reason(certificate: str, before: Files, now: Files, date: float) -> str:
    """Return the reason not to replace a certificate by this one: it is not valid, and the previous one is."""
    since, until = _validity(now[certificate])
    if since <= date <= until:
        return ""
    since_before, until_before = _validity(before[certificate])
    if not since_before <= date <= until_before:
        return ""
    what = f"is not valid before {_format_date(since)}" if date < since else f"has expired: {_format_date(until)}"
    return f"{certificate}: the certificate {what}"


def _validity(certificate: bytes) -> tuple[float, float]:
    """Return the validity period of the first certificate of a file. Unlimited if it has none."""
    try:
        parsed = decoded(certificate)
    except ssl.SSLError:
        return -inf, inf
    return float(ssl.cert_time_to_seconds(parsed["notBefore"])), expiry(parsed)


def _format_date(date: float) -> str:
    return time.strftime("%b %d %H:%M:%S %Y GMT", time.gmtime(date))


def renamed(config: Config, before: Files, now: Files) -> Why:
    """Return, by file, new certificates for other names, if the listener has no certificate for the previous names."""
    found: dict[str, str] = {}
    for _, tls in _served(config):
        lost_of = {each.certificate_file: _removed_names(each, before, now) for each in tls.certificates}
        if any(lost_of.values()):
            still = {name for each in tls.certificates for name in _names(now.get(each.certificate_file, b""))}
            for file, lost in lost_of.items():
                gone = [name for name in lost if not {name, "*." + name.partition(".")[2]} & still]
                if gone:
                    listed = ", ".join(gone[:SHOWN]) + (f" and {len(gone) - SHOWN} more" if gone[SHOWN:] else "")
                    found[file] = f"{file}: the new certificate lacks names of the previous one: {listed}"
    return found


def _removed_names(each: ServerCertificate, before: Files, now: Files) -> list[str]:
    old, new = before.get(each.certificate_file), now.get(each.certificate_file)
    if old is None or new is None or old == new:
        return []
    return [name for name in _names(old) if name not in _names(new)]


def _names(certificate: bytes) -> list[str]:
    try:
        return [name.lower() for _, name in decoded(certificate).get("subjectAltName", ())]
    except ssl.SSLError:
        return []


def files_to_spare(config: Config) -> frozenset[str]:
    """Return the files that may be missing briefly while they are replaced."""
    return frozenset(file for files, _ in _groups(config) for file in files)


def _groups(config: Config) -> Iterator[tuple[tuple[str, ...], Callable[[Files], str]]]:
    """Yield groups of related files, with their error. Derived files are always consistent."""
    for _, tls in _served(config):
        for each in tls.certificates:
            yield _pair(each.certificate_file, each.key_file)
        if tls.client_auth is not None:
            yield _single_file_check(tls.client_auth.ca, authority_problem)
            if tls.client_auth.crl is not None:
                yield _single_file_check(tls.client_auth.crl, revocations_problem)
    for upstream in config.upstreams.values():
        client = upstream.client_tls
        certificate, key = client.certificate, client.key
        if certificate is not None and key is not None and not is_derived(certificate):
            yield _pair(certificate, key)
        if client.ca is not None:
            yield _single_file_check(client.ca, authority_problem)


def _documents(config: Config, before: Files, now: Files) -> Iterator[tuple[tuple[str, ...], Callable[[Files], str]]]:
    """Yield the files of Kyma documents. One that is incomplete may be half written: without it services would
    disappear.
    """
    if config.providers.kyma is None:
        return

    def cut_off(file: str, files: Files) -> str:
        flaw = ObjectFile(file, files[file]).flaw
        return "" if flaw is None or ObjectFile(file, before[file]).flaw is not None else str(flaw)

    for file in documents_in(config.providers.kyma, before):
        if file in now:
            yield (file,), partial(cut_off, file)


def _pair(certificate: str, key: str) -> tuple[tuple[str, ...], Callable[[Files], str]]:
    def wrong_with(files: Files) -> str:
        wrong = pair_problem(files[certificate], files[key])
        return "" if wrong is None else f"{certificate if wrong.of == 'certificate' else key}: {wrong.wrong}"

    return (certificate, key), wrong_with


def _single_file_check(file: str, wrong_with: Callable[[bytes], str]) -> tuple[tuple[str, ...], Callable[[Files], str]]:
    return (file,), lambda files: (wrong := wrong_with(files[file])) and f"{file}: {wrong}"


def _served(config: Config) -> Iterator[tuple[str, ServerTls]]:
    for name, listener in config.listeners.items():
        if listener.tls is not None:
            yield name, listener.tls
    if config.admin is not None and config.admin.tls is not None:
        yield OF_ADMIN, config.admin.tls


def certificate_infos(config: Config, captured: Files, why: Why) -> list[CertificateInfo]:
    """Return the certificates of all listeners."""
    found = []
    for listener, tls in _served(config):
        for each in tls.certificates:
            with suppress(ssl.SSLError, KeyError):
                certificate = decoded(captured[each.certificate_file])
                found.append(
                    CertificateInfo(
                        listener=listener,
                        certificate=shown_file(each.certificate_file),
                        names=dns_names(certificate),
                        serial=certificate["serialNumber"],
                        expires_date=expiry(certificate),
                        problem=why.get(each.certificate_file, "") or _placeholder_note(certificate),
                    )
                )
    return found


def _placeholder_note(certificate: dict[str, Any]) -> str:
    return "not issued yet: clients get a self-signed placeholder" if is_placeholder(certificate) else ""


def verifiers(config: Config, captured: Files, why: Why) -> list[VerifierInfo]:
    """Return the CAs for client certificates of each listener that requests them."""
    found = []
    for listener, tls in _served(config):
        if tls.client_auth is None:
            continue
        ca, crl = tls.client_auth.ca, tls.client_auth.crl
        found.append(VerifierInfo(listener, "ca", ca, authority_ends(captured.get(ca, b"")), why.get(ca, "")))
        if crl is not None:
            found.append(VerifierInfo(listener, "crl", crl, revocations_end(captured.get(crl, b"")), why.get(crl, "")))
    return found
