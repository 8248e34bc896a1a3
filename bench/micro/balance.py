"""Load balancing: selection of one of ten targets by each algorithm, on a node with four workers."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from bench.micro.health import attempt
from bench.micro.timing import Room
from fastgw.config.base.value_types import Trait, parse_url
from fastgw.config.settings.gateway import Sticky as StickySettings
from fastgw.http.http1.parser import parse_request
from fastgw.upstream.load_balancing import Balancer, Member
from fastgw.upstream.load_balancing.hashing import ConsistentHash, address, key_of
from fastgw.upstream.load_balancing.load_tracking import Latencies, Loads
from fastgw.upstream.load_balancing.random_choice import LatencyBalancing, LeastConnections, Random
from fastgw.upstream.load_balancing.round_robin import RoundRobin
from fastgw.upstream.load_balancing.sticky_sessions import Cookies, StickySessions
from fastgw.upstream.targets.attempt_listener import AttemptListener, AttemptRecord
from fastgw.upstream.targets.target import Target

TARGETS = 10
VIEWS = 5
"""Columns of four workers and the supervisor."""
BUSY = 20
"""Requests in flight at each target, in each worker's column."""


def rooms() -> Iterator[Room]:
    members = _members()
    columns = [memoryview(bytearray(8 * (TARGETS + 1))).cast("Q") for _ in range(VIEWS)]
    for column in columns[1:]:
        column[:] = memoryview(b"".join(n.to_bytes(8, "little") for n in [BUSY] * TARGETS + [BUSY * TARGETS])).cast("Q")
    loads = Loads(columns[1], columns, 0, TARGETS)
    latencies = Latencies(loads, 10.0, 1.0)
    for member in members:
        latencies.attempt_answered(attempt(member.target, 0.01, 200))
    cookies = Cookies(StickySettings(cookie="lb"), "users", b"a key of some length")
    turns = RoundRobin(members)
    by_user = key_of(Trait("header", "x-user"))
    balancers: dict[str, Balancer] = {
        "round_robin": turns,
        "random": Random(members),
        "least_connections": LeastConnections(members, loads),
        "latency": LatencyBalancing(members, latencies),
        "ip_hash": ConsistentHash(members, address, turns, loads, None),
        "consistent_hash on a field": ConsistentHash(members, by_user, turns, loads, None),
        "  with bounded loads": ConsistentHash(members, by_user, turns, loads, 1.25),
        "round_robin, sticky": StickySessions(turns, cookies, [member.target for member in members]),
    }
    asked = [_asked(number, cookies, members[number % TARGETS].target) for number in range(1000)]
    for name, balancer in balancers.items():
        for each in asked:  # the owner of a slot is found on first use
            balancer.pick(each)
        yield Room(name, balancer.pick, asked)
    attempts = [attempt(member.target, 0.01, 200) for member in members]
    yield Room("counting an attempt", lambda record: _counted((loads,), record), attempts)
    yield Room("  and how long it took", lambda record: _counted((loads, latencies), record), attempts)
    slots = ConsistentHash(members, address, turns, loads, None)
    yield Room("the owner of a slot", slots._owner, range(1000))


def _members() -> Sequence[Member]:
    members = []
    for slot in range(TARGETS):
        target = Target(parse_url(f"http://users-{slot}:9001"))
        target.slot = slot
        members.append(Member(target, 1 + slot % 3))
    return members


def _asked(number: int, cookies: Cookies, target: Target) -> Any:
    cookie = cookies.line(target, False).partition(b": ")[2].partition(b";")[0]
    lines = b"GET / HTTP/1.1\r\nHost: a\r\nX-User: %d\r\nAccept: */*\r\nCookie: a=b; %b\r\n\r\n" % (number, cookie)
    ip = f"10.0.{number >> 8}.{number & 255}"
    head = parse_request(lines)
    return SimpleNamespace(head=head, current_values=head.values, client_ip=ip, consumer=None)


def _counted(listeners: tuple[AttemptListener, ...], record: AttemptRecord) -> None:
    for listener in listeners:
        listener.attempt_begun(record)
    for listener in listeners:
        listener.attempt_answered(record)
    for listener in listeners:
        listener.attempt_ended(record)
