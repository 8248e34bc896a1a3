"""Which target a request goes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import inf
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.config.base.value_types import Trait, parse_url
from fastgw.config.settings import gateway as config
from fastgw.consumers.index import Consumer
from fastgw.errors import Fault
from fastgw.http.http1.parser import parse_request
from fastgw.upstream.load_balancing import Balancer, Member
from fastgw.upstream.load_balancing import hashing as hashed
from fastgw.upstream.load_balancing.eligible_targets import SlowStart, in_use
from fastgw.upstream.load_balancing.hashing import FEW, SLOTS, ConsistentHash, address, key_of
from fastgw.upstream.load_balancing.load_tracking import Latencies, Loads
from fastgw.upstream.load_balancing.random_choice import LatencyBalancing, LeastConnections, Random
from fastgw.upstream.load_balancing.round_robin import RoundRobin
from fastgw.upstream.targets.target import Target
from fastgw.upstream.upstream import Upstream
from tests.support.attempts import record
from tests.support.table import for_each

WEIGHTS = [(1, 1), (1, 1, 1, 1, 1), (3, 1), (5, 1, 1), (10, 20, 30, 40), (1, 100)]


def members(*weights: float, priorities: Sequence[int] = ()) -> list[Member]:
    made = []
    for index, weight in enumerate(weights):
        target = Target(parse_url(f"http://{chr(ord('a') + index)}:80"))
        target.slot = index
        made.append(Member(target, weight, priorities[index] if priorities else 0))
    return made


def loads_of(count: int, workers: int = 1) -> list[Loads]:
    """What so many workers count together."""
    views = [memoryview(bytearray(8 * (count + 1))).cast("Q") for _ in range(workers)]
    return [Loads(view, views, 0, count) for view in views]


def asked(ip: str = "192.0.2.1", fields: str = "", consumer: str = "") -> Any:
    head = parse_request(f"GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode())
    who = Consumer(consumer) if consumer else None
    return SimpleNamespace(head=head, client_ip=ip, consumer=who, current_values=head.values)


ANY = asked()
"""Somebody's request: most balancers do not look at it."""


def picks(balance: Balancer, count: int) -> str:
    return "".join(target.host for target in picked(balance, count))


def picked(balance: Balancer, count: int) -> Iterator[Target]:
    for _ in range(count):
        target = balance.pick(ANY)
        assert target is not None
        yield target


def critical(freedom: int) -> float:
    """What a chi-square of so many degrees of freedom exceeds once in a million times (Wilson and Hilferty)."""
    return freedom * float(1 - 2 / (9 * freedom) + 4.753 * (2 / (9 * freedom)) ** 0.5) ** 3


def is_distributed(counted: Counter[Target], group: Sequence[Member]) -> bool:
    """Whether these could be draws by the weights."""
    drawn, whole = sum(counted.values()), sum(member.weight for member in group)
    expected = {member.target: drawn * member.weight / whole for member in group}
    assert counted.keys() <= expected.keys()
    chi_square = sum((counted[target] - wanted) ** 2 / wanted for target, wanted in expected.items())
    return chi_square < critical(len(group) - 1)


BALANCERS: dict[str, Callable[[list[Member]], Balancer]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "least_connections": lambda group: LeastConnections(group, Loads()),
    "latency": lambda group: LatencyBalancing(group, equally_fast(group)),
}


def equally_fast(group: Sequence[Member]) -> Latencies:
    latencies = Latencies(Loads(), 10.0, 1.0, lambda: 0.0)
    for member in group:
        latencies.attempt_answered(record(member.target, 0.01, 200))
    return latencies


# --- round_robin ---


@pytest.mark.parametrize(
    ("weights", "order"),
    [
        ((1,), "aaa"),
        ((1, 1), "abab"),
        ((1, 1, 1), "abcabc"),
        ((3, 1), "aabaaaba"),
        ((5, 1, 1), "aaabacaaaabaca"),
        ((2, 4, 2), "abbcabbc"),
    ],
)
def test_a_heavy_target_has_its_turns_between_those_of_the_others(weights: Sequence[int], order: str) -> None:
    assert picks(RoundRobin(members(*weights)), len(order)) == order


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 3))
def test_over_whole_cycles_each_target_has_exactly_its_weight(weights: list[int], cycles: int) -> None:
    group = members(*weights)
    counted = Counter(picked(RoundRobin(group), cycles * sum(weights)))
    assert [counted[member.target] for member in group] == [cycles * weight for weight in weights]


