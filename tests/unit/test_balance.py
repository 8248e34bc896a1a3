"""Which target a request goes to."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.config.values import parse_url
from fastgw.forwarded import Peer
from fastgw.upstream.balance import RoundRobin
from fastgw.upstream.passage import Passage
from fastgw.upstream.target import Target

ANY = Passage(None, None, Peer("192.0.2.1", 1, 80, False))
"""Somebody's request: round robin does not look at it."""


def targets(*weights: int) -> list[Target]:
    return [Target(parse_url(f"http://{chr(ord('a') + index)}:80"), weight) for index, weight in enumerate(weights)]


def picks(balance: RoundRobin, count: int) -> str:
    return "".join(balance.pick(ANY).host for _ in range(count))


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
def test_a_heavy_target_has_its_turns_between_those_of_the_others(weights, order):
    assert picks(RoundRobin(targets(*weights)), len(order)) == order


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 3))
def test_over_whole_cycles_each_target_has_exactly_its_weight(weights, cycles):
    group = targets(*weights)
    balance = RoundRobin(group)
    counted = Counter(balance.pick(ANY) for _ in range(cycles * sum(weights)))
    assert [counted[target] for target in group] == [cycles * weight for weight in weights]


@given(st.lists(st.integers(1, 30), min_size=2, max_size=8), st.integers(0, 50), st.sets(st.integers(0, 7), min_size=1))
def test_a_tried_target_is_not_picked_while_there_is_another(weights, begun, indexes):
    group = targets(*weights)
    balance = RoundRobin(group)
    picks(balance, begun)
    tried = tuple(target for index, target in enumerate(group) if index in indexes)
    picked = balance.pick(ANY, tried)
    assert picked not in tried or len(tried) == len(group)


def test_the_only_target_is_picked_again_although_it_was_tried():
    (only,) = targets(2)
    assert RoundRobin([only]).pick(ANY, (only,)) is only


def test_retries_do_not_take_turns_away_for_long():
    """Each first attempt at b fails and goes to another one: a and c share b's load, and nobody runs away."""
    group = targets(1, 1, 1)
    balance = RoundRobin(group)
    served: Counter[str] = Counter()
    for _ in range(300):
        target = balance.pick(ANY)
        if target.host == "b":
            target = balance.pick(ANY, (target,))
        served[target.host] += 1
    assert served["a"] + served["c"] == 300
    assert abs(served["a"] - served["c"]) <= 3
