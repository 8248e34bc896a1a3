"""Consumers are found by what they show, and by nothing else."""

from __future__ import annotations

import mmap
import time
from hashlib import sha256
from pathlib import Path

import pytest

from fastgw.config.settings.gateway import Consumer as Settings
from fastgw.config.settings.gateway import (
    ConsumerCertificate,
    ConsumerKey,
    ConsumerPassword,
    ConsumerSigningKey,
    ConsumerSubject,
)
from fastgw.config.settings.secrets import Secret
from fastgw.consumers.index import NOBODY, Consumer, Index, Roster, image_of, index_of
from fastgw.filters.authentication.token_policy import consumer_of
from fastgw.sync.revocations import RevocationList, event_of, record_of

CROWD = 5000
KEY = "planted-key-9876"
PASSWORD = "planted-password-1234"


def of(name: str, **marks: object) -> Settings:
    return Settings(name=name, **marks)


ALICE = of(
    "alice",
    groups=("admin", "users"),
    key_auth=(ConsumerKey(key=Secret(text=KEY)), ConsumerKey(key_sha256=sha256(b"other").digest())),
    basic_auth=(ConsumerPassword(username="älice", password=Secret(text=PASSWORD)),),
    jwt=(ConsumerSubject(issuer="https://i", subject="s"),),
    certificates=(
        ConsumerCertificate(subject="CN=alice"),
        ConsumerCertificate(san="DNS:alice"),
        ConsumerCertificate(fingerprint_sha256=sha256(b"cert").digest()),
    ),
)
BOB = of("bob", certificates=(ConsumerCertificate(san="DNS:bob"), ConsumerCertificate(subject="CN=bob")))
FOUND = Consumer("alice", frozenset(("admin", "users")))


def unread(file: str) -> bytes:
    raise AssertionError(f"{file} was read")


def mapped(image: bytes, folder: Path, begins: int) -> Index:
    """Read where it lies in a file, as workers do."""
    file = folder / "image"
    file.write_bytes(b"x" * begins + image)
    with file.open("rb") as open_file:
        return Index(mmap.mmap(open_file.fileno(), 0, prot=mmap.PROT_READ), begins)


@pytest.fixture(params=["bytes", "mapped"])
def roster(request, tmp_path):
    image = image_of([ALICE, BOB], unread)
    return Roster(Index(image) if request.param == "bytes" else mapped(image, tmp_path, 13))


def test_each_mark_finds_its_consumer(roster):
    assert roster.by_name("alice") == FOUND
    assert roster.by_key(sha256(KEY.encode()).digest()) == FOUND
    assert roster.by_key(sha256(b"other").digest()) == FOUND
    assert roster.by_username("älice") == FOUND
    assert roster.by_username("a\u0308lice") == FOUND  # the same in Unicode's form NFD
    assert roster.by_jwt_subject("https://i", "s") == FOUND
    assert roster.by_certificate(subject="CN=alice") == FOUND
    assert roster.by_certificate(sans=["DNS:nobody", "DNS:alice"]) == FOUND
    assert roster.by_certificate(fingerprint=sha256(b"cert").digest()) == FOUND


def test_nothing_else_finds_anybody(roster):
    assert roster.by_name("alice2") is None
    assert roster.by_name("") is None
    assert roster.by_key(KEY.encode()) is None
    assert roster.by_key(b"alice") is None  # a name is no key
    assert roster.by_username("alice") is None
    assert roster.by_jwt_subject("https://", "is") is None  # the same characters, divided otherwise
    assert roster.by_jwt_subject("", "https://is") is None
    assert roster.by_certificate(subject="DNS:alice") is None
    assert roster.by_certificate(sans=["CN=alice"]) is None
    assert roster.by_certificate() is None
    assert roster.by_name("\ud800") is None