def test_weights_that_are_no_whole_numbers_are_about_kept():
    group = members(1, 0.1, 2.5)
    counted = Counter(picked(RoundRobin(group), 10_000))
    shares = [counted[member.target] / 10_000 for member in group]
    assert shares == pytest.approx([1 / 3.6, 0.1 / 3.6, 2.5 / 3.6], rel=0.03)


def test_who_fails_is_not_first_each_time() -> None:
    """Of two equal targets, one of which fails: half of the requests begin at it, not all."""
    group = members(1, 1)
    one, other = (member.target for member in group)
    balance = RoundRobin(group)
    begun: Counter[Target | None] = Counter()
    for _ in range(20):
        target = balance.pick(ANY)
        begun[target] += 1
        if target is one:
            assert balance.pick(ANY, (target,)) is other
    assert begun == {one: 10, other: 10}


def test_retries_do_not_take_turns_away_for_long():
    """Each first attempt at b fails and goes to another one: a and c share b's load, and nobody runs away."""
    balance = RoundRobin(members(1, 1, 1))
    served: Counter[str] = Counter()
    for _ in range(300):
        target = balance.pick(ANY)
        assert target is not None
        if target.host == "b":
            target = balance.pick(ANY, (target,))
            assert target is not None
        served[target.host] += 1
    assert served["a"] + served["c"] == 300
    assert abs(served["a"] - served["c"]) <= 3


# --- all of them ---


@for_each("weights", WEIGHTS)
@for_each("algorithm", BALANCERS)
def test_requests_are_distributed_by_weight(algorithm: str, weights: Sequence[int]) -> None:
    """Where nothing else tells the targets apart; chi-square, which a good one exceeds once in a million times."""
    group = members(*weights)
    if algorithm == "latency":  # with nothing under way the heavier of two is the cheaper: see the tests of latency
        group = members(*(1 for _ in weights))
    assert is_distributed(Counter(picked(BALANCERS[algorithm](group), 20_000)), group)


@pytest.mark.parametrize("algorithm", [*BALANCERS, "consistent_hash"])
@given(st.lists(st.integers(1, 30), min_size=2, max_size=8), st.integers(0, 9), st.sets(st.integers(0, 7), min_size=1))
def test_a_tried_target_is_not_picked_while_there_is_another(
    algorithm: str, weights: list[int], begun: int, indexes: set[int]
) -> None:
    group = members(*weights)
    balance = {**BALANCERS, "consistent_hash": hashing}[algorithm](group)
    for _ in picked(balance, begun):
        pass
    tried = tuple(member.target for index, member in enumerate(group) if index in indexes)
    target = balance.pick(ANY, tried)
    assert target is not None
    assert target not in tried or len(tried) == len(group)


def test_the_only_target_is_picked_again_although_it_was_tried():
    (only,) = members(2)
    assert RoundRobin([only]).pick(ANY, (only.target,)) is only.target


# --- least_connections ---


def test_under_way_is_what_all_workers_have_under_way():
    here, there = loads_of(2, workers=2)
    group = members(1, 1)
    busy, idle = (member.target for member in group)
    there.attempt_begun(record(busy))
    assert (here.of(busy), here.of(idle), here.of_all()) == (1, 0, 1)
    assert set(picked(LeastConnections(group, here), 50)) == {idle}
    there.attempt_ended(record(busy))
    assert (here.of(busy), here.of_all()) == (0, 0)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_least_connections_fills_targets_by_weight(weights: Sequence[int]) -> None:
    """Requests that do not end: what is under way at a target is as its weight, but for a few."""
    group = members(*weights)
    (loads,) = loads_of(len(group))
    balance = LeastConnections(group, loads)
    for target in picked(balance, 100 * sum(weights)):
        loads.attempt_begun(record(target))
    for member in group:
        assert loads.of(member.target) == pytest.approx(100 * member.weight, rel=0.03, abs=12)


