"""`https` targets: whom the gateway believes, whom it asks for, and who it says it is."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Certificates, server_tls
from tests.support.client import Response
from tests.support.faults import assert_fault
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.table import for_each

NAME = "inside.test"  # what the target's certificate is for

NO_APPLICATION_PROTOCOL = 120
"""Alert of RFC 7301 section 3.2. Python's servers send none when ALPN fails, so it comes as the answer to SNI."""


class World:
    """One gateway with several upstreams that turn to the same TLS target in different ways."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        elsewhere = directory / "elsewhere"
        elsewhere.mkdir()
        authority, stranger = Certificates(directory), Certificates(elsewhere)
        self.asked: list[str | None] = []
        issued = authority.issue(NAME)
        plain, strict = server_tls(issued), server_tls(issued, clients=authority.ca)
        plain.sni_callback = self._note
        self.origin = stack.enter_context(Origin(tls=plain)).serve()
        self.strict = stack.enter_context(Origin(tls=strict)).serve()
        disagreeing = server_tls(issued)
        disagreeing.sni_callback = lambda *_: NO_APPLICATION_PROTOCOL
        self.disagreeing = stack.enter_context(Origin(tls=disagreeing)).serve()
        alice, bob = (
            dict(zip(("certificate", "key"), authority.issue(name), strict=True)) for name in ("alice", "bob")
        )
        trusting = {"ca": authority.ca, "server_name": NAME}
        upstreams = {
            "verified": (self.origin, trusting),
            "unknown-ca": (self.origin, {"ca": stranger.ca, "server_name": NAME}),
            "system-ca": (self.origin, {"server_name": NAME}),
            "wrong-name": (self.origin, {"ca": authority.ca}),
            "named": (self.origin, {"ca": authority.ca, "subject_alt_names": [f"DNS:{NAME}", "URI:spiffe://a/b"]}),
            "misnamed": (self.origin, {**trusting, "subject_alt_names": ["DNS:other.test", "URI:spiffe://a/b"]}),
            "stranger-named": (self.origin, {"ca": stranger.ca, "subject_alt_names": [f"DNS:{NAME}"]}),
            "unverified": (self.origin, {"verify": False}),
            "alice": (self.strict, {**trusting, **alice}),
            "bob": (self.strict, {**trusting, **bob}),
            "nobody": (self.strict, trusting),
            "disagreeing": (self.disagreeing, trusting),
        }
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": {name: {"targets": [{"url": to.url}], "tls": tls} for name, (to, tls) in upstreams.items()},
            "routes": [{"name": name, "hosts": [f"{name}.test"], "upstream": name} for name in upstreams],
        }
        self.gateway = stack.enter_context(Gateway(config, directory))

    def _note(self, _: ssl.SSLObject | ssl.SSLSocket, name: str | None, __: ssl.SSLContext) -> None:
        self.asked.append(name)

    def ask(self, upstream: str) -> Response:
        with self.gateway.connect() as client:
            return client.exchange(f"GET / HTTP/1.1\r\nHost: {upstream}.test\r\n\r\n".encode())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("tls"), stack)


def test_a_target_of_a_trusted_authority_is_served_and_asked_for_by_name(world: World) -> None:
    """RFC 9110 section 4.3.4, RFC 6066 section 3: `ca` is believed, `server_name` is verified and sent as SNI."""
    assert world.ask("verified").body == b"ok"
    assert NAME in world.asked


def test_a_name_of_the_certificate_may_be_named_in_place_of_the_server_name(world: World) -> None:
    assert world.ask("named").body == b"ok"


@pytest.mark.parametrize("upstream", ["unknown-ca", "system-ca", "wrong-name", "misnamed", "stranger-named"])
def test_a_target_that_cannot_prove_who_it_is_is_not_spoken_to(world: World, upstream: str) -> None:
    """RFC 9110 section 4.3.4: another authority or another name is a 502, and no request is sent."""
    before = len(world.origin.requests)
    assert_fault(world.ask(upstream), "tls_failed")
    assert len(world.origin.requests) == before


def test_verification_may_be_off(world: World) -> None:
    """`tls.verify: false`: any certificate will do."""
    assert world.ask("unverified").body == b"ok"


def test_a_client_certificate_is_shown(world: World) -> None:
    """RFC 8446 section 4.4.2: `certificate` and `key` prove who the gateway is; without them the target refuses."""
    assert world.ask("alice").body == b"ok"
    fault = assert_fault(world.ask("nobody"), "connection_lost", "tls_failed")
    record = world.gateway.wait_for_record(host="nobody.test")
    why = b"tlsv13 alert certificate required"
    # In TLS 1.3 the refusal comes behind the handshake: before the request is sent, or when it is on its way.
    if fault == "connection_lost":
        assert record["fault_detail"] == f"TLS: {why.decode()}"
    else:
        world.gateway.stderr.wait_for(lambda line: b"tls_failed" in line and why in line)


def test_an_alert_that_cpython_does_not_know_is_told(world: World) -> None:
    """RFC 7301 section 3.2: `SSLError.reason` of CPython 3.11 is None for a target that speaks no offered protocol."""
    assert_fault(world.ask("disagreeing"), "tls_failed")
    why = "tlsv1 alert no application protocol"
    assert world.gateway.wait_for_record(host="disagreeing.test")["fault_detail"] == f"TLS: {why}"


def test_connections_of_different_identities_are_never_shared(world: World) -> None:
    """Promise 8: alice's connection lies idle in the pool, and bob gets one of his own."""
    for upstream in ("alice", "bob", "alice", "bob"):
        assert world.ask(upstream).body == b"ok"
    certificates = [connection.sock.getpeercert() for connection in world.strict.connections]  # type: ignore[attr-defined]
    names = [each["subjectAltName"][0][1] for each in certificates]
    assert sorted(names) == ["alice", "bob"]


