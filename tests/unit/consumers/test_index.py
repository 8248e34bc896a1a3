"""Consumers are found by what they show, and by nothing else."""

from __future__ import annotations

import mmap
from hashlib import sha256
from pathlib import Path

import pytest

from fastgw.config.settings.gateway import Consumer as Settings
from fastgw.config.settings.gateway import ConsumerCertificate, ConsumerKey, ConsumerPassword, ConsumerSubject
from fastgw.config.settings.secrets import Secret
from fastgw.consumers.index import NOBODY, Consumer, Index, Roster, image_of, index_of

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
