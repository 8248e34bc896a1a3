"""Shares of client addresses in the memory for held bodies."""

from collections.abc import Sequence

from fastgw.shm.held_body_budget import CLIENT_SHARE, WHY_NO_SHARE, WHY_NOT_HELD, HeldBodyBudget, HeldBytes
from fastgw.shm.memory import Layout, SharedMemory

LIMIT = 400
SHARE = LIMIT // CLIENT_SHARE


def budgets() -> Sequence[HeldBodyBudget]:
    """Budgets of two workers of a node."""
    layout = Layout()
    word = layout.gauge("kept_bytes")
    shared = SharedMemory.create(layout, 2)
    return [column.held_body_budget(word, LIMIT) for column in shared.columns]


def test_an_address_has_its_share_over_all_workers() -> None:
    one, other = budgets()
    first, second = one.share_of("192.0.2.1"), other.share_of("192.0.2.1")
    assert first.try_take(SHARE // 2)
    assert second.try_take(SHARE // 2)
    assert not second.try_take(1)
    assert second.why == WHY_NO_SHARE
    assert other.share_of("192.0.2.2").try_take(SHARE)
    assert other.share_of("2001:db8::1").try_take(SHARE)
    assert not one.share_of("2001:db8::ffff").try_take(1)  # of the same /64
    first.give_back(SHARE // 2)
    assert second.try_take(SHARE // 2)
    assert one.in_use == 3 * SHARE


def test_a_single_body_may_take_more_than_a_share() -> None:
    """Whoever uploads one large body is served as long as nobody else needs the memory; a second one is refused."""
    one, other = budgets()
    large, small = one.share_of("192.0.2.1"), other.share_of("192.0.2.1")
    assert large.try_take(SHARE)
    assert large.try_take(2 * SHARE)
    assert not small.try_take(1)
    assert other.share_of("192.0.2.2").try_take(SHARE)
    assert not large.try_take(1)
    assert large.why == WHY_NOT_HELD
    large.give_back(3 * SHARE)
    assert small.try_take(SHARE)
    assert one.in_use == 2 * SHARE


def test_clients_of_a_unix_socket_are_many() -> None:
    budget, _ = budgets()
    assert budget.share_of("unix:").try_take(SHARE)
    assert budget.share_of("unix:").try_take(SHARE)


def test_a_share_is_given_back_with_its_body() -> None:
    budget, _ = budgets()
    body = HeldBytes(budget.share_of("192.0.2.1"))
    assert body.try_hold(4096 + SHARE)
    other = HeldBytes(budget.share_of("192.0.2.1"))
    assert not other.try_hold(4097)
    assert other.why == WHY_NO_SHARE
    del body
    assert other.try_hold(4096 + SHARE)