def test_two_different_ones_are_drawn_however_unlike_their_weights_are():
    group = members(1000, 1, 1)
    (loads,) = loads_of(3)
    for _ in range(1000):
        loads.attempt_begun(record(group[0].target))
    loads.attempt_begun(record(group[0].target))
    counted = Counter(picked(LeastConnections(group, loads), 1000))
    assert counted[group[0].target] == 0


# --- latency ---


def test_a_slow_target_is_noticed_with_its_first_answer_and_forgiven_slowly():
    clock = SimpleNamespace(now=100.0)
    group = members(1, 1)
    fast, slow = (member.target for member in group)
    (loads,) = loads_of(2)
    latencies = Latencies(loads, 10.0, 1.0, lambda: clock.now)
    balance = LatencyBalancing(group, latencies)
    for _ in range(20):
        for target in (fast, slow):
            latencies.attempt_answered(record(target, 0.010, 200))
    latencies.attempt_answered(record(slow, 1.0, 200))
    assert {*picked(balance, 100)} == {fast}
    assert latencies.of(slow) == pytest.approx(1.0)
    for seconds in range(60):
        clock.now = 100.0 + seconds
        latencies.attempt_answered(record(fast, 0.010, 200))
    assert latencies.of(slow) == pytest.approx(1.0 * 2.718281828**-5.9)
    assert slow in {*picked(balance, 100)}


@pytest.mark.parametrize("fault", [None, Fault.CONNECTION_LOST])
def test_the_time_that_a_client_takes_for_its_request_is_not_the_targets(fault: Fault | None) -> None:
    latencies = Latencies(loads_of(1)[0], 10.0, 1.0, lambda: 0.0)
    target = members(1)[0].target
    slow = record(target, 30.0, 200)
    slow.sent_at = 28.5
    if fault is None:
        latencies.attempt_answered(slow)
    else:
        latencies.attempt_given_up(slow, fault, "")
    assert latencies.of(target) == 1.5


def test_a_head_before_the_end_of_the_request_counts_from_the_beginning() -> None:
    """As in streams of gRPC, whose outcome is told at their end: no target gets faster by it."""
    latencies = Latencies(loads_of(1)[0], 10.0, 1.0, lambda: 0.0)
    target = members(1)[0].target
    stream = record(target, 0.25, 200)
    stream.sent_at = 60.0
    latencies.attempt_answered(stream)
    assert latencies.of(target) == 0.25


def test_what_is_under_way_makes_a_fast_target_as_dear_as_a_slow_one():
    group = members(1, 1)
    fast, slow = (member.target for member in group)
    (loads,) = loads_of(2)
    latencies = Latencies(loads, 10.0, 1.0, lambda: 0.0)
    latencies.attempt_answered(record(fast, 0.01, 200))
    latencies.attempt_answered(record(slow, 0.04, 200))
    balance = LatencyBalancing(group, latencies)
    for target in picked(balance, 100):
        loads.attempt_begun(record(target))
    assert loads.of(fast) / loads.of(slow) == pytest.approx(4, rel=0.1)


def test_what_is_under_way_at_equally_fast_targets_is_as_their_weights():
    group = members(3, 1)
    (loads,) = loads_of(2)
    latencies = Latencies(loads, 10.0, 1.0, lambda: 0.0)
    for member in group:
        latencies.attempt_answered(record(member.target, 0.01, 200))
    for target in picked(LatencyBalancing(group, latencies), 400):
        loads.attempt_begun(record(target))
    assert loads.of(group[0].target) == pytest.approx(300, abs=3)


def test_a_target_that_has_never_answered_is_asked_by_one_request_at_first():
    group = members(1, 1)
    known, unknown = (member.target for member in group)
    (loads,) = loads_of(2)
    latencies = Latencies(loads, 10.0, 1.0, lambda: 0.0)
    latencies.attempt_answered(record(known, 0.01, 200))
    balance = LatencyBalancing(group, latencies)
    assert {*picked(balance, 20)} == {unknown}
    loads.attempt_begun(record(unknown))
    assert latencies.cost(unknown) == inf
    assert {*picked(balance, 20)} == {known}


