"""The backlog of purges that other nodes may not have received."""

from fastgw.sync.cache_purges import PurgeOrder, PurgeTarget, identified
from fastgw.sync.purge_backlog import MOST, MOST_BYTES, RECENT_S, PurgeBacklog


def order(value: bytes = b"t", store: str = "main") -> PurgeOrder:
    return identified(PurgeOrder(store, PurgeTarget.TAGS, (value,)))


def test_a_purge_waits_until_it_is_announced_and_is_kept_for_a_while() -> None:
    backlog, one, two = PurgeBacklog(), order(), order()
    for each in (one, two, one):
        backlog.add(each, 0.0)
    backlog.confirm([one.id, b"unknown"], 10.0)
    assert (backlog.waiting, backlog.announced) == ([two], [one])
    assert [backlog.is_waiting(each.id) for each in (one, two)] == [False, True]
    backlog.forget_old(10.0 + RECENT_S - 1)
    assert backlog.announced == [one]
    backlog.forget_old(10.0 + RECENT_S)
    assert (backlog.waiting, backlog.announced) == ([two], [])


def test_too_many_purges_become_one_of_everything_in_their_store() -> None:
    backlog = PurgeBacklog()
    backlog.add(announced := order(store="other"), 0.0)
    backlog.confirm([announced.id], 0.0)
    for _ in range(MOST):
        backlog.add(order(), 0.0)
    assert [(each.store, each.target) for each in backlog.waiting] == [("main", PurgeTarget.ALL)]
    assert [(each.store, each.target) for each in backlog.announced] == [("other", PurgeTarget.ALL)]
    backlog.add(order(bytes(MOST_BYTES + 1)), 0.0)
    assert [each.target for each in backlog.waiting] == [PurgeTarget.ALL]
    backlog.add(last := order(), 0.0)
    assert backlog.waiting[1:] == [last]
