"""Names and their addresses: looked up off the loop, once for all who ask, and again while in use."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import uvloop

from fastgw.config.base.value_types import parse_url
from fastgw.upstream.targets import dns
from fastgw.upstream.targets.dns import Name, ResolveFailed, TargetAddress
from fastgw.upstream.targets.target import Target
from tests.support.on_loop import LIMIT_S, on_loop, until

HOUR = 3600.0


def v4(last: int) -> TargetAddress:
    return TargetAddress(socket.AF_INET, (f"192.0.2.{last}", 80))


def v6(last: int) -> TargetAddress:
    return TargetAddress(socket.AF_INET6, (f"2001:db8::{last}", 80, 0, 0))


class Resolver:
    """Stands in for the system's: gives `answer`, or raises it, once `open` is set."""

    def __init__(self) -> None:
        self.answer: list[TargetAddress] | Exception = []
        self.calls = 0
        self.open = asyncio.Event()
        self.open.set()

    async def look_up(self, host: str, port: int) -> list[TargetAddress]:
        self.calls += 1
        await self.open.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def resolver(monkeypatch):
    made = Resolver()
    monkeypatch.setattr(dns, "look_up", made.look_up)
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


@pytest.mark.parametrize(("interval", "after_failure"), [(HOUR, dns.RETRY), (0.25, 0.25)])
@on_loop
async def test_a_name_is_looked_up_again_after_its_interval_or_soon_after_a_failure(
    resolver, monkeypatch, interval, after_failure
):
    waits: list[float] = []

    class Loop:
        create_task = staticmethod(asyncio.create_task)

        @staticmethod
        def call_later(seconds, callback):
            waits.append(seconds)
            return SimpleNamespace(cancel=lambda: None)

    monkeypatch.setattr(dns, "asyncio", SimpleNamespace(**{**vars(asyncio), "get_running_loop": Loop}))
    resolver.answer = [v4(1)]
    name = Name("users", 80, interval)
    await name.addresses()
    for answer in (socket.gaierror(socket.EAI_AGAIN, "later"), [v4(2)]):
        assert await name.addresses() == [v4(1)]  # in use
        resolver.answer, before = answer, len(waits)
        name._elapsed()
        await until(lambda before=before: len(waits) > before)
    assert waits == [interval, after_failure, interval]
    assert resolver.calls == 3
    name.stop()


async def lapsed(name: Name, seconds: float) -> None:
    """Wait until nobody has looked up the name for this interval."""
    await until(lambda: "lapsed" in repr(name) and time.monotonic() >= name._found_at + seconds)


@on_loop
async def test_a_name_that_nobody_uses_is_left_alone_and_looked_up_before_its_next_use(resolver, monkeypatch):
    """Its addresses may be those of another host by now."""
    monkeypatch.setattr(dns, "LAPSED_WAIT_S", LIMIT_S)
    resolver.answer = [v4(1)]
    name = Name("users", 80, 0.001)
    await name.addresses()
    await lapsed(name, 0.001)
    calls = resolver.calls
    resolver.open.clear()
    resolver.answer = [v4(2)]
    waits = [asyncio.create_task(name.addresses()) for _ in range(3)]
    await until(lambda: resolver.calls == calls + 1)
    waits.pop().cancel()  # who leaves does not take the lookup away from the others
    resolver.open.set()
    assert await asyncio.gather(*waits) == [[v4(2)]] * 2
    assert resolver.calls == calls + 1
    name.stop()


@on_loop
async def test_lapsed_addresses_are_used_if_there_are_no_others(resolver, monkeypatch):
    """The lookup fails, or has no answer within some time from its start."""
    resolver.answer = [v4(1)]
    name = Name("users", 80, 0.001)
    await name.addresses()
    await lapsed(name, 0.001)
    resolver.answer = socket.gaierror(socket.EAI_AGAIN, "later")
    assert await name.addresses() == [v4(1)]
    await lapsed(name, 0.001)
    resolver.open.clear()
    monkeypatch.setattr(dns, "LAPSED_WAIT_S", 0.01)
    assert [await name.addresses() for _ in range(3)] == [[v4(1)]] * 3
    resolver.answer = [v4(2)]
    resolver.open.set()
    await until(lambda: name.has(v4(2)))
    name.stop()