def test_a_password_is_that_of_its_username(roster):
    assert roster.by_password("älice", PASSWORD) == FOUND
    for username, password in (
        ("älice", PASSWORD + "x"),
        ("älice", ""),
        ("alice", PASSWORD),
        ("nobody", PASSWORD),
        ("", ""),
        ("älice" + PASSWORD[0], PASSWORD[1:]),
    ):
        assert roster.by_password(username, password) is None


def test_a_certificate_of_two_consumers_is_nobodys_unless_its_fingerprint_says_more(roster):
    both = ["DNS:alice", "DNS:bob"]
    assert roster.by_certificate(sans=both) is None
    assert roster.by_certificate(sans=both, fingerprint=sha256(b"cert").digest()) == FOUND
    assert roster.by_certificate(subject="CN=bob", sans=["DNS:alice"]) == FOUND


def test_nobody_is_found_where_nobody_is_known():
    roster = Roster()
    assert roster.index is NOBODY
    assert roster.by_name("alice") is None
    assert roster.by_key(bytes(32)) is None
    assert roster.by_password("alice", "x") is None
    assert index_of((), {}) is NOBODY


def test_each_of_very_many_is_found():
    crowd = [of(f"c{number}", key_auth=(ConsumerKey(key_sha256=_key(number)),)) for number in range(CROWD)]
    index = index_of(crowd, {})
    roster = Roster(index)
    assert index.count == CROWD
    assert [each.name for each in index.known()] == [each.name for each in crowd]
    for number in range(CROWD):
        found = roster.by_key(_key(number))
        assert found is not None
        assert found.name == f"c{number}"
        assert roster.by_key(_key(number + CROWD)) is None


def test_what_is_known_of_consumers_tells_of_changes_and_no_secret():
    index = index_of([ALICE, BOB], {})
    alice, bob = index.known()
    assert (alice.name, alice.groups, alice.keys, alice.passwords) == ("alice", ("admin", "users"), 2, 1)
    assert (alice.subjects, alice.certificates, bob.keys) == (1, 3, 0)
    same = index_of([ALICE, BOB], {}, index.key)
    assert (same.digest, same.image) == (index.digest, index.image)
    other = of("alice", groups=ALICE.groups, key_auth=ALICE.key_auth, basic_auth=())
    assert index_of([other, BOB], {}, index.key).digest != index.digest
    changed = of("bob", certificates=(BOB.certificates[1], BOB.certificates[0]))
    assert next(index_of([changed], {}, index.key).known()).digest != bob.digest


def test_no_secret_is_in_an_image_or_shown():
    image = image_of([ALICE], unread)
    for secret in (KEY.encode(), PASSWORD.encode(), sha256(KEY.encode()).digest(), sha256(b"other").digest()):
        assert secret not in image
    assert repr(Index(image)) == "<Index of 1 consumers>"
    assert image != image_of([ALICE], unread)  # another key for each


def test_secrets_in_files_are_read_as_they_were_captured():
    consumer = of("a", key_auth=(ConsumerKey(key=Secret(file="/none/key")),))
    roster = Roster(index_of([consumer], {"/none/key": b"from-a-file\n"}))
    assert roster.by_key(sha256(b"from-a-file").digest()) == Consumer("a")


def _key(number: int) -> bytes:
    return sha256(b"%d" % number).digest()


SAME_CREDENTIALS = {
    "key_auth": (ConsumerKey(key=Secret(text=KEY)),),
    "basic_auth": (ConsumerPassword(username="admin", password=Secret(text=PASSWORD)),),
    "jwt": (
        ConsumerSubject(issuer="https://i", subject="s"),
        ConsumerSubject(key=Secret(text="k" * 32), key_id="k", algorithm="HS256"),
    ),
    "hmac": (ConsumerSigningKey(key_id="k", key=Secret(text="k" * 32)),),
    "certificates": (
        ConsumerCertificate(subject="CN=c"),
        ConsumerCertificate(san="DNS:c"),
        ConsumerCertificate(fingerprint_sha256=sha256(b"cert").digest()),
    ),
}


