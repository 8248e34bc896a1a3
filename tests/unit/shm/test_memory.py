"""The node's shared memory: columns, sums, and limits that hold although no process waits for another."""

import os
import signal
from contextlib import suppress
from itertools import count
from random import Random

import pytest

from fastgw.shm.memory import FIRST_GAUGE, Layout, OtherLayout, SharedMemory
from fastgw.shm.node_limits import AddressLimit, KeyCounts, MemoryFence, Sketch, subscriber, width_for
from tests.support.small_process import run_in_small_process


def test_a_name_asked_for_twice_is_one_word_and_another_form_is_refused():
    layout = Layout()
    assert layout.counter("accepted") == layout.counter("accepted")
    assert layout.gauge("connections", 3) == FIRST_GAUGE
    assert layout.gauge("pending") == layout.end - 1 == FIRST_GAUGE + 3
    with pytest.raises(ValueError, match="'accepted'"):
        layout.gauge("accepted")


def test_what_is_written_in_one_process_is_read_and_summed_in_another():
    layout = Layout()
    accepted = layout.counter("accepted")
    shared = SharedMemory.create(layout, columns=3)
    for slot in range(3):
        in_child(lambda slot=slot: shared.columns[slot].words.__setitem__(accepted, 10**slot))
    assert shared.total(accepted) == 111


def test_the_gauges_of_a_dead_worker_are_cleared_and_its_counters_kept():
    layout = Layout()
    accepted, live = layout.counter("accepted"), layout.gauge("live", 2)
    shared = SharedMemory.create(layout, columns=2)
    for column in shared.columns:
        column.words[accepted] = 5
        column.words[live] = column.words[live + 1] = 7
    shared.clear_gauges(0)
    assert shared.total(accepted) == 10
    assert [shared.total(live), shared.total(live + 1)] == [7, 7]


def test_a_limit_is_the_nodes_whoever_asks():
    layout = Layout()
    shared = SharedMemory.create(layout, columns=2)
    limits = [column.limit(layout.gauge("connections"), 3) for column in shared.columns]
    assert limits[0].try_take()
    assert limits[1].try_take()
    assert limits[0].try_take()
    assert not limits[1].try_take()
    limits[0].give_back()
    assert limits[1].try_take()


def test_permits_beyond_a_limit_are_less_than_none():
    layout = Layout()
    shared = SharedMemory.create(layout, columns=2)
    one, other = (column.limit(layout.gauge("connections"), 1) for column in shared.columns)
    assert one.try_take()
    assert (one.vacant(), other.vacant()) == (0, 0)
    assert other.try_take(beyond=2)
    assert other.try_take(beyond=2)
    assert not one.try_take(beyond=2)
    assert (one.vacant(), other.vacant()) == (-2, -2)
    for limit, vacant in ((other, -1), (one, 0), (other, 1)):
        limit.give_back()
        assert one.vacant() == vacant


def test_room_for_kept_bodies_is_the_nodes_to_the_byte():
    layout = Layout()
    word = layout.gauge("kept")
    shared = SharedMemory.create(layout, columns=2)
    one, other = (column.held_body_budget(word, 100) for column in shared.columns)
    assert one.try_take(60)
    assert other.try_take(40)
    assert not other.try_take(1)
    assert not one.try_take(1)
    assert (one.in_use, other.in_use) == (100, 100)
    shared.clear_gauges(0)  # its worker is dead
    assert other.try_take(60)
    other.give_back(100)
    assert shared.total(word) == 0


