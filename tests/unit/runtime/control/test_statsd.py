"""Lines for StatsD servers: numbers of durations, their sum, and datagrams."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest

from fastgw.observe.metrics.counters import ExchangeCounters
from fastgw.runtime.control.metric_push import MetricPush
from fastgw.runtime.control.statsd import (
    FEED,
    MOST_TIMERS,
    NOTHING_COUNTED,
    Durations,
    Push,
    StatsdCounts,
    Tags,
    datagrams,
    timer_values,
)
from fastgw.runtime.node.node_state import Sealed
from fastgw.sync import feeds
from tests.support.counted import count
from tests.support.node import accepted_of, close_node, document, node_state_of, sealed_document
from tests.support.on_loop import on_loop, until

BOUNDS = (0.01, 0.1, 1.0)


@pytest.mark.parametrize(
    ("counts", "total_s"),
    [
        ((1, 0, 0, 0), 0.002),
        ((10, 5, 1, 0), 0.9),
        ((1000, 500, 20, 0), 60.0),
        ((0, 0, 0, 3), 27.0),
        ((1000, 0, 0, 2), 15.0),
    ],
)
def test_numbers_and_sum_come_out(counts: tuple[int, ...], total_s: float) -> None:
    values = list(timer_values(Durations(BOUNDS, counts, int(total_s * 1e6))))
    assert len(values) <= MOST_TIMERS + len(counts)
    number = total_ms = 0.0
    for value in values:
        millis, _, rate = value.partition("|ms")
        count = 1 / float(rate.removeprefix("|@") or 1)
        number += count
        total_ms += count * float(millis)
    assert number == pytest.approx(sum(counts), rel=1e-4)
    assert total_ms == pytest.approx(total_s * 1000, rel=1e-3)


def test_few_durations_are_sent_one_by_one() -> None:
    assert list(timer_values(Durations(BOUNDS, (2, 0, 0, 0), 8000))) == ["4|ms", "4|ms"]


def test_datagrams_have_whole_lines_and_the_series_that_end_in_them() -> None:
    waiting = [Push(Tags(name, "GET", "200"), False, [name.encode() * 4] * 3) for name in "abc"]
    found = list(datagrams(waiting, 14))
    assert [datagram for datagram, _ in found] == [b"aaaa\naaaa", b"aaaa\nbbbb", b"bbbb\nbbbb", b"cccc\ncccc", b"cccc"]
    assert [[push.tags.route for push in ended] for _, ended in found] == [[], ["a"], ["b"], [], ["c"]]


def test_series_that_were_not_sent_are_added_to_those_counted_since() -> None:
    one, other = Tags("a", "GET", "200"), Tags("b", "GET", "200")
    counts = StatsdCounts(NOTHING_COUNTED)
    counts.requests, counts.durations = {one: 1}, {one: Durations(BOUNDS, (1, 0, 0, 0), 10)}
    requests, durations = counts.take_waiting()
    counts.requests = {one: 2, other: 3}
    counts.durations = {one: Durations(BOUNDS, (0, 1, 0, 0), 20), other: Durations(BOUNDS, (3, 0, 0, 0), 30)}
    counts.put_back(requests, durations)
    assert counts.requests == {one: 3, other: 3}
    assert counts.durations[one] == Durations(BOUNDS, (1, 1, 0, 0), 30)
    assert counts.durations[other].total_us == 30


class Pushed:
    """A push to a server, and the counters of a worker."""

    def __init__(self, form: str) -> None:
        family, *_, address = socket.getaddrinfo("localhost", 0, type=socket.SOCK_DGRAM)[0]
        self._server = socket.socket(family, socket.SOCK_DGRAM)
        self._server.bind(address)
        self._server.setblocking(False)
        self._form = form
        self.node_state = node_state_of(sealed=sealed_document(1, more=self._settings(3600)))
        gateway, words = self.node_state.gateway, self.node_state.words
        assert gateway is not None
        self._counters = ExchangeCounters(gateway.series, words.counted(self.node_state.shared.columns[0]))

    def _settings(self, interval: int) -> str:
        address = f"localhost:{self._server.getsockname()[1]}"  # a name is looked up by a thread
        statsd = f"{{address: '{address}', format: {self._form}, interval: {interval}s}}"
        return f"status: null\ntelemetry: {{metrics: {{statsd: {statsd}}}}}"

    def begin(self) -> MetricPush:
        push = MetricPush(self.node_state, cast("Any", None), cast("Any", None))  # of OTLP alone
        push.use_configuration(self.node_state.sealed.whole())
        return push

    def changed(self) -> Sealed:
        """The next generation, which pushes more often."""
        accepted = accepted_of(document(more=self._settings(60)), 2)
        return Sealed(accepted, -1)

    def count(self, number: int) -> None:
        counted = self._counters.series_words("main", "all", "", b"GET", 200, "")
        for _ in range(number):
            count(self._counters, counted, 0.002, 10, 20, 0.001, 1)

    def received(self) -> int:
        """Return how many requests the server was told of."""
        total = 0
        while True:
            try:
                lines = self._server.recv(65536).split(b"\n")
            except BlockingIOError:
                return total
            told = [line.split(b"|")[0].rpartition(b":")[2] for line in lines if line.startswith(b"fastgw.requests")]
            total += sum(map(int, told))

    def close(self) -> None:
        self._server.close()
        close_node(self.node_state)


@pytest.fixture(params=["statsd", "dogstatsd", "graphite"])
def pushed(request: pytest.FixtureRequest) -> Iterator[Pushed]:
    pushed = Pushed(request.param)
    yield pushed
    pushed.close()


@pytest.mark.parametrize("has_new_settings", [False, True])
@on_loop
async def test_what_is_counted_while_a_push_is_in_flight_is_pushed_once(pushed: Pushed, has_new_settings: bool) -> None:
    """A reload reads the counters, whatever the push waits for; one that replaces the push ends it."""
    push = pushed.begin()
    pushed.count(10)
    assert push._statsd is not None
    in_flight = asyncio.create_task(push._statsd.push())
    await asyncio.sleep(0)  # it looks up the address
    assert not in_flight.done()
    pushed.count(5)
    push.prepare(pushed.node_state.sealed.whole().slot_table)
    if has_new_settings:
        push.use_configuration(pushed.changed().accepted)
        pushed.count(2)
    await in_flight
    pushed.count(1)
    await push.stop()
    assert pushed.received() == (18 if has_new_settings else 16)


@on_loop
async def test_a_push_in_flight_is_followed_by_the_last_one(pushed: Pushed) -> None:
    pushed.count(10)
    push = pushed.begin()
    statsd = push._statsd
    assert statsd is not None
    statsd._interval = 0.0
    await until(lambda: bool(statsd.counts.last.requests))  # it looks up the address
    pushed.count(5)
    await push.stop()
    assert pushed.received() == 15


async def unreachable(kind: str) -> socket.socket:
    raise OSError("down")


async def left_by(pushed: Pushed, push: MetricPush) -> None:
    """End a push as control does, and leave its counts to the next one."""
    await push.stop()
    pushed.node_state.feeds[FEED] = push.handover()


@on_loop
async def test_the_next_process_pushes_what_was_counted_since_the_last_push(pushed: Pushed) -> None:
    """An upgrade, and a reload with another admin address, replace the control process."""
    for _ in range(2):
        push = pushed.begin()
        pushed.count(10)
        await left_by(pushed, push)
        pushed.count(5)
    await pushed.begin().stop()
    assert pushed.received() == 30


@on_loop
async def test_the_next_process_pushes_what_could_not_be_sent(pushed: Pushed) -> None:
    push = pushed.begin()
    statsd = push._statsd
    assert statsd is not None
    statsd._connected = unreachable  # type: ignore[method-assign]
    pushed.count(10)
    await left_by(pushed, push)
    pushed.count(5)
    assert pushed.received() == 0
    await pushed.begin().stop()
    assert pushed.received() == 15


@on_loop
async def test_a_push_with_the_right_address_pushes_what_the_one_before_could_not_send(pushed: Pushed) -> None:
    push = pushed.begin()
    statsd = push._statsd
    assert statsd is not None
    statsd._connected = unreachable  # type: ignore[method-assign]
    pushed.count(10)
    await statsd.push()
    push.use_configuration(pushed.changed().accepted)
    pushed.count(5)
    await left_by(pushed, push)
    await pushed.begin().stop()
    assert pushed.received() == 15


@on_loop
async def test_more_than_a_feed_takes_leaves_the_counters_alone(
    pushed: Pushed, capfd: pytest.CaptureFixture[str]
) -> None:
    """Requests that could not be sent are lost; those counted since are not."""
    push = pushed.begin()
    statsd = push._statsd
    assert statsd is not None
    statsd._connected = unreachable  # type: ignore[method-assign]
    pushed.count(3)
    await push.stop()
    statsd.counts.requests |= {Tags("a" * feeds.MOST_BYTES, "GET", "200"): 4}
    capfd.readouterr()
    pushed.node_state.feeds[FEED] = push.handover()
    assert "7 requests that could not be sent are lost: too many series" in capfd.readouterr().err
    following = pushed.begin()
    pushed.count(5)
    await following.stop()
    assert pushed.received() == 5


@on_loop
async def test_after_a_killed_process_nothing_is_pushed_twice(pushed: Pushed) -> None:
    """The counts that an earlier process has left are out of date."""
    push = pushed.begin()
    pushed.count(10)
    await left_by(pushed, push)
    killed = pushed.begin()
    pushed.count(5)
    await killed.stop()  # without leaving its counts
    pushed.count(2)
    last = pushed.begin()
    pushed.count(1)
    await last.stop()
    assert pushed.received() == 16


@on_loop
async def test_new_memory_begins_with_what_the_earlier_one_could_not_send(pushed: Pushed) -> None:
    """An upgrade to a version with another layout: its counters begin at zero, below those of the last push."""
    former = Pushed("dogstatsd")
    try:
        push = former.begin()
        statsd = push._statsd
        assert statsd is not None
        former.count(100)
        await statsd.push()
        statsd._connected = unreachable  # type: ignore[method-assign]
        former.count(10)
        await left_by(former, push)
        assert former.received() == 100
        pushed.node_state.feeds[FEED] = former.node_state.feeds[FEED]
    finally:
        former.close()
    pushed.count(7)
    killed = pushed.begin()
    await killed.stop()  # without leaving its counts
    assert pushed.received() == 17
    pushed.count(2)
    last = pushed.begin()
    pushed.count(1)
    await last.stop()
    assert pushed.received() == 1


@on_loop
async def test_counts_of_another_version_are_ignored(pushed: Pushed) -> None:
    pushed.node_state.feeds[FEED] = b"\x93\x01"
    push = pushed.begin()
    pushed.count(3)
    await push.stop()
    assert pushed.received() == 3