@pytest.mark.parametrize("status", [502, 503, 504, None])
def test_failing_fast_is_not_taken_for_being_fast(status: int | None) -> None:
    group = members(1, 1)
    good, bad = (member.target for member in group)
    (loads,) = loads_of(2)
    latencies = Latencies(loads, 10.0, 1.0, lambda: 0.0)
    latencies.attempt_answered(record(good, 0.1, 200))
    if status is None:
        latencies.attempt_given_up(record(bad, 0.001), Fault.CONNECT_REFUSED, "")
    else:
        latencies.attempt_answered(record(bad, 0.001, status))
    assert {*picked(LatencyBalancing(group, latencies), 20)} == {good}


def test_a_client_that_leaves_says_nothing_of_a_target():
    group = members(1)
    (loads,) = loads_of(1)
    latencies = Latencies(loads, 10.0, 1.0, lambda: 0.0)
    latencies.attempt_given_up(record(group[0].target, 3.0), Fault.CLIENT_LEFT, "")
    assert latencies.of(group[0].target) == 0.0


# --- hashes ---


def hashing(
    group: Sequence[Member], loads: Loads | None = None, factor: float | None = None, by: Trait | None = None
) -> ConsistentHash:
    return ConsistentHash(group, key_of(by), RoundRobin(group), loads or Loads(), factor)


