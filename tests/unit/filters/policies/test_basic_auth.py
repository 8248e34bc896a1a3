"""basic_auth: RFC 7617, with consumers' passwords and with htpasswd files."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import Any
from unicodedata import normalize

import argon2
import bcrypt
import pytest

from fastgw.consumers.index import index_of
from fastgw.filters.authentication.htpasswd import MOST_OF_ONE, MOST_USERS, MOST_WAITING, Busy, Checking, Htpasswd
from fastgw.filters.policies import basic_auth
from fastgw.filters.policies.basic_auth import UnreadablePasswords, read_credentials
from fastgw.gateway.tables import CompileError
from tests.support.memory import Plane, Wire
from tests.support.on_loop import on_loop
from tests.support.secrecy import explained, reported
from tests.support.table import for_each
from tests.unit.consumers.test_index import PASSWORD, of

CONSUMERS = [
    {"name": "alice", "groups": ["admin"], "basic_auth": [{"username": "älice", "password": PASSWORD}]},
    {"name": "bob", "basic_auth": [{"username": "bob", "password": "a:b:c"}, {"username": "rob", "password": " "}]},
]
CHALLENGE = '\r\nWWW-Authenticate: Basic realm="fastgw", charset="UTF-8"\r\n'
CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def basic(username: str, password: str) -> str:
    return f"Authorization: Basic {b64encode(f'{username}:{password}'.encode()).decode()}"


def plane_of(settings: Mapping[str, Any] | None = None) -> Plane:
    route = {"name": "all", "upstream": "u", "filters": {"basic_auth": settings or {}}}
    headers = {"headers": {"request": {"set": {"X-Consumer": "{consumer.name}"}}}}
    return Plane({"routes": [route], "filters": headers, "consumers": CONSUMERS})


def asked(plane: Plane, *lines: str) -> Wire:
    client = plane.client()
    client.sends("\r\n".join(["GET / HTTP/1.1", "Host: a", *lines, "", ""]).encode())
    return client


def passed(plane: Plane, *lines: str) -> str:
    """The head that the upstream gets."""
    client = asked(plane, *lines)
    assert not client.received, client.received
    return plane.connects().received.decode()


def refused(plane: Plane, *lines: str) -> str:
    received = asked(plane, *lines).received.decode()
    assert received.startswith("HTTP/1.1 401 ")
    assert CHALLENGE in received
    plane.assert_quiet()
    return received


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (basic("älice", PASSWORD), "alice"),
        (basic(normalize("NFD", "älice"), PASSWORD), "alice"),
        (basic("bob", "a:b:c"), "bob"),
        (basic("rob", " "), "bob"),
        (basic("bob", "a:b:c").replace("Basic", "bASIC"), "bob"),
        (basic("bob", "a:b:c").replace("Basic ", "Basic    "), "bob"),
    ],
)
def test_a_username_with_its_password_is_a_consumer(line: str, name: str) -> None:
    plane = plane_of()
    for _ in ("found", "remembered"):
        head = passed(plane, line)
        assert f"\r\nX-Consumer: {name}\r\n" in head
        assert f"\r\n{line}\r\n" in head


@for_each(
    "line",
    [
        basic("älice", PASSWORD + "x"),
        basic("älice", PASSWORD[:-1]),
        basic("älice", PASSWORD.upper()),
        basic("älice", ""),
        basic("", PASSWORD),
        basic("", ""),
        basic("alice", PASSWORD),  # a consumer's name is no username
        basic("Älice", PASSWORD),
        basic("bob", PASSWORD),  # someone else's
        basic("bob", "a:b"),
        basic("bob", "a:b:c\n"),
        basic("bob\0", "a:b:c"),
        basic("b" * 300, "x"),
        basic("bob", "x" * 2000),
        "Authorization: Basic",
        "Authorization: Basic !!!",
        "Authorization: Basic Ym9iOmE6Yjpj=",
        "Authorization: Basic Ym9iOmE6Yjp",
        "Authorization: Basic " + b64encode(b"bob").decode(),
        "Authorization: Basic " + b64encode(b"b\xf6b:x").decode(),
        "Authorization: Basic " + b64encode("bob:a:b:c".encode("utf-16")).decode(),
        "Authorization: Basic cm9iOiA=, Basic cm9iOiA=",
        "Authorization: Basic cm9iOiB=",  # other bits behind the last byte
        "Authorization: Basic cm9i\tOiA=",
    ],
)
def test_what_is_no_consumers_is_refused(line: str) -> None:
    assert "urn:fastgw:fault:credentials_invalid" in refused(plane_of(), line)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Authorization: Bearer abc"],
        ["Authorization: Basically cm9iOiA="],
        ["Proxy-Authorization: Basic cm9iOiA="],
        ["Authorization:"],
        ["Authorization: Bearer a", "Authorization: Bearer b"],
    ],
)
def test_other_credentials_are_none(lines: list[str]) -> None:
    assert "urn:fastgw:fault:credentials_missing" in refused(plane_of(), *lines)


@pytest.mark.parametrize("other", [basic("bob", "a:b:c"), basic("rob", " "), "Authorization: Bearer x"])
def test_two_authorizations_are_refused_be_they_equal(other: str) -> None:
    plane = plane_of()
    passed(plane, basic("bob", "a:b:c"))  # it is remembered
    plane.pool.open.clear()
    received = asked(plane, basic("bob", "a:b:c"), other).received.decode()
    assert "urn:fastgw:fault:credentials_invalid" in received


def test_hidden_passwords_do_not_reach_the_upstream() -> None:
    plane = plane_of({"hide_credentials": True})
    for _ in ("found", "remembered"):
        assert "uthorization" not in passed(plane, basic("bob", "a:b:c"))


def test_a_password_that_changes_counts_at_once() -> None:
    plane = plane_of()
    passed(plane, basic("bob", "a:b:c"))
    plane.gateway.stock.roster.use_index(index_of([of("bob")], {}))
    assert asked(plane, basic("bob", "a:b:c")).received.startswith(b"HTTP/1.1 401 ")


def test_a_realm_of_ones_own() -> None:
    plane = plane_of({"realm": "Staff only"})
    assert b'WWW-Authenticate: Basic realm="Staff only", charset="UTF-8"\r\n' in asked(plane).received
    with pytest.raises(Exception, match="a quote, backslash or other character"):
        plane_of({"realm": 'x"y'})


def test_no_password_is_told_to_anybody(caplog: pytest.LogCaptureFixture) -> None:
    plane = plane_of()
    secrets = [PASSWORD, *(basic(name, PASSWORD).split()[2] for name in ("älice", "nobody"))]
    told = ""
    for name in ("älice", "nobody"):
        told += asked(plane, basic(name, PASSWORD)).received.decode()
        told += explained(plane.gateway, "http://a/", basic(name, PASSWORD))
    plane.connects()
    told += reported(plane.records, plane.gateway) + caplog.text + repr(plane.config)
    assert "credentials_invalid" in told
    assert not [secret for secret in secrets if secret in told]


# --- htpasswd ---


@pytest.fixture
def users(tmp_path: Path) -> Path:
    file = tmp_path / "users"
    lines = ["# staff", f"alice:{hashed(PASSWORD)}", "", f"dora:{CHEAP.hash('dora-1')}", f"ü:{hashed('x')}"]
    file.write_text("\n".join(lines))
    return file


class Asking:
    """A gateway whose users stand in a file, in a running loop."""

    def __init__(self, users: Path, **settings: Any) -> None:
        self.plane = plane_of({"htpasswd": str(users), **settings})
        self.checking: Checking = next(
            kept.value for kept in self._link.keeps if isinstance(getattr(kept, "value", None), Checking)
        )
        assert self._link.hooks.start is not None
        self._link.hooks.start(None)  # type: ignore[arg-type]

    @property
    def _link(self) -> Any:
        (route,) = self.plane.gateway.routes
        assert route.rules[0] is not None
        return next(link for link in route.rules[0][0].route.chain.links if link.use.name == "basic_auth")

    def close(self) -> None:
        assert self._link.hooks.stop is not None
        self._link.hooks.stop()

    async def answer(self, *lines: str) -> str:
        """The status, or the consumer's name that the upstream gets."""
        client = asked(self.plane, *lines)
        while not client.received and not self.plane.pool.waiting:
            await asyncio.sleep(0.001)
            self.plane.settle()
        if client.received:
            return client.received.split()[1].decode()
        head = self.plane.connects().received.decode()
        return head.partition("X-Consumer: ")[2].partition("\r\n")[0]


