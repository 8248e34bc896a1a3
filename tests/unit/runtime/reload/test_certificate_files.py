"""Which of the present contents of files can be in force: what belongs together is taken together."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.x509 import Certificate, load_pem_x509_certificate, load_pem_x509_crl

from fastgw.config.base.value_types import Address
from fastgw.config.settings.gateway import ClientAuth, Config, Listener, ServerCertificate, ServerTls
from fastgw.net.client_certificate import expiry
from fastgw.net.pem import authority_problem, decoded, pair_problem
from fastgw.runtime.reload.certificate_files import (
    certificate_infos,
    files_to_spare,
    looked_at_again,
    renamed,
    settled,
    verifiers,
)
from tests.support.certificates import Certificates

OTHER = "/elsewhere/token"


class Files:
    """Two certificates and a CA certificate, and what is in force of them."""

    def __init__(self, folder: Path) -> None:
        self.authority = Certificates(folder)
        self.a, self.b = self.authority.issue("a.test"), self.authority.issue("b.test")
        self.crl = self.authority.revoke()
        pairs = tuple(ServerCertificate(certificate=certificate, key=key) for certificate, key in (self.a, self.b))
        client_auth = ClientAuth(ca=self.authority.ca, crl=self.crl)
        tls = ServerTls(certificates=pairs, client_auth=client_auth)
        listener = Listener(address=Address("127.0.0.1", 443), tls=tls)
        self.config = Config(version=1, listeners={"public": listener}, admin=None, status=None)
        self.before = {file: Path(file).read_bytes() for file in files_to_spare(self.config)} | {OTHER: b"old"}

    def renewed(self, stem: str) -> tuple[bytes, bytes]:
        certificate, key = self.authority.issue("a.test", stem=stem)
        return Path(certificate).read_bytes(), Path(key).read_bytes()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_whatever_is_good_is_taken(files: Files) -> None:
    certificate, key = files.renewed("new")
    now = {**files.before, files.a[0]: certificate, files.a[1]: key, OTHER: b"new"}
    assert settled(files.config, files.before, now) == (now, {})


def test_a_certificate_that_has_expired_does_not_replace_one_that_is_valid(files: Files) -> None:
    certificate, key = (Path(file).read_bytes() for file in files.authority.issue("a.test", stem="late", days=-1))
    now = {**files.before, files.a[0]: certificate, files.a[1]: key}
    taken, why = settled(files.config, files.before, now)
    assert taken == files.before
    assert {each.split("expired")[0] for each in why.values()} == {f"{files.a[0]}: the certificate has "}
    assert why.keys() == {*files.a}
    assert looked_at_again(why, files.before, now) == expiry(decoded(files.before[files.a[0]]))


def test_where_none_is_valid_the_newer_one_is_taken(files: Files) -> None:
    pairs = [files.authority.issue("a.test", stem=stem, days=-1) for stem in ("late", "later")]
    old, new = ({**files.before, **dict(zip(files.a, contents(pair), strict=True))} for pair in pairs)
    assert settled(files.config, old, new) == (new, {})


def test_a_certificate_for_other_names_is_told(files: Files) -> None:
    now = {**files.before, files.a[0]: contents(files.authority.issue("other.test", "b.test"))[0]}
    why = f"{files.a[0]}: the new certificate lacks names of the previous one: a.test"
    assert renamed(files.config, files.before, now) == {files.a[0]: why}


@pytest.mark.parametrize("names", [["a.test"], ["more.test", "a.test"], ["*.test"]])
def test_a_certificate_that_is_for_the_same_names_too_is_not_told(files: Files, names: list[str]) -> None:
    now = {**files.before, files.a[0]: contents(files.authority.issue(*names, stem="other"))[0]}
    assert renamed(files.config, files.before, now) == {}


def contents(pair: tuple[str, str]) -> list[bytes]:
    return [Path(file).read_bytes() for file in pair]


@pytest.mark.parametrize("half", [0, 1])
def test_half_a_renewal_waits_for_the_other_and_nobody_for_it(files: Files, half: int) -> None:
    pair = files.renewed("new")
    now = {**files.before, files.a[half]: pair[half], OTHER: b"new"}
    taken, why = settled(files.config, files.before, now)
    assert taken == {**files.before, OTHER: b"new"}
    assert dict.fromkeys(files.a, f"{files.a[1]}: the private key does not match the certificate") == why


@pytest.mark.parametrize(("which", "wrong"), [("ca", "certificate"), ("crl", "certificate revocation list (CRL)")])
def test_what_verifies_clients_stays_too(files: Files, which: str, wrong: str) -> None:
    """Else nobody would be let in, or whoever was revoked."""
    file = files.authority.ca if which == "ca" else files.crl
    taken, why = settled(files.config, files.before, {**files.before, file: b"nothing"})
    assert taken == files.before
    assert why == {file: f"{file}: it contains no valid {wrong}"}


def test_what_was_broken_before_is_not_told_again(files: Files) -> None:
    """It is in force, and was looked at when it was taken."""
    before = {**files.before, files.a[0]: b"broken"}
    assert settled(files.config, before, {**before, OTHER: b"new"}) == ({**before, OTHER: b"new"}, {})


def test_each_is_told_with_its_names_and_its_end(files: Files) -> None:
    a, b = certificate_infos(files.config, files.before, {files.b[0]: "what is wrong"})
    assert (a.listener, a.certificate, a.names, a.problem) == ("public", files.a[0], ["a.test"], "")
    assert b.problem == "what is wrong"
    assert a.expires_date > 1.7e9


def test_what_verifies_clients_is_told_with_its_end_and_why_newer_contents_are_not_in_force(files: Files) -> None:
    taken, why = settled(files.config, files.before, {**files.before, files.crl: b"nothing"})
    authority, revocations = verifiers(files.config, taken, why)
    assert (authority.listener, authority.kind, authority.file, authority.problem) == (
        "public",
        "ca",
        files.authority.ca,
        "",
    )
    assert (revocations.kind, revocations.file) == ("crl", files.crl)
    assert "no valid certificate revocation list" in revocations.problem
    for each, load in ((authority, load_pem_x509_certificate), (revocations, load_pem_x509_crl)):
        parsed = load(files.before[each.file])
        ends = parsed.not_valid_after_utc if isinstance(parsed, Certificate) else parsed.next_update_utc
        assert ends is not None
        assert each.expires_date == ends.timestamp()


def test_a_key_in_the_place_of_a_certificate_is_told(files: Files) -> None:
    certificate, key = (files.before[file] for file in files.a)
    swapped = pair_problem(key, certificate)
    assert swapped is not None
    assert (swapped.of, swapped.wrong) == ("certificate", authority_problem(key))
    assert swapped.wrong == "it holds a private key: are certificate and key swapped?"
