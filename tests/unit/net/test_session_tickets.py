"""TLS contexts of listeners: whose tickets are good where, and for how long."""

from __future__ import annotations

import contextlib
import ssl
import time
from pathlib import Path

import pytest

from fastgw.config.settings.gateway import ClientAuth, ServerCertificate, ServerTls
from fastgw.downstream.tls.contexts import ServerContexts, server_contexts, server_identity
from fastgw.net import openssl, session_tickets
from fastgw.net.session_tickets import DAY_S, TicketKeySeeds
from fastgw.routing.table import at_once
from tests.support.certificates import Certificates, client_tls

NOON = 20_000 * DAY_S + DAY_S / 2
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(params=[True, False], ids=["keys are set", "keys cannot be set"])
def reached(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param:
        assert openssl.verify()
    else:
        monkeypatch.setattr(openssl, "_library", None)
    return bool(request.param)


@pytest.fixture
def authority(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the time is said to be."""
    now = [NOON]
    monkeypatch.setattr("fastgw.downstream.tls.contexts.time", lambda: now[0])
    return now


def settings(authority: Certificates, stem: str = "", **more: object) -> ServerTls:
    certificate, key = authority.issue("a.test", stem=stem)
    return ServerTls(certificates=(ServerCertificate(certificate=certificate, key=key),), **more)  # type: ignore[arg-type]


def contexts(tls: ServerTls, name: str = "public") -> ServerContexts:
    return at_once(server_contexts(name, tls))


class Shaken:
    """A handshake in memory, and a byte from the server, behind which the tickets are."""

    def __init__(self, server: ServerContexts, client: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        asking = client.wrap_bio(to_client, to_server, server_hostname="a.test", session=session)
        with contextlib.suppress(ssl.SSLWantReadError):
            asking.do_handshake()
        hello = to_server.read()
        answering = server.entry(hello).wrap_bio(incoming := ssl.MemoryBIO(), to_client, server_side=True)
        incoming.write(hello)
        sides = [answering, asking]
        while sides:
            side = sides.pop(0)
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                sides.append(side)
            incoming.write(to_server.read())
        answering.write(b".")
        assert asking.read(1) == b"."
        self.resumed = asking.session_reused
        self.session = asking.session
        shown = asking.getpeercert(binary_form=True)
        assert shown is not None
        self.shown = shown


def one_version(authority: Certificates, version: ssl.TLSVersion) -> ssl.SSLContext:
    client = client_tls(authority)
    client.minimum_version = client.maximum_version = version
    return client


def test_seeds_agree_on_every_day_and_forget() -> None:
    """Whoever knew the same seed agrees, however often and late it is asked."""
    one = TicketKeySeeds.generate(NOON)
    other = TicketKeySeeds(one.day, one.today, one.before)
    assert not one.advance(NOON + 3600)
    for day in (1, 2, 3):
        assert one.advance(NOON + day * DAY_S)
    before_last = other.keys(b"p")
    assert other.advance(NOON + 3 * DAY_S)
    assert one == other
    assert one.keys(b"p") == other.keys(b"p")
    assert one.keys(b"p")[0] != one.keys(b"q")[0]
    assert not {*before_last} & {*one.keys(b"p")}
    assert not one.advance(NOON), "a clock that is put back changes nothing"
    assert one == other


def test_the_keys_of_today_are_those_before_tomorrow() -> None:
    seeds = TicketKeySeeds.generate(NOON)
    today, _ = seeds.keys(b"p")
    seeds.advance(NOON + DAY_S)
    assert seeds.keys(b"p")[1] == today
    assert len(today) == openssl.KEY_BYTES


def test_secrets_do_not_show_in_a_repr() -> None:
    seeds = TicketKeySeeds.generate(NOON)
    assert repr(seeds) == f"TicketKeySeeds(day={seeds.day})"


@pytest.mark.parametrize("version", VERSIONS)
def test_tickets_are_good_in_contexts_made_apart_for_two_days(
    authority: Certificates, clock: list[float], version: ssl.TLSVersion
) -> None:
    """As in two workers, one of which was born later and has another certificate by then."""
    assert openssl.verify()
    seeds = TicketKeySeeds.generate(NOON)
    one, other = contexts(settings(authority, "one")), contexts(settings(authority, "other"))
    one.use_keys(TicketKeySeeds(seeds.day, seeds.today, seeds.before))
    other.use_keys(seeds)
    client = one_version(authority, version)
    first = Shaken(one, client)
    assert not first.resumed
    assert Shaken(other, client, first.session).resumed
    clock[0] = NOON + DAY_S
    assert Shaken(other, client, first.session).resumed, "under the keys of the day before"
    fresh = Shaken(other, client)
    assert Shaken(one, client, fresh.session).resumed, "under today's"
    clock[0] = NOON + 2 * DAY_S
    assert not Shaken(other, client, first.session).resumed
    assert Shaken(other, client, fresh.session).resumed


@pytest.mark.parametrize("version", VERSIONS)
def test_tickets_outlive_a_new_certificate(
    authority: Certificates, reached: bool, clock: list[float], version: ssl.TLSVersion
) -> None:
    """Also where keys cannot be set: then the context lives on with another certificate in it."""
    seeds = TicketKeySeeds.generate(NOON)
    before = contexts(settings(authority, "before"))
    before.use_keys(seeds)
    client = one_version(authority, version)
    old = Shaken(before, client)
    after = contexts(settings(authority, "after"))
    after.take_over_from(before)
    after.use_keys(seeds)
    new = Shaken(after, client)
    assert new.shown != old.shown
    assert not new.resumed
    assert Shaken(after, client, old.session).resumed


def test_a_ticket_ends_with_what_verified_its_client(
    authority: Certificates, reached: bool, clock: list[float]
) -> None:
    """Another revocation list, or another authority: who was believed once has to show it again."""
    alice = authority.issue("alice.example")
    mallory = authority.issue("mallory.example")
    seeds = TicketKeySeeds.generate(NOON)
    client = client_tls(authority, alice)
    tls = settings(authority, client_auth=ClientAuth(ca=authority.ca, crl=authority.revoke()))
    before = contexts(tls)
    before.use_keys(seeds)
    shown = Shaken(before, client)
    stricter = contexts(
        ServerTls(
            certificates=tls.certificates, client_auth=ClientAuth(ca=authority.ca, crl=authority.revoke(mallory[0]))
        )
    )
    stricter.take_over_from(before)
    stricter.use_keys(seeds)
    assert not Shaken(stricter, client, shown.session).resumed


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("ending", ["authority", "list", "list beside the authority"])
def test_a_ticket_ends_when_what_verified_its_client_is_out_of_date(
    authority: Certificates,
    reached: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    ending: str,
    version: ssl.TLSVersion,
) -> None:
    """OpenSSL verifies nothing where a session is resumed. Its client shakes hands in full, and is judged by today."""
    now = [time.time()]
    monkeypatch.setattr("fastgw.downstream.tls.contexts.time", lambda: now[0])
    crl = authority.revoke(days=0.5) if ending == "list" else None
    both = tmp_path / "both.pem"
    both.write_bytes(Path(authority.ca).read_bytes() + Path(authority.revoke(days=0.5)).read_bytes())
    ca = authority.ca if ending != "list beside the authority" else str(both)
    tls = settings(authority, client_auth=ClientAuth(ca=ca, crl=crl))
    seeds = TicketKeySeeds.generate(now[0])
    one, other = contexts(tls), contexts(tls)
    client = one_version(authority, version)
    client.load_cert_chain(*authority.issue("alice.example", days=9))
    for each in (one, other):
        each.use_keys(TicketKeySeeds(seeds.day, seeds.today, seeds.before))
    day = DAY_S if ending == "authority" else DAY_S / 2
    now[0] += day - 60
    first = Shaken(one, client)
    if reached:
        assert Shaken(other, client, first.session).resumed
    assert Shaken(one, client, first.session).resumed
    now[0] += 120
    later = contexts(tls)
    later.take_over_from(one)
    later.use_keys(TicketKeySeeds(seeds.day, seeds.today, seeds.before))
    for each in (one, other, later):
        assert not Shaken(each, client, first.session).resumed
    again = Shaken(later, client)
    assert Shaken(later, client, again.session).resumed, "which was given to who was verified since"
    for each in (one, other):
        assert Shaken(each, client, again.session).resumed is reached, "in all workers alike"
        assert Shaken(each, client, Shaken(each, client).session).resumed is reached


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["optional", "required"])
def test_a_ticket_of_a_certificate_that_has_expired_is_ignored(
    authority: Certificates, reached: bool, monkeypatch: pytest.MonkeyPatch, mode: str, version: ssl.TLSVersion
) -> None:
    """Its client shakes hands in full with the certificate that it has by then, and gets a ticket for that one."""
    now = [time.time()]
    monkeypatch.setattr("fastgw.downstream.tls.contexts.time", lambda: now[0])
    monkeypatch.setattr("fastgw.net.openssl.time", lambda: now[0])
    auth = ClientAuth(ca=authority.ca, mode=mode)  # type: ignore[arg-type]
    server = contexts(settings(authority, client_auth=auth))
    server.use_keys(TicketKeySeeds.generate(now[0]))
    client = one_version(authority, version)
    client.load_cert_chain(*authority.issue("alice.example", stem="old", days=0.1))
    first = Shaken(server, client)
    assert Shaken(server, client, first.session).resumed
    client.load_cert_chain(*authority.issue("alice.example", stem="new", days=1))
    now[0] += 0.1 * DAY_S - 60
    assert Shaken(server, client, first.session).resumed, "until the end of the old one"
    now[0] += 120
    server.forget_sessions()  # as connections do where OpenSSL cannot be reached
    again = Shaken(server, client, first.session)
    assert not again.resumed
    assert Shaken(server, client, again.session).resumed


@pytest.mark.parametrize("version", VERSIONS)
def test_sessions_of_clients_without_a_certificate_are_resumed(
    authority: Certificates, reached: bool, version: ssl.TLSVersion
) -> None:
    server = contexts(settings(authority, client_auth=ClientAuth(ca=authority.ca, mode="optional")))
    client = one_version(authority, version)
    assert Shaken(server, client, Shaken(server, client).session).resumed


def test_tickets_of_others_are_replaced(authority: Certificates) -> None:
    """One that OpenSSL cannot read is answered with one that it can."""
    assert openssl.verify()
    auth = ClientAuth(ca=authority.ca)
    client = client_tls(authority, authority.issue("alice.example"))
    one, other = (contexts(settings(authority, client_auth=auth)) for _ in range(2))
    again = Shaken(other, client, Shaken(one, client).session)
    assert not again.resumed
    assert Shaken(other, client, again.session).resumed


def test_equal_files_and_settings_are_the_same_contexts(authority: Certificates) -> None:
    tls = settings(authority)
    identity = server_identity("public", tls, {})
    assert server_identity("public", tls, {}) == identity
    assert server_identity("other", tls, {}) != identity
    (pair,) = tls.certificates
    held = {pair.certificate: Path(pair.certificate).read_bytes(), pair.key: b"another"}
    assert server_identity("public", tls, held) != identity


def test_what_the_child_finds_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that does otherwise, or crashes the child, leaves contexts as Python makes them."""
    with monkeypatch.context() as patched:
        patched.setattr(openssl, "_SET_KEYS", openssl._GET_KEYS)
        assert not openssl.verify()
        assert openssl.describe_tickets().endswith("inherited by fork")
    with monkeypatch.context() as patched:
        patched.setattr(openssl, "_agrees", lambda library: 1 // 0)
        assert not openssl.verify()
    assert openssl.verify()
    assert session_tickets.KEY_BYTES == 80