def found_by_all(roster: Roster) -> set[str | None]:
    """Return the names of the consumers that each of these credentials leads to."""
    signer, token_signer = roster.by_key_id("k"), roster.by_token_key("k")
    found = [
        roster.by_key(sha256(KEY.encode()).digest()),
        roster.by_username("admin"),
        roster.by_password("admin", PASSWORD),
        roster.by_jwt_subject("https://i", "s"),
        signer and signer[0],
        token_signer and token_signer[0],
        roster.by_certificate(subject="CN=c"),
        roster.by_certificate(sans=["DNS:c"]),
        roster.by_certificate(fingerprint=sha256(b"cert").digest()),
    ]
    return {each and each.name for each in found}


@pytest.mark.parametrize("all_know", [None, "platform"])
def test_credentials_lead_to_the_consumer_of_their_namespace_or_to_one_that_all_know(all_know):
    """Tenants may have equal credentials: none of them is found, nor its place taken, by another one's filters."""
    known = [of(all_know, **SAME_CREDENTIALS)] if all_know else []
    tenants = [of(f"{name}.alice", namespace=name, **SAME_CREDENTIALS) for name in ("shop", "bank")]
    roster = Roster(index_of([*tenants, *known], {}))
    assert found_by_all(roster.of_namespace("shop")) == {"shop.alice"}
    assert found_by_all(roster.of_namespace("bank")) == {"bank.alice"}
    assert found_by_all(roster.of_namespace("other")) == {all_know}
    assert found_by_all(roster) == {all_know}


def test_a_name_is_that_of_one_consumer_and_only_its_namespace_gets_its_groups():
    shop = of("shop.alice", namespace="shop", groups=("admin",))
    roster = Roster(index_of([shop, ALICE], {}))
    bank = roster.of_namespace("bank")
    assert roster.of_namespace("shop").by_name("shop.alice") == Consumer("shop.alice", frozenset(("admin",)))
    assert (roster.by_name("shop.alice"), bank.by_name("shop.alice")) == (None, None)
    assert bank.is_named("shop.alice")
    assert bank.called("shop.alice") == Consumer("bank.shop.alice")
    assert bank.called("alice") == FOUND
    assert bank.called("guest") == Consumer("guest")
    assert roster.called("shop.alice") == Consumer("shop.alice")


def test_the_roster_of_a_namespace_changes_with_that_of_the_process():
    roster = Roster()
    shop = roster.of_namespace("shop")
    assert roster.of_namespace("shop") is shop
    assert shop.by_name("alice") is None
    stamp = shop.stamp
    roster.use_index(index_of([ALICE], {}))
    assert shop.by_name("alice") == FOUND
    assert shop.index is roster.index
    told = []
    roster.share_revocations(RevocationList(), lambda records, about: told.append(records))
    assert shop.revoked is roster.revoked
    before = roster.stamp
    assert stamp is not shop.stamp is before
    ends = time.time() + 60
    shop.revoke(record_of(bytes(16), ends), event_of("token", ends))
    assert len(told) == 1
    assert before is not roster.stamp is shop.stamp


def test_a_credential_of_another_namespace_changes_the_digest():
    consumer = of("a", namespace="shop", key_auth=ALICE.key_auth)
    index = index_of([consumer], {})
    assert index_of([of("a", namespace="bank", key_auth=ALICE.key_auth)], {}, index.key).digest != index.digest


def test_a_token_does_not_name_its_client_like_a_consumer_of_another_namespace():
    """The issuer that a tenant trusts may say any subject; logs and upstreams would take the one for the other."""
    shop = of("shop.alice", namespace="shop", groups=("admin",))
    roster = Roster(index_of([shop], {}))
    assert consumer_of(roster.of_namespace("bank"), "https://bank", "shop.alice") is None
    assert consumer_of(roster.of_namespace("bank"), "https://bank", "carol") == Consumer("carol")