@on_loop
async def test_lapsed_addresses_are_used_while_the_caller_has_time_left(resolver, monkeypatch):
    """Its lookup hangs, and the timeout of the connect is shorter than the wait for it."""
    monkeypatch.setattr(dns, "LAPSED_WAIT_S", LIMIT_S)
    resolver.answer = [v4(1)]
    name = Name("users", 80, 0.001)
    await name.addresses()
    await lapsed(name, 0.001)
    resolver.open.clear()
    assert await name.addresses(timeout=0.01) == [v4(1)]
    name.stop()


@on_loop
async def test_lapsed_addresses_are_replaced_by_those_that_another_worker_has_found_since(resolver):
    resolver.answer = [v4(1)]
    name = Name("users", 80, 0.001)
    await name.addresses()
    await lapsed(name, 0.001)
    dns.node_addresses.add("users", [(socket.AF_INET, "192.0.2.2", 0, 0)], time.monotonic())
    resolver.answer = socket.gaierror(socket.EAI_AGAIN, "later")
    assert await name.addresses() == [v4(2)]
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
    monkeypatch.setattr(dns, "RETRY", 0.01)
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
async def test_the_next_name_of_a_host_begins_with_the_addresses_of_the_one_before(resolver):
    """As after a reload, while DNS fails: also on another port."""
    resolver.answer = [v4(1), v6(1)]
    name = Name("users", 80, HOUR)
    await name.addresses()
    name.stop()
    resolver.answer = socket.gaierror(socket.EAI_AGAIN, "later")
    again, other = Name("users", 80, HOUR), Name("users", 81, HOUR)
    assert await again.addresses() == [v4(1), v6(1)]
    await until(lambda: "current" in repr(again))
    assert set(await again.addresses()) == {v4(1), v6(1)}
    assert [address.sockaddr[:2] for address in await other.addresses()] == [("192.0.2.1", 81), ("2001:db8::1", 81)]
    unknown = Name("orders", 80, HOUR)
    with pytest.raises(ResolveFailed):
        await unknown.addresses()
    for each in (again, other, unknown):
        each.stop()


@on_loop
async def test_a_name_that_began_with_known_addresses_follows_its_own_lookup(resolver):
    resolver.answer = [v4(1)]
    before = Name("users", 80, HOUR)
    await before.addresses()
    before.stop()
    resolver.answer = [v4(2)]
    told: list[bool] = []
    name = Name("users", 80, HOUR)
    name.on_change = lambda: told.append(name.has(v4(1)))
    assert await name.addresses() == [v4(1)]
    await until(lambda: name.has(v4(2)))
    assert await name.addresses() == [v4(2)]
    assert told == [False]
    name.stop()


@on_loop
async def test_a_name_does_not_begin_with_addresses_that_were_found_before_its_interval(resolver, monkeypatch):
    """As after a reload, if the name was not in use."""
    monkeypatch.setattr(dns, "LAPSED_WAIT_S", LIMIT_S)
    dns.node_addresses.add("users", [(socket.AF_INET, "192.0.2.1", 0, 0)], time.monotonic() - 2 * HOUR)
    resolver.answer = [v4(2)]
    name = Name("users", 80, HOUR)
    assert await name.addresses() == [v4(2)]
    name.stop()


@on_loop
async def test_a_name_whose_lookup_has_failed_takes_the_addresses_that_another_worker_finds(resolver):
    resolver.answer = socket.gaierror(socket.EAI_AGAIN, "later")
    name = Name("users", 80, HOUR)
    with pytest.raises(ResolveFailed):
        await name.addresses()
    dns.node_addresses.add("users", [(socket.AF_INET, "192.0.2.7", 0, 0)], 1.0)
    assert [address.sockaddr for address in await name.addresses()] == [("192.0.2.7", 80)]
    name.stop()