def test_processes_that_race_for_room_never_have_more_than_there_is():
    layout = Layout()
    word = layout.gauge("kept")
    shared = SharedMemory.create(layout, columns=3)

    def race(slot: int) -> None:
        room, random = shared.columns[slot].held_body_budget(word, 1000), Random(slot)
        held: list[int] = []
        for _ in range(3000):
            if held and (random.random() < 0.5 or len(held) > 5):
                room.give_back(held.pop())
            elif room.try_take(count := random.randrange(1, 400)):
                held.append(count)
                others = sum(shared.columns[each].words[word] for each in range(3) if each != slot)
                assert sum(held) <= 1000, others
        for each in held:
            room.give_back(each)

    pids = [fork(lambda slot=slot: race(slot)) for slot in range(3)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    assert shared.total(word) == 0


def test_no_limit_still_counts():
    layout = Layout()
    word = layout.gauge("connections")
    shared = SharedMemory.create(layout, columns=1)
    limit = shared.columns[0].limit(word, None)
    assert all(limit.try_take() for _ in range(1000))
    assert shared.total(word) == 1000


def test_racing_processes_never_exceed_the_limit():
    """Each of three processes takes and gives back; while it holds a place it looks at the sum of places held."""
    layout = Layout()
    word, held = layout.gauge("connections"), layout.gauge("held")
    shared = SharedMemory.create(layout, columns=3)

    def race(slot: int) -> None:
        column = shared.columns[slot]
        limit = column.limit(word, 2)
        for turn in range(1, 20_000):
            if limit.try_take():
                column.words[held] = turn
                if holders(shared, held) > 2:
                    os._exit(1)
                column.words[held] = 0
                limit.give_back()

    pids = [fork(lambda slot=slot: race(slot)) for slot in range(3)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    assert shared.total(word) == 0


@pytest.mark.extended
def test_processes_that_are_killed_anywhere_leave_whole_words_behind():
    run_in_small_process(kill_anywhere)


def kill_anywhere() -> None:
    """Each counts twice, one word after the other: of a column, the second is never ahead, nor behind by more than one

    for each process that was killed there. What it held is free again, and the limit is kept by all the others.
    """
    layout = Layout()
    word, held = layout.gauge("connections"), layout.gauge("held")
    counted, witness = layout.counter("counted"), layout.counter("witness")
    shared = SharedMemory.create(layout, columns=4)

    def serve(slot: int) -> None:
        column = shared.columns[slot]
        limit = column.limit(word, 3, counted)
        for turn in count(os.getpid() << 32):
            if limit.try_take():
                column.words[witness] += 1
                column.words[held] = turn
                if holders(shared, held) > 3:
                    os._exit(1)
                column.words[held] = 0
                limit.give_back()

    pids = [fork(lambda slot=slot: serve(slot)) for slot in range(4)]
    random, killed = Random(4), [0] * 4
    try:
        for turn in range(200):
            slot = turn % 4
            before = shared.total(counted)
            words = shared.columns[slot].words
            seen = words[counted]
            while words[counted] == seen:  # who was not there yet is not killed anywhere
                assert os.waitpid(pids[slot], os.WNOHANG) == (0, 0), "it has seen more than the limit"
                os.sched_yield()
            for _ in range(random.randrange(3000)):
                pass
            os.kill(pids[slot], signal.SIGKILL)
            assert os.waitstatus_to_exitcode(os.waitpid(pids[slot], 0)[1]) == -signal.SIGKILL
            shared.clear_gauges(slot)
            killed[slot] += 1
            assert 0 <= words[counted] - words[witness] <= killed[slot]
            assert shared.total(counted) >= before
            pids[slot] = fork(lambda slot=slot: serve(slot))
    finally:
        for pid in pids:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    for slot in range(4):
        shared.clear_gauges(slot)
    assert shared.total(word) == shared.total(held) == 0
    assert shared.total(counted) > 0


def test_an_address_limit_is_the_nodes_and_each_address_has_its_own():
    shared = SharedMemory.create(Layout(), columns=2)
    first, second = (column.address_limit(2) for column in shared.columns)
    assert first.try_take("192.0.2.1")
    assert second.try_take("192.0.2.1")
    assert not first.try_take("192.0.2.1")
    assert second.try_take("192.0.2.2")
    second.give_back("192.0.2.1")
    assert first.try_take("192.0.2.1")


def test_few_permits_of_an_address_are_no_concern_of_the_node():
    """They are given back in any order, and an IPv6 client is its /64 here, too."""
    shared = SharedMemory.create(Layout(), columns=2)
    first, second = (column.address_limit(3, few=2) for column in shared.columns)
    ips = ["2001:db8::1", "2001:db8::2"]
    for _ in range(3):
        taken = [(limit, ip) for limit in (first, second, first, second) for ip in ips if limit.try_take(ip)]
        assert len(taken) == 3 + 2 * 2  # in each process two, and three that the node counts
        assert not first.try_take(ips[0])
        assert first.try_take("192.0.2.1")
        first.give_back("192.0.2.1")
        for limit, ip in reversed(taken):
            limit.give_back(ip)
        assert not any(any(column.words) for column in shared.columns)


def test_a_full_sketch_counts_few_addresses_too_high_and_none_too_low():
    """With as many connections as the sketch is made for, each from its own address."""
    shared = SharedMemory.create(Layout(), columns=1)
    words, (width, views, fence) = shared.columns[0].words, (width_for(2000), [shared.columns[0].words], MemoryFence())
    limit = AddressLimit(KeyCounts(Sketch(FIRST_GAUGE, width), words, views, fence, b"secret"), 1)
    addresses = [f"10.0.{n // 250}.{n % 250}" for n in range(2000)]
    taken = [ip for ip in addresses if limit.try_take(ip)]
    assert len(taken) > 0.95 * len(addresses)
    assert not any(limit.try_take(ip) for ip in taken)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("unix:", "", True),
    ],
)
def test_an_ipv6_subscriber_is_a_64(one, other, same):
    assert (subscriber(one) == subscriber(other)) is same


