"""hmac: HTTP Message Signatures (RFC 9421), made by the library as a client would."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from http_message_signatures import ContentDigest, HTTPMessageSigner, HTTPSignatureKeyResolver

from fastgw.config import ConfigError
from fastgw.consumers.credentials import signature_algorithms
from fastgw.consumers.index import index_of
from tests.support.memory import Plane, Wire
from tests.support.secrecy import explained, reported
from tests.support.table import for_each
from tests.unit.consumers.test_index import of

SECRET = "a-secret-of-alice-0123456789"
SHARED = SECRET.encode()
BINARY = bytes(range(200, 232))
MISMATCH = "the signature does not match"
COMPONENTS = ("@method", "@authority", "@path", "@query")
PRIVATE: dict[str, Any] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "ecdsa-p256-sha256": ec.generate_private_key(ec.SECP256R1()),
    "ecdsa-p384-sha384": ec.generate_private_key(ec.SECP384R1()),
    "rsa-pss-sha512": rsa.generate_private_key(65537, 2048),
}


def public(algorithm: str) -> str:
    pem: bytes = PRIVATE[algorithm].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


CONSUMERS = [
    {
        "name": "alice",
        "hmac": [
            {"key_id": "alice-1", "key": SECRET},
            {"key_id": "alice-2", "key": b64encode(BINARY).decode(), "encoding": "base64"},
            *({"key_id": name, "algorithm": name, "key": public(name)} for name in PRIVATE),
        ],
    },
    {"name": "bob", "hmac": [{"key_id": "bob", "key": "a-secret-of-bob-0123456789"}]},
]


class Keys(HTTPSignatureKeyResolver):
    def __init__(self, key: Any) -> None:
        self._key = key

    def resolve_private_key(self, key_id: str) -> Any:
        return self._key


class AnyDigest(ContentDigest):
    """Signs whatever stands there."""

    @classmethod
    def prepare(cls, headers: Any, body: bytes | None, *, use_existing_digest: bool) -> None: ...


class Request:
    """As the library signs it."""

    def __init__(self, method: str, target: str, headers: Mapping[str, str]) -> None:
        self.method, self.url, self.headers = method, f"http://a.test{target}", dict(headers)


def signed(
    target: str = "/a?x=1",
    method: str = "GET",
    key_id: str = "alice-1",
    key: Any = SHARED,
    algorithm: str = "hmac-sha256",
    headers: Mapping[str, str] | None = None,
    age: float = 0,
    covered: Sequence[str] = COMPONENTS,
    body: bytes | None = None,
    **more: Any,
) -> list[str]:
    """The field lines of a request that is signed so."""
    request = Request(method, target, headers or {})
    signer = HTTPMessageSigner(signature_algorithm=signature_algorithms()[algorithm], key_resolver=Keys(key))
    signer.content_digest_class = AnyDigest if headers else ContentDigest
    created = datetime.now(UTC) - timedelta(seconds=age)
    signer.sign(request, key_id=key_id, created=created, covered_component_ids=covered, body=body, **more)
    return [f"{name}: {value}" for name, value in request.headers.items()]


def plane_of(settings: Mapping[str, Any] | None = None, consumers: Any = CONSUMERS, **more: Any) -> Plane:
    route = {"name": "all", "upstream": "u", "filters": {"hmac": settings or {}}}
    headers = {"headers": {"request": {"set": {"X-Consumer": "{consumer.name}"}}}}
    return Plane({"routes": [route], "filters": headers, "consumers": consumers, **more})


def computed(values: Mapping[str, str], parameters: str = "") -> list[str]:
    """The signature header lines, computed by hand from the values of components: the library refuses some URLs."""
    names = " ".join(name if name.startswith('"') else f'"{name}"' for name in values)
    signed_parameters = f'({names});created={int(datetime.now(UTC).timestamp())};keyid="alice-1"{parameters}'
    lines = [
        f"{name if name.startswith(chr(34)) else chr(34) + name + chr(34)}: {value}" for name, value in values.items()
    ]
    base = "\n".join([*lines, f'"@signature-params": {signed_parameters}'])
    signature = b64encode(hmac.digest(SHARED, base.encode(), "sha256")).decode()
    return [f"Signature-Input: sig={signed_parameters}", f"Signature: sig=:{signature}:"]


def asked(plane: Plane, lines: Sequence[str], target: str = "/a?x=1", method: str = "GET", body: bytes = b"") -> Wire:
    client = plane.client()
    client.sends("\r\n".join([f"{method} {target} HTTP/1.1", "Host: a.test", *lines, "", ""]).encode() + body)
    return client


def passed(plane: Plane, lines: Sequence[str], *asking: Any, **more: Any) -> str:
    """The name of the consumer, as the upstream gets it."""
    client = asked(plane, lines, *asking, **more)
    assert not client.received, client.received
    return plane.connects().received.decode().partition("X-Consumer: ")[2].partition("\r\n")[0]


def refused(plane: Plane, lines: Sequence[str], *asking: Any, **more: Any) -> str:
    """Why, as the log has it."""
    received = asked(plane, lines, *asking, **more).received.decode()
    assert received.startswith("HTTP/1.1 401 ")
    assert '\r\nWWW-Authenticate: Signature realm="fastgw"\r\n' in received
    assert "\r\nAccept-Signature: sig=(" in received
    assert not plane.pool.waiting
    return plane.records[-1].fault_detail


def test_a_shared_secret_signs() -> None:
    plane = plane_of()
    for _ in ("found", "remembered"):
        assert passed(plane, signed()) == "alice"
        assert passed(plane, signed(key_id="bob", key=b"a-secret-of-bob-0123456789")) == "bob"
        assert passed(plane, signed(key_id="alice-2", key=BINARY)) == "alice"
        assert passed(plane, signed(covered=("@target-uri", *COMPONENTS), include_alg=False)) == "alice"


@pytest.mark.parametrize("algorithm", PRIVATE)
def test_a_private_key_signs(algorithm: str) -> None:
    plane = plane_of()
    for _ in ("found", "remembered"):
        assert passed(plane, signed(key_id=algorithm, key=PRIVATE[algorithm], algorithm=algorithm)) == "alice"
    assert refused(plane, signed(key_id=algorithm))  # with another key of hers, and another algorithm
    lines = signed(target="/b?x=1", key_id=algorithm, key=PRIVATE[algorithm], algorithm=algorithm)
    assert refused(plane, lines) == MISMATCH


def test_a_signature_of_more_covers_what_is_needed() -> None:
    headers = {"X-Tenant": "t1", "Date": "Tue, 20 Apr 2021 02:07:55 GMT"}
    lines = signed(headers=headers, covered=(*COMPONENTS, "x-tenant", "date"))
    assert passed(plane_of({"components": ["@path", "x-tenant"]}), lines) == "alice"
    lines = signed(headers=headers, covered=(*COMPONENTS, "date"))
    assert "x-tenant" in refused(plane_of({"components": ["@path", "x-tenant"]}), lines)


@pytest.mark.parametrize("twin", ["X_Amount", "x.amount", "X+Amount"])
def test_nothing_stands_beside_a_signed_field_that_could_be_taken_for_it(twin: str) -> None:
    """To CGI and its heirs both are `HTTP_X_AMOUNT`."""
    plane, lines = plane_of(), signed(headers={"X-Amount": "1"}, covered=(*COMPONENTS, "x-amount"))
    assert passed(plane, [*lines, "X_Other: 1"]) == "alice"
    assert "another character in place of a hyphen" in refused(plane, [*lines, f"{twin}: 1000"])
    assert "another character in place of a hyphen" in refused(plane, [f"{twin}: 1000", *lines])


def test_there_is_no_signature() -> None:
    plane = plane_of()
    received = asked(plane, ["Authorization: Signature keyId=x"]).received.decode()
    assert "urn:fastgw:fault:credentials_missing" in received
    wanted = 'Accept-Signature: sig=("@method" "@authority" "@path" "@query");created;keyid\r\n'
    assert wanted in received


def changed(lines: list[str], old: str, new: str) -> list[str]:
    assert any(old in line for line in lines), lines
    return [line.replace(old, new) for line in lines]


def not_ours() -> dict[str, Any]:
    """Signed now: what is older than `max_age` is refused for that alone."""
    return {
        "another path": (signed(target="/b?x=1"), MISMATCH),
        "another query": (signed(target="/a?x=2"), MISMATCH),
        "another method": (signed(method="POST"), MISMATCH),
        "someone else's secret": (signed(key=b"a-secret-of-bob-0123456789"), MISMATCH),
        "someone else's name": (signed(key_id="bob"), MISMATCH),
        "an unknown key": (signed(key_id="nobody"), "the keyid is unknown"),
        "a consumer's name": (signed(key_id="alice"), "the keyid is unknown"),
        "too old": (signed(age=310), "age exceeds"),
        "of the future": (signed(age=-60), "in the future"),
        "expired": (signed(age=60, expires=datetime.now(UTC) - timedelta(seconds=30)), "in the past"),
        "nothing covered": (signed(covered=()), "was not covered"),
        "too little covered": (signed(covered=("@method", "@authority", "@path")), '"@query" was not covered'),
        "another algorithm": (changed(signed(), "hmac-sha256", "ed25519"), "Unexpected algorithm"),
        "an unknown parameter": (changed(signed(), ";keyid", ";more=1;keyid"), "InvalidSignature"),
        "no signature": (signed()[:1], "different labels"),
        "nothing but a signature": (signed()[1:], "there are no signatures"),
        "a signature cut off": (changed(signed(), "Signature: pyhms=:", "Signature: pyhms=:AAAA"), MISMATCH),
        "not structured": (["Signature-Input: ((", "Signature: x"], "Signature-Input is malformed"),
        "not a list": (['Signature-Input: pyhms="a";keyid="alice-1"', "Signature: pyhms=:AA==:"], "InvalidSignature"),
        "a signature twice": ([*signed(), signed()[1]], "used twice"),
        "an input twice": ([*signed(), signed()[0]], "used twice"),
        "too long": (["Signature-Input: " + "a" * 9000, "Signature: x"], "too long"),
        "not text": (["Signature-Input: sig=(\xfc)", "Signature: sig=:AA==:"], "Signature-Input is malformed"),
        "a number for a key": (
            ["Signature-Input: pyhms=();keyid=1", "Signature: pyhms=:AA==:"],
            "the keyid is unknown",
        ),
    }


@for_each("case", not_ours())
def test_what_is_not_signed_so_is_refused(case: str) -> None:
    lines, why = not_ours()[case]
    told = refused(plane_of(), lines)
    assert why in told
    assert SECRET not in told


def test_without_a_time_nothing_is_believed() -> None:
    lines = signed()
    created = lines[0].partition("created=")[2].partition(";")[0]
    assert "created" in refused(plane_of(), changed(lines, f";created={created}", ""))


@pytest.mark.parametrize(("age", "settings"), [(100, {"max_age": "1m"}), (5, {"max_age": "1s", "clock_skew": 0})])
def test_how_old_a_signature_may_be(age: int, settings: Mapping[str, Any]) -> None:
    assert "age exceeds" in refused(plane_of(settings), signed(age=age))
    assert passed(plane_of({"max_age": "1h"}), signed(age=age)) == "alice"


def test_of_several_signatures_ours_is_told_by_its_tag() -> None:
    ours, theirs = (signed(tag=tag, label=tag) for tag in ("ours", "theirs"))
    both = [f"{one}, {other.partition(': ')[2]}" for one, other in zip(theirs, ours, strict=True)]
    tagged = plane_of({"tag": "ours"})
    assert passed(tagged, both) == "alice"
    assert passed(tagged, ours) == "alice"
    assert "no signatures with the expected tag" in refused(tagged, theirs)
    assert "no signatures with the expected tag" in refused(tagged, signed())
    assert "2 signatures with the expected tag" in refused(plane_of(), both)
    assert b';tag="ours"\r\n' in asked(tagged, []).received


def test_signatures_of_other_parties_are_not_verified() -> None:
    plane, ours = plane_of({"tag": "ours"}), signed(tag="ours")
    for theirs in (
        ('x=("@method");created=1.5;keyid="zz";tag="theirs"', "x=:AAAA:"),
        ('x=("@method");created="soon";tag=1', "x=:AAAA:"),
        ("x=?1", "x=1"),
        ("x=(), x=()", "x=:AAAA:, x=:BBBB:"),
        ("x=()", "y=:AAAA:"),
    ):
        both = [f"{line}, {other}" for line, other in zip(ours, theirs, strict=True)]
        assert passed(plane, both) == "alice", theirs
    assert "used twice" in refused(plane, [*ours, "Signature: pyhms=:AAAA:"])
    assert "used twice" in refused(plane, ["Signature-Input: pyhms=()", *ours])
    assert "different labels" in refused(plane_of(), [*signed(), "Signature: x=:AAAA:"])


def test_a_signature_covers_the_signature_of_another_party() -> None:
    """RFC 9421 section 4.3: the component is that of the request, with all signatures."""
    theirs = "theirs=:AAAA:"
    values = {"@method": "GET", "@authority": "a.test", "@path": "/a", "@query": "?x=1"}
    values['"signature";key="theirs"'] = ":AAAA:"
    lines = [*computed(values, ';tag="ours"'), 'Signature-Input: theirs=("@method")', f"Signature: {theirs}"]
    plane = plane_of({"tag": "ours"})
    assert passed(plane, lines) == "alice"
    assert refused(plane, changed(lines, theirs, "theirs=:BBBB:")) == MISMATCH


@pytest.mark.parametrize("character", "[]{}|^`")
def test_characters_that_clients_do_not_encode(character: str) -> None:
    plane = plane_of()
    path, query = f"/a{character}b", f"x{character}=1"
    values = {"@method": "GET", "@authority": "a.test", "@path": path, "@query": f"?{query}"}
    lines = computed(values | {"@target-uri": f"http://a.test{path}?{query}", "@request-target": f"{path}?{query}"})
    assert passed(plane, lines, f"{path}?{query}") == "alice"
    assert refused(plane, lines, f"/a{character}?{query}") == MISMATCH
    assert refused(plane, lines, f"{path}?{query}{character}") == MISMATCH
    parts = plane_of({"components": ["@method"]})
    assert passed(parts, computed({"@method": "GET"}), f"{path}?{query}") == "alice"


def test_a_query_parameter_is_signed() -> None:
    plane = plane_of({"components": ["@method"]})
    lines = computed({"@method": "GET", '"@query-param";name="a%5Bb%5D"': "x%20y%2B%7E"})
    for query in ("a[b]=x+y%2b~&c={1}", "c=1&a%5bb%5d=x%20y%2B%7e"):
        assert passed(plane, lines, f"/?{query}") == "alice"
    assert refused(plane, lines, "/?a[b]=x") == MISMATCH
    assert "has 2 values" in refused(plane, lines, "/?a[b]=x+y%2b~&a[b]=1")
    assert "has no values" in refused(plane, lines, "/?b=1")
    assert "not encoded" in refused(plane, lines, "/?a[b]=x+y%2b~&c=%f")
    assert "not UTF-8" in refused(plane, lines, "/?a[b]=x+y%2b~&c=%fe")


@pytest.mark.parametrize(
    ("host", "authority"),
    [("a.test:80", "a.test"), ("a.test:443", "a.test:443"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")],
)
def test_the_default_port_is_no_part_of_the_authority(host: str, authority: str) -> None:
    lines = computed({"@method": "GET", "@authority": authority, "@path": "/a", "@query": "?"})
    client = plane_of().client()
    client.sends("\r\n".join(["GET /a HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode())
    assert not client.received


def test_options_of_the_whole_server() -> None:
    values = {"@method": "OPTIONS", "@authority": "a.test", "@path": "/", "@query": "?", "@target-uri": "http://a.test"}
    route = {"name": "all", "respond": {"status": 204}, "filters": {"hmac": {}}}
    client = asked(Plane({"routes": [route], "consumers": CONSUMERS}), computed(values), "*", "OPTIONS")
    assert b"credentials" not in client.received


def test_without_a_host_there_is_no_authority() -> None:
    lines = computed({"@method": "GET", "@authority": "", "@path": "/a", "@query": "?"})
    plane = plane_of()
    client = plane.client()
    client.sends("\r\n".join(["GET /a HTTP/1.0", *lines, "", ""]).encode())
    assert b" 401 " in client.received
    assert "has no Host" in plane.records[-1].fault_detail


# --- behind a proxy ---

TRUSTED = {"main": {"address": "127.0.0.1:0", "trusted_proxies": ["10.0.0.0/8"]}}


def status_behind(plane: Plane, lines: Sequence[str], ip: str = "10.0.0.1") -> str:
    """The reason of a refusal; "": passed."""
    client = plane.client(ip)
    client.sends("\r\n".join(["GET /a HTTP/1.1", "Host: a.test", *lines, "", ""]).encode())
    if client.received:
        return plane.records[-1].fault_detail
    plane.connects()
    return ""


@pytest.mark.parametrize("component", [("@scheme", "https"), ("@target-uri", "https://a.test/a")])
def test_a_trusted_proxy_tells_the_scheme(component: tuple[str, str]) -> None:
    plane = plane_of({"components": [component[0]]}, listeners=TRUSTED)
    lines = computed(dict([component]))
    by_https = [*lines, "X-Forwarded-Proto: https"]
    assert not status_behind(plane, by_https)
    assert status_behind(plane, lines) == MISMATCH
    assert status_behind(plane, by_https, "192.0.2.1") == MISMATCH  # anyone can send it


@pytest.mark.parametrize("component", [("@authority", "shop.test"), ("@target-uri", "https://shop.test/a")])
def test_a_trusted_proxy_tells_the_host_if_it_is_believed(component: tuple[str, str]) -> None:
    lines = [*computed(dict([component])), "X-Forwarded-Proto: https", "X-Forwarded-Host: shop.test"]
    plane = plane_of({"components": [component[0]], "forwarded_host": True}, listeners=TRUSTED)
    assert not status_behind(plane, lines)
    assert status_behind(plane, lines, "192.0.2.1") == MISMATCH
    assert status_behind(plane, changed(lines, "-Host: shop.test", "-Host: b.test")) == MISMATCH
    # A proxy may forward the header of its client: a signature for one host would be valid for this one.
    assert status_behind(plane_of({"components": [component[0]]}, listeners=TRUSTED), lines) == MISMATCH


def test_what_is_hidden_does_not_reach_the_upstream() -> None:
    for hides in (True, False):
        plane = plane_of({"hide_credentials": hides})
        asked(plane, signed())
        assert (b"signature" in plane.connects().received.lower()) is not hides


@pytest.mark.parametrize("twin", ["Signature_Input", "signature.input"])
def test_another_signature_in_a_twin_of_its_field_is_refused(twin: str) -> None:
    """To CGI and its heirs both are `HTTP_SIGNATURE_INPUT`: the upstream might believe the other."""
    other = f'{twin}: sig=();keyid="mallory"'
    assert "another character in place of a hyphen" in refused(plane_of(), [*signed(), other])
    plane = plane_of({"hide_credentials": True})
    asked(plane, [*signed(), other])
    assert b"mallory" not in plane.connects().received


def test_a_key_that_is_withdrawn_is_refused_at_once() -> None:
    plane = plane_of()
    passed(plane, signed())
    plane.gateway.stock.roster.use_index(index_of([of("alice")], {}))
    assert asked(plane, signed()).received.startswith(b"HTTP/1.1 401 ")


# --- bodies ---

BODY = b'{"amount": 100}'


def posted(body: bytes = BODY, **more: Any) -> list[str]:
    return [f"Content-Length: {len(body)}", *signed(method="POST", body=body, **more)]


def test_a_body_is_what_was_signed() -> None:
    plane = plane_of()
    client = asked(plane, posted(), method="POST", body=BODY)
    assert not client.received
    assert plane.connects().received.endswith(b"\r\n\r\n" + BODY)


def test_the_last_piece_waits_for_the_judgement() -> None:
    plane = plane_of()
    client = asked(plane, posted(), method="POST", body=BODY[:5])
    upstream = plane.connects()
    client.sends(BODY[5:-1])
    assert upstream.received.endswith(BODY[:-1])
    client.sends(b"!")
    assert upstream.received.endswith(BODY[:-1])
    assert upstream.lost
    assert client.received.startswith(b"HTTP/1.1 401 ")
    assert b"WWW-Authenticate: Signature" in client.received
    assert plane.records[-1].fault_detail == "the body does not match Content-Digest"


@pytest.mark.parametrize("pieces", [1, 2, len(BODY)])
def test_another_body_is_refused(pieces: int) -> None:
    plane = plane_of()
    other = BODY.replace(b"100", b"999")
    client = asked(plane, posted(), method="POST")
    step = -(-len(other) // pieces)
    for at in range(0, len(other), step):
        client.sends(other[at : at + step])
        if plane.pool.waiting:
            plane.connects()
    assert client.received.startswith(b"HTTP/1.1 401 ")
    plane.assert_quiet()


def test_another_body_that_comes_with_the_head_reaches_nobody() -> None:
    plane = plane_of()
    refused(plane, posted(), method="POST", body=BODY.replace(b"100", b"999"))


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "Content-Digest: sha-256=:AAAA:",
        "Content-Digest: md5=:rL0Y20zC+Fzt72VPzMSk2A==:",
        "Content-Digest: nonsense((",
        "Content-Digest: sha-256=1",
        f"Content-Digest: sha-256=:{b64encode(hashlib.sha256(BODY).digest()).decode()}:",
    ],
)
def test_a_body_needs_a_digest_that_is_signed(digest: str) -> None:
    lines = [f"Content-Length: {len(BODY)}", *signed(method="POST"), *([digest] if digest else [])]
    assert "content-digest" in refused(plane_of(), lines, method="POST", body=BODY).lower()


@pytest.mark.parametrize("value", ["md5=:rL0Y20zC+Fzt72VPzMSk2A==:", "nonsense((", "sha-256=1"])
def test_a_digest_that_says_nothing_is_refused(value: str) -> None:
    lines = signed(
        method="POST",
        headers={"Content-Digest": value},
        covered=(*COMPONENTS, "content-digest"),
        use_existing_digest=True,
    )
    told = refused(plane_of(), [f"Content-Length: {len(BODY)}", *lines], method="POST", body=BODY)
    assert "Content-Digest" in told


def test_a_digest_by_sha_512() -> None:
    value = f"sha-512=:{b64encode(hashlib.sha512(BODY).digest()).decode()}:"
    lines = signed(
        method="POST",
        headers={"Content-Digest": value},
        covered=(*COMPONENTS, "content-digest"),
        use_existing_digest=True,
    )
    client = asked(plane_of(), [f"Content-Length: {len(BODY)}", *lines], method="POST", body=BODY)
    assert not client.received


def test_a_digest_without_a_body_is_that_of_nothing() -> None:
    plane = plane_of()
    assert passed(plane, signed(body=b"")) == "alice"
    assert "empty body" in refused(plane, signed(body=BODY))


def test_an_empty_body_of_no_known_length_is_judged_as_none() -> None:
    plane, chunked = plane_of(), "Transfer-Encoding: chunked"
    for lines in (signed(method="POST"), signed(method="POST", body=b"")):
        assert passed(plane, [chunked, *lines], method="POST", body=b"0\r\n\r\n") == "alice"
    other = [chunked, *signed(method="POST", body=BODY)]
    assert "empty body" in refused(plane, other, method="POST", body=b"0\r\n\r\n")


def test_a_body_of_no_known_length_cannot_be_judged() -> None:
    lines = ["Transfer-Encoding: chunked", *signed(method="POST", body=BODY)]
    plane = plane_of()
    client = asked(plane, lines, method="POST", body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
    assert client.received.startswith(b"HTTP/1.1 411 ")
    plane.assert_quiet()


CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n"
OTHER = BODY.replace(b"100", b"999")


@pytest.mark.parametrize("authenticated_by", ["hmac", "auth"])
def test_a_digest_that_is_signed_is_verified_also_if_none_is_required(authenticated_by: str) -> None:
    single = {"hmac": {"body": False}}
    filters = single if authenticated_by == "hmac" else {"auth": {"any_of": [single, {"key_auth": {}}]}}
    route = {"name": "all", "upstream": "u", "filters": filters}

    def plane() -> Plane:
        return Plane({"routes": [route], "consumers": CONSUMERS})

    why = "the body does not match Content-Digest"
    chunked = ["Transfer-Encoding: chunked", *signed(method="POST", body=BODY)]
    for lines, is_chunked in ((posted(), False), (chunked, True)):
        assert not asked(
            plane(), lines, method="POST", body=CHUNKED % (len(BODY), BODY) if is_chunked else BODY
        ).received
        known = plane()
        client = asked(known, lines, method="POST", body=CHUNKED % (len(OTHER), OTHER) if is_chunked else OTHER)
        assert client.received.startswith(b"HTTP/1.1 401 ")
        assert known.records[-1].fault_detail == why
        known.assert_quiet()
    unsigned = ["Transfer-Encoding: chunked", *signed(method="POST")]
    assert not asked(plane(), unsigned, method="POST", body=CHUNKED % (1, b"x")).received


def test_another_body_of_no_known_length_does_not_reach_its_end() -> None:
    plane = plane_of({"body": False})
    lines = ["Transfer-Encoding: chunked", *signed(method="POST", body=BODY)]
    client = asked(plane, lines, method="POST", body=b"%x\r\n%b\r\n" % (len(OTHER), OTHER))
    upstream = plane.connects()
    assert upstream.received.endswith(OTHER + b"\r\n")
    client.sends(b"0\r\n\r\n")
    assert upstream.received.endswith(OTHER + b"\r\n")
    assert upstream.lost
    assert client.received.startswith(b"HTTP/1.1 401 ")


def test_a_body_of_no_known_length_that_turns_out_empty_is_verified() -> None:
    plane = plane_of({"body": False})
    client = asked(plane, ["Transfer-Encoding: chunked", *signed(method="POST", body=BODY)], method="POST")
    client.sends(b"0\r\n\r\n")
    assert client.received.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("algorithm", ["sha-256", "sha-512"])
def test_a_member_of_the_digest_is_signed(algorithm: str) -> None:
    """Only that member is verified: others could have been changed with the body."""
    digests = {name: hashlib.new(name.replace("-", ""), BODY).digest() for name in ("sha-256", "sha-512")}
    value = f":{b64encode(digests[algorithm]).decode()}:"
    lines = computed({"@method": "POST", f'"content-digest";key="{algorithm}"': value})
    settings = {"components": ["@method"], "body": False}
    for body, status in ((BODY, b""), (OTHER, b"HTTP/1.1 401 ")):
        changed_digests = digests | {
            name: hashlib.new(name.replace("-", ""), body).digest() for name in digests if name != algorithm
        }
        header = ", ".join(f"{name}=:{b64encode(each).decode()}:" for name, each in changed_digests.items())
        fields = [f"Content-Length: {len(body)}", f"Content-Digest: {header}", *lines]
        client = asked(plane_of(settings), fields, method="POST", body=body)
        assert client.received[:13] == status


def test_a_signed_digest_that_cannot_be_verified_is_refused() -> None:
    value = "md5=:rL0Y20zC+Fzt72VPzMSk2A==:"
    lines = computed({"@method": "POST", "content-digest": value})
    fields = [f"Content-Length: {len(BODY)}", f"Content-Digest: {value}", *lines]
    settings = {"components": ["@method"], "body": False}
    assert "neither SHA-256" in refused(plane_of(settings), fields, method="POST", body=BODY)


# --- settings and secrecy ---


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ({"key_id": "k", "key": "too-short"}, "a secret shorter than 16 bytes"),
        ({"key_id": "k", "key": "!" * 30, "encoding": "base64"}, "not base64"),
        ({"key_id": "k", "key": SECRET, "algorithm": "ed25519"}, "not a PEM public key for ed25519"),
        (
            {"key_id": "k", "key": public("ed25519"), "algorithm": "rsa-pss-sha512"},
            ("not a PEM public key for rsa-pss-sha512"),
        ),
        (
            {"key_id": "k", "key": public("ecdsa-p384-sha384"), "algorithm": "ecdsa-p256-sha256"},
            "not a PEM public key for ecdsa-p256-sha256",
        ),
        ({"key_id": "", "key": SECRET}, "key_id"),
        ({"key_id": "bob", "key": SECRET}, "the key_id is already used at "),
    ],
)
def test_keys_that_are_none_are_refused_without_being_shown(key: Mapping[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        plane_of(consumers=[CONSUMERS[1], {"name": "x", "hmac": [key]}])
    assert told in str(error.value)
    assert key["key"] not in str(error.value)


def test_a_private_key_is_no_public_key() -> None:
    private = PRIVATE["ed25519"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(ConfigError, match="not a PEM public key for ed25519"):
        plane_of(consumers=[{"name": "x", "hmac": [{"key_id": "k", "key": private, "algorithm": "ed25519"}]}])


@pytest.mark.parametrize("name", ["@status", "@nothing", "Date", "x y", "", '"a"'])
def test_components_that_no_request_has(name: str) -> None:
    with pytest.raises(ConfigError, match="component"):
        plane_of({"components": [name]})


def test_no_secret_is_told_to_anybody(caplog: pytest.LogCaptureFixture) -> None:
    plane = plane_of()
    lines = signed()
    asked(plane, lines)
    plane.connects()
    for case in not_ours().values():
        asked(plane, case[0])
    told = reported(plane.records, plane.gateway) + caplog.text + repr(plane.config) + repr(plane.gateway.index)
    told += explained(plane.gateway, "http://a.test/a?x=1", *lines)
    signature = lines[1].partition("=:")[2].rstrip(":")
    assert "alice" in told
    assert not [secret for secret in (SECRET, signature) if secret in told]
