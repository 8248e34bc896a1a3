"""Names and their addresses: looked up off the loop, once for all who ask, and again while in use."""

import asyncio
import socket

import pytest

from fastgw.config.values import parse_url
from fastgw.upstream import resolve
from fastgw.upstream.resolve import Address, Name, ResolveFailed
from fastgw.upstream.target import Target
from tests.support.on_loop import on_loop, until

HOUR = 3600.0


def v4(last: int) -> Address:
    return Address(socket.AF_INET, (f"192.0.2.{last}", 80))


def v6(last: int) -> Address:
    return Address(socket.AF_INET6, (f"2001:db8::{last}", 80, 0, 0))


class Resolver:
    """Stands in for the system's: gives `answer`, or raises it, once `open` is set."""

    def __init__(self) -> None:
        self.answer: list[Address] | Exception = []
        self.calls = 0
        self.open = asyncio.Event()
        self.open.set()

    async def look_up(self, host: str, port: int) -> list[Address]:
        self.calls += 1
        await self.open.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def resolver(monkeypatch):
    made = Resolver()
    monkeypatch.setattr(resolve, "look_up", made.look_up)
    return made


@on_loop
async def test_concurrent_first_uses_share_one_lookup(resolver):
    resolver.open.clear()
    resolver.answer = [v4(1)]
    name = Name("users", 80, HOUR)
    waits = [asyncio.create_task(name.addresses()) for _ in range(50)]
    await until(lambda: resolver.calls > 0)
    waits.pop().cancel()  # who leaves does not take the lookup away from the others
    resolver.open.set()
    assert await asyncio.gather(*waits) == [[v4(1)]] * 49
    assert await name.addresses() == [v4(1)]
    assert resolver.calls == 1
    name.stop()


@on_loop
async def test_each_address_is_tried_first_in_turn(resolver):
    resolver.answer = [v4(1), v4(2), v4(3)]
    name = Name("users", 80, HOUR)
    assert [(await name.addresses())[0] for _ in range(6)] == [v4(1), v4(2), v4(3)] * 2
    name.stop()


@on_loop
async def test_families_alternate(resolver):
    """RFC 8305 section 4."""
    resolver.answer = [v6(1), v6(2), v6(3), v4(1)]
    name = Name("users", 80, HOUR)
    assert await name.addresses() == [v6(1), v4(1), v6(2), v6(3)]
    assert await name.addresses() == [v6(2), v4(1), v6(3), v6(1)]
    name.stop()


@on_loop
async def test_an_address_that_did_not_answer_comes_last_until_the_next_lookup(resolver):
    resolver.answer = [v6(1), v4(1), v4(2)]
    name = Name("users", 80, 0.01)
    await name.addresses()
    name.avoid(v6(1))
    assert [(await name.addresses())[-1] for _ in range(6)] == [v6(1)] * 6
    await until(lambda: resolver.calls == 2 and "0 avoided" in repr(name))
    name.stop()


@on_loop
async def test_the_same_address_twice_counts_once(resolver):
    resolver.answer = [v4(1), v4(1), v4(2)]
    name = Name("users", 80, HOUR)
    assert await name.addresses() == [v4(1), v4(2)]
    name.stop()


@on_loop
async def test_a_name_in_use_is_looked_up_again_and_nobody_waits_for_it(resolver):
    resolver.answer = [v4(1)]
    name = Name("users", 80, 0.01)
    await name.addresses()
    assert await name.addresses() == [v4(1)]  # in use
    resolver.open.clear()
    resolver.answer = [v4(2)]
    await until(lambda: resolver.calls == 2)
    assert await name.addresses() == [v4(1)]
    resolver.open.set()
    while await name.addresses() != [v4(2)]:
        await asyncio.sleep(0)
    name.stop()


@on_loop
async def test_a_name_that_nobody_uses_is_left_alone_and_looked_up_at_its_next_use(resolver):
    resolver.answer = [v4(1)]
    name = Name("users", 80, 0.001)
    await name.addresses()
    await until(lambda: "lapsed" in repr(name))
    resolver.answer = [v4(2)]
    calls = resolver.calls
    assert await name.addresses() == [v4(2)]
    assert resolver.calls == calls + 1
    name.stop()


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_AGAIN, "later"), UnicodeError("label too long")])
@on_loop
async def test_the_last_good_addresses_stay_when_a_lookup_fails(resolver, error):
    resolver.answer = [v4(1)]
    name = Name("users", 80, 0.001)
    await name.addresses()
    resolver.answer = error
    while resolver.calls < 4:
        assert await name.addresses() == [v4(1)]
        await asyncio.sleep(0)
    name.stop()


@on_loop
async def test_a_failed_first_lookup_is_not_repeated_at_once(resolver):
    resolver.answer = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    name = Name("users", 80, HOUR)
    for _ in range(100):
        with pytest.raises(ResolveFailed, match=r"users: .*not known"):
            await name.addresses()
    assert resolver.calls == 1
    name.stop()


@on_loop
async def test_a_failed_first_lookup_is_repeated_after_a_while(resolver, monkeypatch):
    monkeypatch.setattr(resolve, "RETRY", 0.01)
    resolver.answer = socket.gaierror(socket.EAI_AGAIN, "later")
    name = Name("users", 80, HOUR)
    with pytest.raises(ResolveFailed):
        await name.addresses()
    resolver.answer = [v4(1)]
    await until(lambda: "lapsed" in repr(name))
    assert await name.addresses() == [v4(1)]
    name.stop()


@on_loop
async def test_it_is_told_when_an_address_has_gone_and_not_when_one_came(resolver):
    told: list[bool] = []
    resolver.answer = [v4(1)]
    name = Name("users", 80, 0.001)
    name.on_change = lambda: told.append(name.has(v4(1)))
    await name.addresses()
    resolver.answer = [v4(2), v4(1)]
    while not name.has(v4(2)):
        await name.addresses()
        await asyncio.sleep(0)
    assert told == []
    resolver.answer = [v4(2)]
    while name.has(v4(1)):
        await name.addresses()
        await asyncio.sleep(0)
    assert told == [False]
    name.stop()


@on_loop
async def test_stop_ends_a_lookup_and_its_waits(resolver):
    resolver.open.clear()
    name = Name("users", 80, HOUR)
    wait = asyncio.create_task(name.addresses())
    await until(lambda: resolver.calls == 1)
    name.stop()
    with pytest.raises(asyncio.CancelledError):
        await wait
    assert asyncio.all_tasks() == {asyncio.current_task()}


@on_loop
async def test_the_system_is_asked_off_the_loop():
    """`localhost` stands in every hosts file; uvloop asks in a thread."""
    name = Name("localhost", 8080, HOUR)
    assert {address.sockaddr[:2] for address in await name.addresses()} <= {("127.0.0.1", 8080), ("::1", 8080)}
    name.stop()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://192.0.2.1:81", Address(socket.AF_INET, ("192.0.2.1", 81))),
        ("https://[2001:db8::1]", Address(socket.AF_INET6, ("2001:db8::1", 443))),
        ("unix:/run/users.sock", Address(socket.AF_UNIX, "/run/users.sock")),
    ],
)
@on_loop
async def test_literal_addresses_and_unix_sockets_are_never_looked_up(resolver, url, address):
    target = Target(parse_url(url))
    assert await target.addresses() == [address]
    target.avoid(address)
    assert await target.addresses() == [address]
    assert target.has(address)
    assert resolver.calls == 0