CLIENTS = [asked(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}") for number in range(20_000)]


def owners(balance: Balancer) -> list[Target]:
    return [target for client in CLIENTS if (target := balance.pick(client)) is not None]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_clients_are_distributed_by_weight_and_each_goes_where_it_went(weights: Sequence[int]) -> None:
    """As if each client had drawn its target by lot, once."""
    group = members(*weights)
    balance = hashing(group)
    first = owners(balance)
    assert is_distributed(Counter(first), group)
    assert owners(balance) == owners(hashing(list(reversed(group)))) == first  # nothing depends on their order


@pytest.mark.parametrize("weights", [(1, 1, 1, 1, 1), (1, 2, 3, 4)])
def test_a_target_that_goes_moves_its_own_share_alone_and_to_all_others(weights: Sequence[int]) -> None:
    group = members(*weights)
    before = owners(hashing(group))
    for gone in group:
        rest = [member for member in group if member is not gone]
        after = owners(hashing(rest))
        assert all(one is other for one, other in zip(before, after, strict=True) if one is not gone.target)
        moved = Counter(other for one, other in zip(before, after, strict=True) if one is gone.target)
        share, whole = before.count(gone.target), sum(member.weight for member in rest)
        assert sum(moved.values()) == share
        assert share / len(before) < 1.06 * gone.weight / sum(weights) + 0.004
        for member in rest:
            assert moved[member.target] == pytest.approx(share * member.weight / whole, rel=0.15)


def test_a_weight_that_grows_takes_from_the_others_and_moves_nothing_between_them():
    group = members(1, 1, 1, 1)
    heavier = [group[0]._replace(weight=2), *group[1:]]
    before, after = owners(hashing(group)), owners(hashing(heavier))
    assert {other for one, other in zip(before, after, strict=True) if one is not other} == {group[0].target}


FEW_CLIENTS = CLIENTS[::40]


@given(st.lists(st.tuples(st.sets(st.integers(0, 6), min_size=1), st.booleans(), st.integers(0, 1)), max_size=8))
def test_what_is_known_from_before_is_what_would_be_found_anew(changes: list[tuple[set[int], bool, int]]) -> None:
    """Targets come, go and change their weights, with or without requests in between: each goes where it would go."""
    everyone = members(1, 2, 1, 3, 1, 1, 5)
    balance = hashing(everyone)
    for there, heavier, asks in changes:
        group = [
            everyone[index]._replace(weight=4) if heavier and not index % 3 else everyone[index] for index in there
        ]
        balance = ConsistentHash(group, key_of(None), RoundRobin(group), Loads(), None, balance)
        if asks:
            fresh = hashing(group)
            assert [balance.pick(each) for each in FEW_CLIENTS] == [fresh.pick(each) for each in FEW_CLIENTS]


def test_a_target_that_comes_or_goes_has_few_slots_looked_at_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scoring all of thousands of targets takes a millisecond: not for each slot whenever one of them is ejected."""
    scored: list[int] = []
    scores = hashed._scores

    def counted(among: Any, slot: int) -> Any:
        scored.append(len(among))
        return scores(among, slot)

    monkeypatch.setattr(hashed, "_scores", counted)
    group = members(*(1,) * 20)
    key, otherwise, loads = key_of(None), RoundRobin(group), Loads()
    whole = ConsistentHash(group, key, otherwise, loads, None)
    first = [whole.pick(client) for client in FEW_CLIENTS]
    scored.clear()
    less = ConsistentHash(group[1:], key, otherwise, loads, None, whole)
    for client in FEW_CLIENTS:
        less.pick(client)
    slots = {
        crc32(client.client_ip.encode()) % SLOTS: target for client, target in zip(FEW_CLIENTS, first, strict=True)
    }
    assert scored.count(19) == [*slots.values()].count(group[0].target)
    assert {*scored} == {19, 1}
    scored.clear()
    again = ConsistentHash(group, key, otherwise, loads, None, less)
    assert [again.pick(client) for client in FEW_CLIENTS] == first
    assert {*scored} == {2}


def test_an_upstream_keeps_what_it_knows_of_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config.Upstream(
        targets=tuple(config.Target(url=parse_url(f"http://{name}:80")) for name in "abcd"),
        load_balancing=config.LoadBalancing(algorithm="ip_hash"),
    )
    upstream = Upstream("u", settings, tuple(Target(each.url) for each in settings.targets), None)
    before = [upstream.balancer.pick(client) for client in FEW_CLIENTS]
    upstream.drain({upstream.targets[0].label})
    monkeypatch.setattr(hashed, "_scores", lambda among, slot: [(float(member.weight), member) for _, member in among])
    for client, target in zip(FEW_CLIENTS, before, strict=True):
        if target is not upstream.targets[0]:
            assert upstream.balancer.pick(client) is target


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (1, 2, 3, 4)])
def test_a_hot_key_fills_its_target_no_further_than_its_bound(weights: Sequence[int]) -> None:
    """Requests that do not end, all with one key: no target has more than 1.25 times its share, or a few."""
    group = members(*weights)
    (loads,) = loads_of(len(group))
    balance = hashing(group, loads, 1.25)
    for number in range(1, 1001):
        target = balance.pick(ANY)
        assert target is not None
        loads.attempt_begun(record(target))
        for member in group:
            assert loads.of(member.target) <= max(FEW, 1 + 1.25 * number * member.weight / sum(weights))
    assert balance.pick(ANY) is not None
    alone = hashing(group, loads, None)
    assert len({*(alone.pick(ANY) for _ in range(10))}) == 1


def test_a_few_requests_of_one_key_stay_together():
    group = members(1, 1, 1, 1)
    (loads,) = loads_of(4)
    balance = hashing(group, loads, 1.25)
    for target in (found := [*picked(balance, 1)] * FEW):
        loads.attempt_begun(record(target))
        assert {*found} == {target}
    assert balance.pick(ANY) not in found


USERS = asked("1.2.3.4", "X-User: 7\r\n"), asked(fields="x-user: 7\r\n")
SESSIONS = asked("1.2.3.4", "Cookie: a=b; sid=7\r\n"), asked(fields="Cookie: sid=7\r\n")


@pytest.mark.parametrize(
    ("trait", "same", "other"),
    [
        (Trait("ip"), (asked("192.0.2.7"), asked("192.0.2.7", "X-A: b\r\n")), asked("192.0.2.8")),
        (Trait("ip"), (asked("2001:db8::1"), asked("2001:db8::2:3")), asked("2001:db8:0:1::1")),
        (Trait("ip"), (asked("::ffff:192.0.2.7"), asked("192.0.2.7")), asked("::ffff:192.0.2.8")),
        (Trait("header", "x-user"), USERS, asked(fields="X-User: 8\r\n")),
        (
            Trait("header", "x-user"),
            (USERS[0], asked(fields="X-User: 7\r\nX-User: 7\r\n")),
            asked(fields="X-User: 8\r\n"),
        ),
        (Trait("cookie", "sid"), SESSIONS, asked(fields="Cookie: sid=8\r\n")),
        (Trait("consumer"), (asked("1.2.3.4", consumer="ann"), asked(consumer="ann")), asked(consumer="bob")),
    ],
)
def test_what_is_hashed(trait: Trait, same: tuple[Any, Any], other: Any) -> None:
    key = key_of(trait)
    assert key(same[0]) == key(same[1]) != key(other)
    assert key(other)


@pytest.mark.parametrize(
    ("trait", "request_"),
    [
        (Trait("header", "x-user"), asked()),
        (Trait("header", "x-user"), asked(fields="X-User: 7\r\nX-User: 8\r\n")),
        (Trait("cookie", "sid"), asked(fields="Cookie: a=b\r\n")),
        (Trait("consumer"), asked()),
    ],
)
def test_requests_that_have_nothing_to_hash_go_in_turn(trait: Trait, request_: Any) -> None:
    group = members(1, 1, 1)
    balance = hashing(group, by=trait)
    assert [balance.pick(request_) for _ in range(6)] == [member.target for member in group] * 2


def test_an_address_that_is_none_is_hashed_as_it_is():
    assert address(asked("unix:")) == b"unix:"


# --- which targets are in use ---


@for_each(
    ("priorities", "shunned", "drained", "spill_below", "panic", "wanted"),
    [
        ((0, 0, 0), "", "", 0.5, 0.5, "abc"),
        ((0, 0, 0), "a", "", 0.5, 0.5, "bc"),
        ((0, 0, 0), "ab", "", 0.5, 0.5, "abc"),  # a third is left: panic
        ((0, 0, 0), "ab", "", 0.5, 0.0, "c"),
        ((0, 0, 0), "abc", "", 0.5, 0.5, "abc"),
        ((0, 0, 0), "abc", "", 0.5, 0.0, ""),
        ((0, 0, 0), "a", "b", 0.5, 0.5, "c"),  # half of those that count
        ((0, 0, 0), "ab", "c", 0.5, 0.5, "ab"),
        ((0, 0, 0), "", "abc", 0.5, 0.5, ""),
        ((0, 0, 1), "", "", 0.5, 0.5, "ab"),
        ((0, 0, 1), "a", "", 0.5, 0.5, "b"),
        ((0, 0, 1), "a", "", 0.6, 0.5, "bc"),
        ((0, 0, 1), "ab", "", 0.5, 0.5, "c"),
        ((0, 0, 1), "ab", "", 0.0, 0.5, "c"),
        ((0, 0, 1), "abc", "", 0.5, 0.5, "abc"),
        ((0, 0, 1), "abc", "", 0.5, 0.0, ""),
        ((1, 1, 0), "c", "", 0.5, 0.5, "ab"),
        ((0, 1, 2), "a", "", 0.5, 0.5, "b"),
        ((0, 1, 2), "ab", "", 0.5, 0.5, "c"),
        ((0, 1, 2), "", "a", 0.5, 0.5, "b"),
        ((0, 0, 0, 1), "ab", "", 0.0, 0.5, "abc"),  # it has one left, so nobody spills, and a third is panic
        ((0, 0, 0, 1), "ab", "", 0.0, 0.3, "c"),
    ],
)
def test_which_targets_are_in_use(
    priorities: Sequence[int], shunned: str, drained: str, spill_below: float, panic: float, wanted: str
) -> None:
    group = members(*(1 for _ in priorities), priorities=priorities)
    by_name = {member.target.host: member.target for member in group}
    found = in_use(group, {by_name[name] for name in shunned}, {by_name[name] for name in drained}, spill_below, panic)
    assert sorted(member.target.host for member in found) == [*wanted]


def test_a_target_of_no_weight_is_drained():
    assert [member.target.host for member in in_use(members(0, 1), (), (), 0.5, 0.5)] == ["b"]


def test_a_target_that_comes_back_gets_its_share_little_by_little():
    group = members(2, 2)
    a, b = (member.target for member in group)
    rising = SlowStart(10.0)

    def weights(now: float) -> list[float]:
        return [member.weight for member in rising.weigh(group, now)]

    rising.record_eligible({a, b}, 0.0)
    assert weights(0.0) == [2, 2]
    assert rising.next(0.0) is None
    rising.record_eligible({a}, 5.0)
    rising.record_eligible({a, b}, 7.0)
    assert weights(7.0) == pytest.approx([2, 0.2])
    assert rising.next(7.0) == 8.0
    rising.record_eligible({a, b}, 12.0)
    assert weights(12.0) == pytest.approx([2, 1.0])
    rising.record_eligible({a, b}, 17.0)
    assert weights(17.0) == [2, 2]
    assert rising.next(17.0) is None
