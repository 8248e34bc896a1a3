"""What `fastgw check` says of the TLS of listeners, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw.config import ConfigError, load
from fastgw.config.settings.gateway import ServerTls
from tests.support.certificates import Certificates


@pytest.fixture
def authority(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def written(folder: Path, tls: str, routes: str = "") -> str:
    file = folder / "a.yaml"
    text = f"version: 1\nlisteners:\n  l1:\n    address: a:1\n    tls: {tls}\nadmin: null\n{routes}"
    file.write_text(text)
    return str(file)


def problems(folder: Path, tls: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(written(folder, tls), {})
    return [str(each).removeprefix(f"{folder}/") for each in caught.value.problems]


def notes(folder: Path, tls: str, routes: str = "") -> list[str]:
    return [str(each).removeprefix(f"{folder}/") for each in load(written(folder, tls, routes), {}).notes]


def pair(issued: tuple[str, str], more: str = "") -> str:
    certificate, key = (Path(each).name for each in issued)
    return f"{{certificates: [{{certificate: {certificate}, key: {key}}}]{more}}}"


def test_what_is_left_out(tmp_path: Path, authority: Certificates) -> None:
    tls = load(written(tmp_path, pair(authority.issue("a.test"))), {}).config.listeners["l1"].tls
    assert tls is not None
    assert tls == ServerTls(certificates=tls.certificates, profile="intermediate", min_version=None, client_auth=None)
    assert (tls.session_tickets, tls.handshake_timeout) == (True, 10.0)


def test_cipher_suites_without_effect_are_noted(tmp_path: Path, authority: Certificates) -> None:
    issued = authority.issue("a.test")
    ciphers = "ciphers: [ECDHE-ECDSA-AES256-GCM-SHA384]"
    wrong = "l1.tls.ciphers: it has no effect: TLS 1.3, the minimum version here, has its own suites"
    told = notes(tmp_path, pair(issued, f", profile: modern, {ciphers}"))
    assert sum(each.endswith(wrong) for each in told) == 1
    told = notes(tmp_path, pair(issued, f", profile: modern, min_version: '1.2', {ciphers}"))
    assert not any(each.endswith(wrong) for each in told)


def test_problems_of_acme_are_not_told_again_at_each_certificate(tmp_path: Path) -> None:
    file = written(tmp_path, "{certificates: [{acme: {domains: [a.test]}}]}", "acme: {directory: 'https://a/d'}\n")
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert [each.path for each in caught.value.problems] == ["acme.agree", "acme.storage"]


def test_the_files_are_captured(tmp_path: Path, authority: Certificates) -> None:
    certificate, key = authority.issue("a.test")
    more = f", client_auth: {{ca: ca.pem, crl: {Path(authority.revoke()).name}}}"
    captured = load(written(tmp_path, pair((certificate, key), more)), {}).captured
    assert {*captured} == {certificate, key, authority.ca, authority.revoke()}


@pytest.mark.parametrize(
    ("tls", "told"),
    [
        (
            "{certificates: [{certificate: a.yaml, key: a.key}]}",
            "[0].certificate: it contains no valid certificate",
        ),
        ("{certificates: [{certificate: a.pem, key: a.yaml}]}", "[0].key: it contains no valid private key"),
        (
            "{certificates: [{certificate: a.pem, key: b.key}]}",
            "[0].key: the private key does not match the certificate",
        ),
        ("{certificates: [{certificate: a.pem, key: locked.key}]}", "[0].key: the key is encrypted"),
    ],
)
def test_a_pair_that_cannot_be_shown(tmp_path: Path, authority: Certificates, tls: str, told: str) -> None:
    authority.issue("a.test", stem="a")
    authority.issue("b.test", stem="b")
    (tmp_path / "locked.key").write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMA==\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    (line,) = problems(tmp_path, tls)
    assert line.startswith("a.yaml:5:")
    assert f"listeners.l1.tls.certificates{told}" in line
    assert "; expected " in line


@pytest.mark.parametrize(
    ("client_auth", "told"),
    [
        ("{ca: a.key}", "ca: it holds a private key: are certificate and key swapped?; expected a PEM file"),
        (
            "{ca: ca.pem, crl: a.key}",
            "crl: it contains no valid certificate revocation list (CRL); expected a PEM file",
        ),
        (
            "{ca: ca.pem, crl: ca.pem}",
            "crl: it contains no valid certificate revocation list (CRL); expected a PEM file",
        ),
        ("{mode: optional}", "ca: missing; expected the name of a file"),
    ],
)
def test_what_clients_cannot_be_verified_by(
    tmp_path: Path, authority: Certificates, client_auth: str, told: str
) -> None:
    (line,) = problems(tmp_path, pair(authority.issue("a.test", stem="a"), f", client_auth: {client_auth}"))
    assert f"listeners.l1.tls.client_auth.{told}" in line


@pytest.mark.parametrize(
    ("names", "days", "told"),
    [(("a.test",), -1, "the certificate has expired: "), (("a.test",), 3, "the certificate expires soon: ")],
)
def test_certificates_out_of_date_are_noted(
    tmp_path: Path, authority: Certificates, names: tuple[str, ...], days: float, told: str
) -> None:
    """They are shown all the same: an old certificate is better than none."""
    (line,) = notes(tmp_path, pair(authority.issue(*names, stem="a", days=days)))
    assert line.startswith(f"a.yaml:5:27: listeners.l1.tls.certificates[0].certificate: {told}")


def test_a_certificate_that_names_nobody_is_noted(tmp_path: Path, authority: Certificates) -> None:
    (line,) = notes(tmp_path, pair(authority.issue("", stem="a", days=30)))
    assert line.endswith("the certificate has no host name (subjectAltName): clients that verify it reject it")


def test_a_certificate_that_is_never_shown_is_noted(tmp_path: Path, authority: Certificates) -> None:
    """Only beside one with a key of another kind a second one for the same names is of use."""
    issued = [
        authority.issue("a.test", "b.test", stem="a", days=30),
        authority.issue("b.test", "a.test", stem="b", days=30, rsa=True),
        authority.issue("a.test", "b.test", stem="c", days=30),
        authority.issue("b.test", stem="d", days=30),
        authority.issue("b.test", "c.test", stem="e", days=30),
    ]
    listed = ", ".join(f"{{certificate: {certificate}, key: {key}}}" for certificate, key in issued)
    lines = notes(tmp_path, f"{{certificates: [{listed}]}}")
    assert [line.partition("certificates")[2] for line in lines] == [
        f"[{place}].certificate: the certificate is never used: earlier ones cover the same names" for place in (2, 3)
    ]


def test_a_certificate_for_some_names_of_one_with_another_kind_of_key_is_shown(
    tmp_path: Path, authority: Certificates
) -> None:
    issued = [
        authority.issue("a.test", "b.test", stem="a", days=30),
        authority.issue("b.test", stem="b", days=30, rsa=True),
        authority.issue("a.test", "c.test", stem="c", days=30, rsa=True),
    ]
    listed = ", ".join(f"{{certificate: {certificate}, key: {key}}}" for certificate, key in issued)
    assert notes(tmp_path, f"{{certificates: [{listed}]}}") == []


@pytest.mark.parametrize(
    ("days", "told"),
    [
        (-1, "crl: a revocation list has expired, clients with certificates of its issuer are rejected: "),
        (0.5, "crl: a revocation list expires soon: "),
    ],
)
def test_what_verifies_clients_and_is_out_of_date_is_noted(
    tmp_path: Path, authority: Certificates, days: float, told: str
) -> None:
    client_auth = f", client_auth: {{ca: {authority.ca}, crl: {authority.revoke(days=days)}}}"
    lines = notes(tmp_path, pair(authority.issue("a.test", stem="a", days=30), client_auth))
    assert any(f"listeners.l1.tls.client_auth.{told}" in line for line in lines)
    assert any("listeners.l1.tls.client_auth.ca: a CA certificate expires soon: " in line for line in lines)


def test_what_is_no_authority_is_noted(tmp_path: Path, authority: Certificates) -> None:
    leaf, _ = authority.issue("client.test", stem="client", days=30)
    shown = authority.issue("a.test", stem="a", days=30)
    told = "it contains no CA certificate: no client certificate can be verified with it"
    lines = notes(tmp_path, pair(shown, f", client_auth: {{ca: {leaf}}}"))
    assert any(f"listeners.l1.tls.client_auth.ca: {told}" in line for line in lines)
    assert not any(told in line for line in notes(tmp_path, pair(shown, f", client_auth: {{ca: {authority.ca}}}")))


def test_hosts_that_no_certificate_is_for_are_noted(tmp_path: Path, authority: Certificates) -> None:
    hosts = '["a.test", "One.wild.test", "x.wild.test", "*.wild.test", "y.x.wild.test", "b.test", "127.0.0.1"]'
    issued = authority.issue("a.test", "*.wild.test", stem="a", days=30)
    lines = notes(tmp_path, pair(issued), f"routes:\n  - {{name: r, hosts: {hosts}, respond: {{}}}}\n")
    assert [line.partition(": ")[2] for line in lines] == [
        'routes[0].hosts[4]: no certificate of listener l1 is for "y.x.wild.test"',
        'routes[0].hosts[5]: no certificate of listener l1 is for "b.test"',
    ]


@pytest.mark.parametrize(
    ("secret", "state", "told"),
    [
        ("a" * 32, False, "acme.shared_secret: there is no `state`, through which certificates are shared; expected"),
        ("a" * 31, True, "acme.shared_secret: the secret is too short; expected a secret of at least 32 characters"),
        ("a" * 32, True, ""),
        (None, True, "note"),
        (None, False, ""),
    ],
)
def test_certificates_are_shared_by_a_secret(tmp_path: Path, secret: str | None, state: bool, told: str) -> None:
    shared = "" if secret is None else f", shared_secret: {secret}"
    more = f"acme: {{directory: 'https://a.test/d', agree: true, storage: {tmp_path}{shared}}}\n"
    file = written(tmp_path, "{certificates: [{acme: {domains: [a.test]}}]}", more)
    if state:
        with open(file, "a", encoding="utf-8") as opened:
            opened.write("state: {url: 'redis://127.0.0.1:1/0'}\n")
    if told in ("", "note"):
        loaded = load(file, {})
        assert loaded.config.acme is not None
        told_of = [str(each) for each in loaded.notes if "`state` to share them through" in str(each)]
        assert len(told_of) == (told == "note")
    else:
        with pytest.raises(ConfigError) as caught:
            load(file, {})
        (problem,) = caught.value.problems
        assert told in str(problem)
        assert "aaaa" not in str(problem)
