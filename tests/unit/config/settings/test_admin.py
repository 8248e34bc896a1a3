"""The admin and status listeners: their addresses, who may use them, and TLS."""

import ssl
from pathlib import Path
from string import Template

import pytest
from cryptography.hazmat.primitives import serialization

from fastgw import config
from fastgw.config.base.value_types import Address, parse_address
from fastgw.config.settings.gateway import ClientAuth, ServerCertificate, ServerTls
from tests.support.certificates import Certificates

HEAD = "version: 1\nlisteners: {main: {address: '127.0.0.1:80'}}\n"


def read(folder, text):
    file = folder / "a.yaml"
    file.write_text(HEAD + text + "\n")
    return config.load(str(file), {}).config


def problems(folder, text):
    with pytest.raises(config.ConfigError) as caught:
        read(folder, text)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("admin")
    authority = Certificates(folder)
    certificate, key = authority.issue("admin.test")
    other, _ = authority.issue("other.test")
    encrypted = folder / "encrypted.key"
    secured = serialization.BestAvailableEncryption(b"password")
    encrypted.write_bytes(
        serialization.load_pem_private_key(Path(key).read_bytes(), None).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secured
        )
    )
    return {"ca": authority.ca, "certificate": certificate, "key": key, "other": other, "encrypted": str(encrypted)}


def test_defaults(tmp_path):
    made = read(tmp_path, "")
    assert (str(made.status.address), str(made.admin.address)) == ("127.0.0.1:9902", "127.0.0.1:9901")
    assert (made.admin.token, made.admin.tls) == (None, None)
    assert read(tmp_path, "admin: {address: 'unix:/run/admin'}").admin.address == Address(path="/run/admin")


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.255.0.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/run/admin", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("[::ffff:127.0.0.1]:1", False),
        ("admin.example:1", False),
    ],
)
def test_a_public_address_is_guarded(tmp_path, address, local):
    assert parse_address(address).local is local
    text = f"admin: {{address: '{address}'}}"
    if local:
        assert str(read(tmp_path, text).admin.address)
    else:
        assert problems(tmp_path, text) == [
            f"a.yaml:3:18: admin.address: {parse_address(address)} is reachable from other machines; expected a "
            "`token`, or `tls` with `client_auth: {mode: required, …}`"
        ]
    assert read(tmp_path, text.replace("}", ", token: secret}")).admin.token.value() == "secret"


def test_client_certificates_guard_when_they_are_required(tmp_path, files):
    def text(mode):
        tls = f"certificates: [{{certificate: {files['certificate']}, key: {files['key']}}}], "
        return f"admin: {{address: '0.0.0.0:1', tls: {{{tls} client_auth: {{{mode} ca: {files['ca']}}}}}}}"

    for mode in ("", "mode: required, "):
        assert read(tmp_path, text(mode)).admin.tls == ServerTls(
            certificates=(ServerCertificate(certificate=files["certificate"], key=files["key"]),),
            client_auth=ClientAuth(mode="required", ca=files["ca"]),
        )
    assert len(problems(tmp_path, text("mode: optional, "))) == 1


def test_one_mistake_is_one_line(tmp_path):
    """A token that cannot be had is not missing as well."""
    (told,) = problems(tmp_path, "admin: {address: '0.0.0.0:1', token: {file: none}}")
    assert told.startswith("a.yaml:3:45: admin.token.file: ")
    (told,) = problems(tmp_path, "admin: {address: '0.0.0.0:1', tokn: a}")
    assert told == 'a.yaml:3:31: admin.tokn: unknown key; did you mean "token"?'


