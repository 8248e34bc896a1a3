"""A connection of HTTP/2 to a target that is silent: it is asked by a PING, and ended where no answer comes."""

from __future__ import annotations

from fastgw.errors import Fault
from fastgw.upstream.connections import http2_connection
from tests.support.http2 import frames
from tests.support.http2.frames import Flag
from tests.support.http2.upstream_connection import World
from tests.support.on_loop import on_loop

PONG = frames.ping(bytes(8), Flag.ACK)
HEAD = frames.headers(frames.block((b":status", b"200")), end=False)


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


async def times_out(world: World) -> None:
    """A call, alone on the connection, that ends after 2 s without a byte."""
    stream = world.connection.open_stream()
    stream.send_request(world.listener, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"GET")  # type: ignore[arg-type]
    await world.waits(2)
    stream.cancel()


async def answered() -> World:
    """A connection whose one request has ended with its response."""
    world = World()
    world.receive(frames.settings() + frames.SETTINGS_ACK)
    assert await world.pings() == 0
    world.receive(frames.headers(frames.block((b":status", b"204"))))
    world.stream.release()
    return world


@on_loop
async def test_a_silent_target_is_asked_though_no_call_lasts_as_long_as_the_silence() -> None:
    """Calls with short deadlines that follow one another are in flight for less than that each."""
    with await answered() as world:
        await world.waits(3600)  # idle: nothing is expected
        assert await world.pings() == 0
        for _ in range(4):
            await times_out(world)
        assert await world.pings() == 0
        await times_out(world)
        assert await world.pings() == 1
        await times_out(world)
        await times_out(world)
        assert not world.aborted
        await times_out(world)
        assert world.aborted
        assert world.connection.closed


@on_loop
async def test_a_silent_target_is_asked_after_the_last_call_has_ended() -> None:
    """So the next call finds a connection that works."""
    with await answered() as world:
        await times_out(world)
        await world.waits(http2_connection.SILENCE_S)
        assert await world.pings() == 1
        await world.waits(http2_connection.PONG_S)
        assert world.connection.closed


@on_loop
async def test_a_target_that_is_slow_and_answers_to_the_ping_keeps_its_connection() -> None:
    """It is not asked again soon, as `test_a_target_that_answers_to_the_ping_alone_is_not_asked_again_soon` has it."""
    with await answered() as world:
        pings = 0
        for _ in range(60):
            await times_out(world)
            if await world.pings():
                pings += 1
                world.receive(PONG)
        assert (pings, world.connection.closed) == (1, False)


@on_loop
async def test_a_target_that_answers_between_calls_that_time_out_is_not_asked() -> None:
    with await answered() as world:
        for number in range(5, 45, 4):  # stream 3 is the first that times out
            await times_out(world)
            stream = world.connection.open_stream()
            stream.send_request(world.listener, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"GET")  # type: ignore[arg-type]
            assert await world.pings() == 0
            world.receive(frames.headers(frames.block((b":status", b"204")), number))
            stream.release()
        await world.waits(60)
        assert await world.pings() == 0