@on_loop
async def test_names_that_have_timed_out_wait_for_each_other_for_the_time_of_a_slot(system, monkeypatch):
    """An outage of DNS makes all names such ones: those that are answered again do not wait for those that hang."""
    monkeypatch.setattr(dns, "LIMIT", 0.01)
    for name in ("first.hang", "users.hang"):
        with pytest.raises(TimeoutError):
            await dns.look_up(name, 80)
    system.release.set()
    await until(lambda: not dns._unanswered)
    system.release.clear()
    monkeypatch.setattr(dns, "LIMIT", 20.0)
    monkeypatch.setattr(dns, "SLOT_S", 0.01)
    waits = [asyncio.create_task(dns.look_up(name, 80)) for name in ("first.hang", "users.hang")]
    system.asked.clear()
    await until(lambda: system.asked == ["first.hang", "users.hang"])
    system.release.set()
    await asyncio.gather(*waits)


class System:
    """Stands in for `getaddrinfo`: names of `.hang` wait for `release`; others are answered at once."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.release = threading.Event()

    def getaddrinfo(self, host: str, port: int, type: int) -> list[tuple[object, ...]]:
        self.asked.append(host)
        if host.endswith(".hang"):
            assert self.release.wait(20.0)
        return [(socket.AF_INET, type, 6, "", ("192.0.2.1", port))]


@pytest.fixture
def system(monkeypatch) -> Iterator[System]:
    made = System()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    monkeypatch.setattr(dns, "_slots", asyncio.Semaphore(2))
    monkeypatch.setattr(dns, "_timed_out_slots", asyncio.Semaphore(1))
    monkeypatch.setattr(dns, "_timed_out", {})
    monkeypatch.setattr(dns, "SLOT_S", 20.0)
    yield made
    made.release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("lookup of"):
            thread.join()


@on_loop
async def test_names_that_hang_hold_nobody_up(system, monkeypatch):
    """Their lookups fail in time and give their places away; each keeps one thread, however often it is repeated."""
    monkeypatch.setattr(dns, "LIMIT", 0.01)
    for _ in range(3):
        for host in ("a.hang", "b.hang", "c.hang"):
            with pytest.raises(TimeoutError, match=r"timed out after 0\.01 s"):
                await dns.look_up(host, 80)
    assert system.asked == ["a.hang", "b.hang", "c.hang"]
    assert await dns.look_up("users", 80) == [v4(1)]


@on_loop
async def test_a_late_answer_is_that_of_the_next_lookup(system, monkeypatch):
    monkeypatch.setattr(dns, "LIMIT", 0.0)
    with pytest.raises(TimeoutError):
        await dns.look_up("a.hang", 80)
    monkeypatch.setattr(dns, "LIMIT", 20.0)
    again = asyncio.create_task(dns.look_up("a.hang", 80))
    await asyncio.sleep(0)
    system.release.set()
    assert await again == [v4(1)]
    assert system.asked == ["a.hang"]


@on_loop
async def test_names_that_begin_to_hang_delay_others_by_the_time_of_a_slot_only(system, monkeypatch):
    monkeypatch.setattr(dns, "SLOT_S", 0.01)
    waits = [asyncio.create_task(dns.look_up(f"{each}.hang", 80)) for each in range(5)]
    await until(lambda: len(system.asked) == 2)
    assert await dns.look_up("users", 80) == [v4(1)]
    assert not any(wait.done() for wait in waits)
    system.release.set()
    assert await asyncio.gather(*waits) == [[v4(1)]] * 5


@on_loop
async def test_waiting_for_a_lookup_that_hangs_already_delays_nobody(system, monkeypatch):
    monkeypatch.setattr(dns, "LIMIT", 0.0)
    names = [f"{each}.hang" for each in range(2)]
    for name in names:
        with pytest.raises(TimeoutError):
            await dns.look_up(name, 80)
    monkeypatch.setattr(dns, "LIMIT", 20.0)
    waits = [asyncio.create_task(dns.look_up(name, 80)) for name in names]
    await asyncio.sleep(0)
    assert await dns.look_up("users", 80) == [v4(1)]
    assert not any(wait.done() for wait in waits)
    system.release.set()
    assert await asyncio.gather(*waits) == [[v4(1)]] * 2


@on_loop
async def test_names_that_have_timed_out_wait_for_each_other_and_not_before_others(system, monkeypatch):
    """Until one of them is answered: then it is a name like the others."""
    monkeypatch.setattr(dns, "LIMIT", 0.01)
    names = [f"{each}.hang" for each in range(3)]
    for name in names:
        with pytest.raises(TimeoutError):
            await dns.look_up(name, 80)
    system.release.set()
    await until(lambda: not dns._unanswered)
    system.release.clear()
    system.asked.clear()
    monkeypatch.setattr(dns, "LIMIT", 20.0)
    monkeypatch.setattr(dns, "SLOT_S", 20.0)
    waits = [asyncio.create_task(dns.look_up(name, 80)) for name in names]
    await until(lambda: system.asked == names[:1])
    assert await dns.look_up("users", 80) == [v4(1)]
    assert system.asked == [names[0], "users"]
    system.release.set()
    assert await asyncio.gather(*waits) == [[v4(1)]] * 3
    assert not dns._timed_out


@on_loop
async def test_only_so_many_lookups_run_at_once(system):
    waits = [asyncio.create_task(dns.look_up(f"{each}.hang", 80)) for each in range(5)]
    await until(lambda: len(system.asked) == 2)
    assert sum(thread.name.startswith("lookup of") for thread in threading.enumerate()) == 2
    system.release.set()
    assert await asyncio.gather(*waits) == [[v4(1)]] * 5


def test_an_answer_after_the_loop_has_closed_is_let_go(system, caplog):
    async def leave() -> None:
        name = Name("a.hang", 80, HOUR)
        wait = asyncio.create_task(name.addresses())
        await until(lambda: system.asked == ["a.hang"])
        name.stop()
        with pytest.raises(asyncio.CancelledError):
            await wait

    uvloop.run(leave())
    (thread,) = (each for each in threading.enumerate() if each.name == "lookup of a.hang")
    system.release.set()
    thread.join()
    assert not caplog.records
    assert not dns._unanswered


@on_loop
async def test_a_system_without_threads_is_a_failed_lookup(system, monkeypatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    name = Name("users", 80, HOUR)
    with pytest.raises(ResolveFailed, match="users: can't start new thread"):
        await name.addresses()
    assert not dns._unanswered
    name.stop()


LEAVING = """
import asyncio, socket, threading, uvloop
from fastgw.upstream.targets.dns import look_up

asked = threading.Event()

def hang(*args, **named):
    asked.set()
    threading.Event().wait()

async def leave():
    tasks = [asyncio.create_task(look_up(name, 80)) for name in "ab"]
    while not asked.is_set():
        await asyncio.sleep(0)

socket.getaddrinfo = hang
uvloop.run(leave())
print("left")
"""


def test_a_process_ends_while_the_resolver_hangs():
    ended = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=30.0)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("left\n", "", 0)


@on_loop
async def test_the_system_is_asked_off_the_loop():
    """`localhost` stands in every hosts file."""
    name = Name("localhost", 8080, HOUR)
    assert {address.sockaddr[:2] for address in await name.addresses()} <= {("127.0.0.1", 8080), ("::1", 8080)}
    name.stop()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://192.0.2.1:81", TargetAddress(socket.AF_INET, ("192.0.2.1", 81))),
        ("https://[2001:db8::1]", TargetAddress(socket.AF_INET6, ("2001:db8::1", 443))),
        ("unix:/run/users.sock", TargetAddress(socket.AF_UNIX, "/run/users.sock")),
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