@pytest.mark.parametrize(
    ("tls", "told"),
    [
        ("{}", ["3:9: admin.tls.certificates: missing; expected a non-empty list (each element: an object)"]),
        ("{certificates: []}", ["3:29: admin.tls.certificates: an empty list; expected at least one"]),
        (
            "{certificates: [{certificate: $other, key: $key}]}",
            [
                (
                    "3: admin.tls.certificates[0].key: the private key does not match the certificate; expected "
                    "the private key of the certificate"
                )
            ],
        ),
        (
            "{certificates: [{certificate: $certificate, key: $encrypted}]}",
            ["3: admin.tls.certificates[0].key: the key is encrypted; expected a key without a password"],
        ),
        (
            "{certificates: [{certificate: $certificate}, {certificate: none.pem, key: $key}]}",
            [
                "3:30: admin.tls.certificates[0].key: missing; expected the name of a file",
                '3: admin.tls.certificates[1].certificate: "none.pem" cannot be read: No such file or directory; '
                "expected a readable file",
            ],
        ),
        (
            "{certificates: [{certificate: $certificate, key: $key}], min_version: 1.2, client_auth: {ca: $key}}",
            [
                '3: admin.tls.min_version: 1.2 without quotes; expected "1.0", "1.1", "1.2" or "1.3"',
                "3: admin.tls.client_auth.ca: it holds a private key: are certificate and key swapped?; "
                "expected a PEM file",
            ],
        ),
        (
            "{certificates: [{certificate: $certificate, key: $key}], client_auth: {mode: sometimes}}",
            [
                "3: admin.tls.client_auth.ca: missing; expected the name of a file",
                '3: admin.tls.client_auth.mode: "sometimes"; expected "optional" or "required"',
            ],
        ),
    ],
)
def test_tls_that_does_not_work(tmp_path, files, tls, told):
    said = problems(tmp_path, f"admin: {{tls: {Template(tls).substitute(files)}}}")
    for line, expected in zip(said, told, strict=True):
        location, _, rest = line.removeprefix("a.yaml:").partition(": ")
        assert expected in (f"{location}: {rest}", f"3: {rest}")


def test_every_address_is_its_own(tmp_path):
    text = "status: {address: '127.0.0.1:81'}\nadmin: {address: '127.0.0.1:81'}"
    assert problems(tmp_path, text) == [
        "a.yaml:4:18: admin.address: 127.0.0.1:81 is already used by a.yaml:3; expected a unique address"
    ]
    assert problems(tmp_path, "admin: {address: '127.0.0.1:80'}") == [
        "a.yaml:3:18: admin.address: 127.0.0.1:80 is already used by a.yaml:2; expected a unique address"
    ]
    read(tmp_path, "status: {address: '127.0.0.1:9901'}")  # nobody wrote that admin should have it


@pytest.mark.parametrize(
    ("written", "held"), [("0", 0.0), ("0s", 0.0), ("0.0ms", 0.0), ("250ms", 0.25), ("15s", 15.0), ("1m", 60.0)]
)
def test_the_delay_of_a_drain_may_be_none(tmp_path, written, held):
    assert read(tmp_path, f"timeouts: {{drain: {{delay: {written}}}}}").timeouts.drain.delay == held


@pytest.mark.parametrize("written", ["-1", "false", "9000h", "x", "[0s]", "null"])
def test_any_other_delay_is_a_duration(tmp_path, written):
    (told,) = problems(tmp_path, f"timeouts: {{drain: {{delay: {written}}}}}")
    assert told.startswith("a.yaml:3:27: timeouts.drain.delay: ")
    assert told.endswith('expected a duration such as "250ms", "10s" or "5m", or 0')


def test_a_delay_without_a_unit(tmp_path):
    (told,) = problems(tmp_path, "timeouts: {drain: {delay: 5}}")
    assert told == 'a.yaml:3:27: timeouts.drain.delay: 5 has no unit; expected a duration such as "5s"'


def test_the_files_of_the_admin_listener_are_captured(tmp_path, files):
    text = f"admin: {{tls: {{certificates: [{{certificate: {files['certificate']}, key: {files['key']}}}]}}}}"
    file = tmp_path / "a.yaml"
    file.write_text(HEAD + text)
    loaded = config.load(str(file), {})
    assert set(loaded.captured) == {files["certificate"], files["key"]}
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files["certificate"], files["key"])