def test_a_plain_target_behind_https_is_a_502(tmp_path: Path) -> None:
    """RFC 9209 section 2.3: a target that does not speak TLS is told from one that refuses connections."""
    with Origin() as origin:
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": {
                "plain": {"targets": [{"url": origin.url.replace("http:", "https:")}], "retries": {"max": 0}}
            },
            "routes": [{"name": "all", "upstream": "plain"}],
        }
        with Gateway(config, tmp_path) as gateway, gateway.connect() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
            upstream = origin.accept()
            upstream.read_exactly(5)
            upstream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            upstream.shutdown_write()
            assert_fault(client.read_response(), "tls_failed")


@for_each("alert", [40, 49, 80, 112])  # handshake_failure, access_denied, internal_error (Go), unrecognized_name
def test_a_client_cannot_eject_targets_by_hosts_that_they_refuse(tmp_path: Path, alert: int) -> None:
    """With `server_name: host_header` clients choose the name of the handshake."""
    authority = Certificates(tmp_path)

    def refuse(_: object, name: str | None, __: ssl.SSLContext) -> int | None:
        return None if name == NAME else alert

    tls = server_tls(authority.issue(NAME))
    tls.sni_callback = refuse
    with contextlib.ExitStack() as stack:
        origins = [stack.enter_context(Origin(tls=tls)).serve() for _ in range(2)]
        upstream = {
            "targets": [origin.url for origin in origins],
            "tls": {"ca": authority.ca, "server_name": "host_header"},
            "health_checks": {"passive": {"failures": 1, "eject": "60s", "max_ejected": "100%"}},
            "load_balancing": {"panic_threshold": "0%"},
        }
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": {"names": upstream},
            "routes": [{"name": "all", "upstream": "names"}],
        }
        gateway = stack.enter_context(Gateway(config, tmp_path))

        def ask(host: str) -> Response:
            with gateway.connect() as client:
                return client.exchange(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

        assert [ask(NAME).status for _ in origins] == [200, 200]
        for number in range(6):
            assert_fault(ask(f"{number}.test"), "misdirected")
        assert [ask(NAME).status for _ in range(6)] == [200] * 6
        assert [len(origin.requests) for origin in origins] == [4, 4]
