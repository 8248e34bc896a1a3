"""Messages between the supervisor and a child."""

import os
import socket

import pytest

from fastgw.runtime.ipc.channel import (
    Adopt,
    Channel,
    ChannelClosed,
    Drain,
    Drained,
    Prepare,
    Ready,
    Release,
    Reopen,
    Stop,
    Watch,
)

MESSAGES = [
    Ready(generation=1),
    Adopt(generation=1, slot=3),
    Release(generation=1, slot=3),
    Drain(generation=1, requests_s=30.0, tunnels_s=300.0),
    Drained(generation=1, drained=3, cut=0),
    Reopen(generation=1),
    Stop(generation=1),
]


def test_what_is_sent_is_received_in_order_and_one_by_one():
    ours, theirs = Channel.pair()
    for message in MESSAGES:
        ours.send(message)
    assert [theirs.receive() for _ in MESSAGES] == MESSAGES
    assert theirs.receive() is None
    ours.close()
    theirs.close()


def test_what_was_sent_before_the_end_is_still_received():
    ours, theirs = Channel.pair()
    theirs.send(Drained(generation=1, drained=1, cut=0))
    theirs.close()
    assert ours.receive() == Drained(generation=1, drained=1, cut=0)
    with pytest.raises(ChannelClosed):
        ours.receive()
    with pytest.raises(ChannelClosed):
        ours.send(Stop(generation=1))
    ours.close()


def test_who_does_not_read_is_not_waited_for():
    ours, theirs = Channel.pair()
    with pytest.raises(ChannelClosed):
        flood(ours)
    ours.close()
    theirs.close()


def flood(channel: Channel) -> None:
    while True:
        channel.send(Stop(generation=1))


def test_descriptors_travel_with_the_message_that_speaks_of_them():
    ours, theirs = Channel.pair()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        ours.send(Prepare(generation=2, listeners=[[0]]), [listening.fileno()])
        assert theirs.receive() == Prepare(generation=2, listeners=[[0]])
        (descriptor,) = theirs.take_descriptors()
        with socket.socket(fileno=descriptor) as received:
            assert received.getsockname() == listening.getsockname()
            assert not os.get_inheritable(descriptor)
    ours.close()
    theirs.close()


def test_descriptors_that_nobody_takes_are_closed():
    ours, theirs = Channel.pair()
    read, write = os.pipe()
    ours.send(Watch(generation=1), [write])
    os.close(write)
    theirs.receive()
    theirs.receive()
    assert os.read(read, 1) == b""  # nobody has the other end any more
    os.close(read)
    ours.close()
    theirs.close()
