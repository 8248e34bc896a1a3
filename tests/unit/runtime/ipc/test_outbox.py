"""What could not be said at once is said later, in order, once."""

import os
from collections.abc import Iterator

import pytest

from fastgw.runtime.ipc.channel import AnyMessage, Channel, ChannelClosed, Release, Reopen, Watch
from fastgw.runtime.ipc.outbox import Outbox

Ends = tuple[Outbox, Channel, Channel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = Channel.pair()
    outbox = Outbox(ours)
    yield outbox, ours, theirs
    outbox.close()
    ours.close()
    theirs.close()


def filled(outbox: Outbox) -> int:
    """Say so much that the rest waits; how many messages."""
    said = 0
    while not outbox:
        outbox.send(Release(generation=1, slot=said))
        said += 1
    return said


def heard(channel: Channel) -> list[AnyMessage]:
    found = []
    while (message := channel.receive()) is not None:
        found.append(message)
    return found


def test_nothing_is_lost_and_the_order_is_kept(ends: Ends) -> None:
    outbox, _, theirs = ends
    said = filled(outbox) + 1
    outbox.send(Reopen(generation=1))
    found = heard(theirs)
    outbox.flush()
    assert not outbox
    found += heard(theirs)
    assert found == [*(Release(generation=1, slot=slot) for slot in range(said - 1)), Reopen(generation=1)]


def test_what_was_said_last_and_is_not_heard_yet_is_not_said_twice(ends: Ends) -> None:
    outbox, _, theirs = ends
    filled(outbox)
    for _ in range(1000):
        outbox.send(Reopen(generation=1))
    heard(theirs)
    outbox.flush()
    assert heard(theirs)[-2:].count(Reopen(generation=1)) == 1


def test_descriptors_wait_with_their_message(ends: Ends) -> None:
    outbox, _, theirs = ends
    filled(outbox)
    read, write = os.pipe()
    outbox.send(Watch(generation=1), [write])
    os.close(write)
    heard(theirs)
    outbox.flush()
    assert theirs.receive() is not None
    while theirs.receive() is not None:
        pass
    outbox.close()
    assert os.read(read, 1) == b""  # all copies of the other end are closed
    os.close(read)


def test_who_is_gone_is_told_to_the_caller(ends: Ends) -> None:
    outbox, _, theirs = ends
    theirs.close()
    with pytest.raises(ChannelClosed):
        outbox.send(Reopen(generation=1))