def test_more_columns_count_for_the_limits_that_are_out_already():
    """In each process that was told: none of them maps anew what it has."""
    layout = Layout()
    word = layout.gauge("connections")
    shared = SharedMemory.create(layout, columns=1)
    limit = shared.columns[0].limit(word, 2)
    shared.widen(3)
    shared.widen(2)  # never fewer
    assert len(shared.columns) == 3
    shared.columns[2].words[word] = 2
    assert not limit.try_take()
    assert shared.total(word) == 2


def test_what_was_taken_is_counted_where_it_is_wanted():
    layout = Layout()
    word, taken = layout.gauge("connections"), layout.counter("accepted")
    shared = SharedMemory.create(layout, columns=1)
    limit = shared.columns[0].limit(word, 1, taken)
    for _ in range(3):
        assert limit.try_take()
        assert not limit.try_take()
        limit.give_back()
    assert shared.total(taken) == 3


def test_a_new_program_carries_on_with_the_memory():
    """Counters, columns, the sketch and its secret are those that the descriptor brings."""
    layout = Layout()
    layout.connections = 200_000
    accepted = layout.counter("accepted")
    shared = SharedMemory.create(layout, columns=1)
    shared.widen(2)
    shared.columns[1].words[accepted] = 5
    assert shared.columns[0].address_limit(1).try_take("192.0.2.1")
    again = Layout()
    again.counter("accepted")
    attached = SharedMemory.attach(os.dup(shared.fd), again)
    assert len(attached.columns) == 2
    assert attached.total(accepted) == 5
    assert attached.sketch == shared.sketch
    assert attached.sketch.connections >= 200_000
    assert not attached.columns[1].address_limit(1).try_take("192.0.2.1")
    attached.supervisor.words[accepted] = 1
    assert shared.total(accepted) == 6


def test_memory_that_is_laid_out_otherwise_is_refused():
    shared = SharedMemory.create(Layout(), columns=1)
    other = Layout()
    other.counter("accepted")
    with pytest.raises(OtherLayout):
        SharedMemory.attach(os.dup(shared.fd), other)


def test_what_is_not_used_takes_no_memory():
    """Neither while nobody uses it, nor by being cleared."""
    layout = Layout()
    live = layout.gauge("live", 1 << 20)
    shared = SharedMemory.create(layout, columns=8)
    shared.columns[3].words[live + 1000] = 1
    for index in range(8):
        shared.clear_gauges(index)
    assert shared.columns[3].words[live + 1000] == 0
    assert os.fstat(shared.fd).st_blocks * 512 < 64 * 1024


def holders(shared: SharedMemory, held: int) -> int:
    """How many columns are in use at one instant; 0 when it changes faster than we look. No value comes twice."""
    first, second = ([column.words[held] for column in shared.columns] for _ in range(2))
    return sum(map(bool, first)) if first == second else 0


def fork(work) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(70)
    return pid


def in_child(work) -> None:
    assert os.waitpid(fork(work), 0)[1] == 0


def test_a_million_keys_are_counted_one_by_one_within_the_memory_that_is_told():
    """16 bytes a key, in pages of which each is touched: 32 MiB, and what stands in front."""
    keys = 1_000_000
    shared = SharedMemory.create(Layout(), columns=1)
    limit = shared.cells.token_bucket(1, 1000.0, 1)
    spend = limit.spend
    for number in range(keys):
        assert spend(b"%d" % number, 1, 10**12) == 0
    assert shared.cells.overflowed == 0
    assert os.fstat(shared.fd).st_blocks * 512 <= (32 << 20) + 10 * 4096
    assert not any(spend(b"%d" % number, 1, 10**12) == 0 for number in range(0, keys, 997))