@on_loop
async def test_users_of_a_file_are_consumers(users: Path) -> None:
    asking = Asking(users)
    try:
        for _ in ("checked", "remembered"):
            assert await asking.answer(basic("alice", PASSWORD)) == "alice"
            assert await asking.answer(basic("dora", "dora-1")) == "dora"
            assert await asking.answer(basic("ü", "x")) == "ü"
            assert await asking.answer(basic("alice", "dora-1")) == "401"
            assert await asking.answer(basic("nobody", PASSWORD)) == "401"
            assert await asking.answer(basic("bob", "a:b:c")) == "401"  # a consumer's password does not count here
            assert await asking.answer(basic("# staff", "")) == "401"
    finally:
        asking.close()


@on_loop
async def test_what_was_right_is_not_checked_again(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = Asking(users)
    try:
        assert await asking.answer(basic("alice", PASSWORD)) == "alice"
        monkeypatch.setattr(Htpasswd, "is_right", None)
        assert "X-Consumer: alice\r\n" in passed(asking.plane, basic("alice", PASSWORD))
        asking.plane.gateway.stock.roster.use_index(index_of([of("alice", groups=("new",))], {}))
        assert "X-Consumer: alice\r\n" in passed(asking.plane, basic("alice", PASSWORD))
    finally:
        asking.close()


@on_loop
async def test_without_remembering_each_is_checked(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = Asking(users, cache_ttl=0)
    try:
        assert await asking.answer(basic("alice", PASSWORD)) == "alice"
        monkeypatch.setattr(Htpasswd, "is_right", lambda *_: False)
        assert await asking.answer(basic("alice", PASSWORD)) == "401"
    finally:
        asking.close()


@on_loop
async def test_a_flood_of_wrong_passwords_is_bounded(users: Path) -> None:
    """It waits for nobody: what is too much is refused at once, and who is known passes."""
    asking = Asking(users)
    gate = Event()
    try:
        assert await asking.answer(basic("alice", PASSWORD)) == "alice"
        blocked = asyncio.create_task(asking.checking.check("192.0.2.1", gate.wait))
        await asyncio.sleep(0)
        for number in range(MOST_OF_ONE):
            asked(asking.plane, basic("alice", f"wrong-{number}"))
        await asyncio.sleep(0)
        assert await asking.answer(basic("alice", "one more")) == "429"
        client = asked(asking.plane, basic("alice", PASSWORD))
        assert not client.received
        assert asking.plane.pool.waiting
    finally:
        gate.set()
        await blocked
        while "0 wait" not in repr(asking.checking):
            await asyncio.sleep(0.001)
        asking.close()


@on_loop
async def test_few_wait_and_few_of_one_address() -> None:
    checking = Checking()
    checking.acquire()
    gate = Event()
    waiting = [asyncio.create_task(checking.check(f"192.0.2.{n // MOST_OF_ONE}", gate.wait)) for n in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(Busy) as own:
        await checking.check("192.0.2.0", gate.wait)
    assert own.value.own
    of_one = [asyncio.create_task(checking.check(f"2001:db8::{n}", gate.wait)) for n in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await checking.check("2001:db8::ffff", gate.wait)  # the same /64
    waiting += of_one + [asyncio.create_task(checking.check(f"10.0.0.{n}", gate.wait)) for n in range(MOST_WAITING - 8)]
    await asyncio.sleep(0)
    with pytest.raises(Busy) as others:
        await checking.check("198.51.100.1", gate.wait)
    assert not others.value.own
    waiting.pop().cancel()  # who leaves makes room
    await asyncio.sleep(0)
    waiting.append(asyncio.create_task(checking.check("198.51.100.1", gate.wait)))
    await asyncio.sleep(0)
    gate.set()
    assert all(await asyncio.gather(*waiting))
    assert repr(checking) == "<Checking: 0 wait>"
    checking.release()


@on_loop
async def test_many_with_one_password_wait_for_one_check(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    real = Htpasswd.is_right

    def counted(htpasswd: Htpasswd, username: str, password: str) -> bool:
        checked.append(username)
        return real(htpasswd, username, password)

    monkeypatch.setattr(Htpasswd, "is_right", counted)
    asking = Asking(users)
    try:
        for _ in range(100):
            asked(asking.plane, basic("alice", PASSWORD))
        while len(asking.plane.pool.waiting) < 100:
            await asyncio.sleep(0.001)
            asking.plane.settle()
        assert checked == ["alice"]
    finally:
        asking.close()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("alice:$apr1$aaaaaaaa$bbbbbbbbbbbbbbbbbbbbbb", "line 2: a hash by MD5"),
        ("alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "line 2: a hash by SHA-1"),
        ("alice:$5$salt$hash", "line 2: a hash by SHA-256-crypt"),
        ("alice:$6$salt$hash", "line 2: a hash by SHA-512-crypt"),
        (f"alice:{PASSWORD}", "line 2: no hash; expected bcrypt"),
        ("alice:", "line 2: no hash"),
        ("alice", "line 2: no colon"),
        (f":{hashed('x')}", "line 2: no username; expected `user:hash`"),
        ("alice:$2y$15$" + "a" * 53, "line 2: a bcrypt hash with a cost above 14"),
        ("alice:$2y$05$" + "a" * 52, "line 2: no hash"),
        ("alice:$2x$05$" + "a" * 53, "line 2: no hash"),
        (
            "alice:$argon2id$v=19$m=99999999,t=3,p=4$aVBI3q3CvXR$Ffy2Ngotu2elM8A0GR4",
            ("line 2: an argon2 hash that takes too much memory or time"),
        ),
        ("alice:$argon2id$nonsense", "line 2: not an argon2 hash"),
        (f"bob:{hashed('x')}", "line 2: a duplicate user"),
    ],
    ids=range(14),  # a hash differs in each process of a run
)
def test_files_that_are_none_are_refused_by_line(tmp_path: Path, line: str, told: str) -> None:
    file = tmp_path / "users"
    file.write_text(f"bob:{hashed('x')}\n{line}\n")
    with pytest.raises(CompileError) as refused:
        plane_of({"htpasswd": str(file)})
    assert f"{file}: {told}" in str(refused.value)
    assert PASSWORD not in str(refused.value)
    assert "$2" not in str(refused.value)


@pytest.mark.parametrize(
    ("lines", "users"),
    [
        (["a:{b}", "c:{b}"], 2),
        (["a:{b}", "", "# b", "c:{b}", "ü:{b}"], 3),
        (["a b:{b}", "c:{a}", "#d:{b}"], 2),
        (["a:{b}  ", "c:{b}\r"], 2),
        (["a:{A}", "b:{b}"], 2),
    ],
)
def test_each_user_of_a_file_counts_however_it_is_written(lines: list[str], users: int) -> None:
    """A file in order at first sight is not looked at line by line; what it means is the same."""
    usual = argon2.PasswordHasher(memory_cost=1024, time_cost=1).hash("x")
    text = "\n".join(line.format(a=CHEAP.hash("x"), b=hashed("x"), A=usual) for line in lines)
    for ending in ("", "\n"):
        htpasswd = Htpasswd((text + ending).encode())
        assert repr(htpasswd) == f"<Htpasswd of {users} users>"
        assert htpasswd.is_right(lines[0].partition(":")[0], "x")


def test_very_many_users_are_too_many() -> None:
    kept = hashed("x")
    assert repr(Htpasswd("\n".join(f"u{n}:{kept}" for n in range(MOST_USERS)).encode()))
    with pytest.raises(ValueError, match="more than 5000 users"):
        Htpasswd("\n".join(f"u{n}:{kept}" for n in range(MOST_USERS + 1)).encode())


def test_an_empty_file_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="it has no user; expected lines of `user:hash`"):
        Htpasswd(b"# nobody\n\n")


def test_an_unknown_user_costs_what_a_known_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same hash each time, so that asking twice tells nothing either."""
    htpasswd = Htpasswd("\n".join(f"u{n}:{hashed('x')}" for n in range(8)).encode())
    kept: list[str] = []
    monkeypatch.setattr("fastgw.filters.authentication.htpasswd._matches", lambda of, password: not kept.append(of))
    assert not htpasswd.is_right("nobody", "x")
    assert not htpasswd.is_right("nobody", "y")
    assert len(kept) == 2
    assert len(set(kept)) == 1
    for number in range(64):
        assert not htpasswd.is_right(f"nobody-{number}", "x")
    assert len(set(kept)) > 4


def test_passwords_longer_than_bcrypt_reads_are_never_cut() -> None:
    htpasswd = Htpasswd(f"a:{hashed('x' * 72)}".encode())
    assert htpasswd.is_right("a", "x" * 72)
    assert not htpasswd.is_right("a", "x" * 73)


@on_loop
async def test_only_the_log_has_the_reason_why_a_password_is_too_long(tmp_path: Path) -> None:
    """Clients get the same answer as for a wrong one, be there such a user or not."""
    users = tmp_path / "users"
    users.write_text(f"alice:{hashed('x' * 72)}\ndora:{CHEAP.hash('x' * 73)}\n")
    asking = Asking(users)
    try:
        answers, reasons = set(), []
        for username, password in [("alice", "x" * 73), ("alice", "y" * 72), ("dora", "y" * 73), ("nobody", "x" * 73)]:
            client = asked(asking.plane, basic(username, password))
            while not client.received:
                await asyncio.sleep(0.001)
                asking.plane.settle()
            answers.add(re.sub(rb"(?m)^(Date: |X-Request-Id: ).*", b"", client.received))
            reasons.append(asking.plane.records[-1].fault_detail)
        assert len(answers) == 1
        assert reasons == [
            "the password has more than 72 bytes, which bcrypt cannot verify",
            *["unknown user or wrong password"] * 3,
        ]
        assert await asking.answer(basic("dora", "x" * 73)) == "dora"
    finally:
        asking.close()


def test_credentials_are_read_in_one_way_only() -> None:
    assert read_credentials(b"Basic " + b64encode(b"a:b:c")) == ("a", "b:c")
    assert read_credentials(b"basic  " + b64encode("ä:ü".encode())) == ("ä", "ü")
    with pytest.raises(UnreadablePasswords):
        read_credentials(b"Basic " + b64encode(b"a" * basic_auth.LONGEST_KEY * 2))
