"""A connection of HTTP/2 to a target that is silent: it is asked by a PING, and ended where no answer comes."""

from __future__ import annotations

import pytest

from fastgw.errors import Fault
from fastgw.eventloop.timer_wheel import Timed
from fastgw.http.http2.session import Session
from tests.support.http2 import frames
from tests.support.http2.frames import Flag
from tests.support.http2.upstream_connection import World
from tests.support.on_loop import on_loop

pytestmark = pytest.mark.twin
if Session is not None:
    from fastgw.upstream.connections import http2_connection
    from fastgw.upstream.connections.http2_stream import Http2UpstreamStream

PONG = frames.ping(bytes(8), Flag.ACK)
HEAD = frames.headers(frames.block((b":status", b"200")), end=False)


@on_loop
async def test_a_stream_begins_as_its_class_makes_it() -> None:
    with World() as world:
        opened = world.connection.open_stream()
        made = Http2UpstreamStream(world.connection, world.connection.target, False)
        assert type(opened) is Http2UpstreamStream
        for name in (*Http2UpstreamStream.__slots__, *Timed.__slots__):
            assert getattr(opened, name) == getattr(made, name), name
        assert opened._early is not world.connection.open_stream()._early


@on_loop
async def test_a_target_that_is_silent_is_asked_and_ended_where_it_does_not_answer():
    with World() as world:
        world.receive(frames.settings() + frames.SETTINGS_ACK)
        assert await world.pings() == 0
        assert world.expire() == http2_connection.SILENCE_S
        assert await world.pings() == 1
        assert not world.aborted
        assert world.expire() == http2_connection.PONG_S
        assert world.aborted
        assert world.listener.faults == [Fault.CONNECTION_LOST]


async def seconds_to_next_ping(world: World) -> float:
    begun = world.wheel.now
    while True:
        world.expire()
        if await world.pings():
            assert not world.aborted
            return world.wheel.now - begun


@on_loop
async def test_a_target_that_answers_to_the_ping_alone_is_not_asked_again_soon():
    """gRPC servers end connections with more than one PING in 5 minutes without a frame of theirs in between."""
    with World() as world:
        world.receive(frames.settings() + frames.SETTINGS_ACK)
        world.expire()
        assert await world.pings() == 1
        for _ in range(3):
            world.receive(PONG)
            assert await seconds_to_next_ping(world) >= 5 * 60


@on_loop
async def test_a_target_that_sends_is_asked_again_after_as_long_a_silence():
    with World() as world:
        world.receive(frames.settings() + frames.SETTINGS_ACK)
        world.expire()
        assert await world.pings() == 1
        world.receive(PONG)
        world.receive(HEAD)
        assert await seconds_to_next_ping(world) == http2_connection.SILENCE_S
