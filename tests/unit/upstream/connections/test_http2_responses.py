"""A response over HTTP/2 that arrives in several reads: when its borrower is told, and of what."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.errors import Fault
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.http.http1.trailers import MOST_TRAILERS, TRAILERS_TOO_LARGE
from fastgw.http.http2._session import held_in_process
from fastgw.http.http2.session import HeldBytes
from tests.support.http2 import frames
from tests.support.http2.upstream_connection import BEGUN, Listener, World
from tests.support.on_loop import on_loop, turns

HEAD = frames.headers(frames.block((b":status", b"200")), end=False)
TRAILERS = frames.headers(frames.block((b"grpc-status", b"0"), (b"grpc-message", b"")))
SENT_TRAILERS = ((b"grpc-status", b"0"), (b"grpc-message", b""))


def told(world: World) -> list[tuple[Any, ...]]:
    """The calls of the borrower since the last look, without heads."""
    calls, world.listener.calls = world.listener.calls, []
    return [(name, *rest[1:]) if name == "on_head" else (name, *rest) for name, *rest in calls]


async def begun() -> World:
    """A connection whose request has been sent."""
    world = World()
    world.receive(frames.settings() + frames.SETTINGS_ACK)
    await turns()
    return world


@on_loop
async def test_a_response_in_two_reads_of_one_turn_is_told_as_a_whole() -> None:
    """Servers send the heads of many streams before their bodies, so a read often ends between them."""
    with await begun() as world:
        world.receive(HEAD + frames.data(b"abc", end=False))
        assert told(world) == []
        world.receive(frames.data(b"def"))
        assert [call[0] for call in world.listener.calls] == ["on_head"]
        head = world.listener.calls[0][1]
        assert head.payload == b"abcdef"
        assert told(world) == [("on_head", None, True)]
        await turns()
        assert told(world) == []


@on_loop
async def test_trailers_in_a_later_read_of_the_turn_are_told_at_once() -> None:
    with await begun() as world:
        world.receive(HEAD)
        world.receive(frames.data(b"abc", end=False))
        world.receive(TRAILERS)
        assert told(world) == [("on_head", b"abc", False), ("on_end", SENT_TRAILERS)]


def head_of(status: bytes, length: bytes) -> bytes:
    return frames.headers(frames.block((b":status", status), (b"content-length", length)), end=False)


@on_loop
async def test_trailers_may_follow_a_declared_length_of_0() -> None:
    """RFC 9113 section 8.1: END_STREAM ends a response; one of gRPC without messages may end with a status so."""
    with await begun() as world:
        world.receive(head_of(b"200", b"0"))
        await turns()
        assert told(world) == [("on_head", b"", False)]
        world.receive(TRAILERS)
        assert told(world) == [("on_end", SENT_TRAILERS)]
    with await begun() as world:
        world.receive(head_of(b"200", b"0") + TRAILERS)
        assert told(world) == [("on_head", b"", False), ("on_end", SENT_TRAILERS)]
    with await begun() as world:
        world.receive(head_of(b"200", b"0") + frames.data(b""))
        assert told(world) == [("on_head", None, True)]


@on_loop
async def test_trailers_have_the_limits_of_heads() -> None:
    for count in (MOST_TRAILERS, MOST_TRAILERS + 1):
        lines = [(b"x-%d" % number, b"v") for number in range(count)]
        with await begun() as world:
            world.receive(HEAD + frames.headers(frames.block(*lines)))
            if count == MOST_TRAILERS:
                assert told(world) == [("on_head", b"", False), ("on_end", tuple(lines))]
            else:
                assert world.listener.faults == [Fault.UPSTREAM_MALFORMED]
                assert TRAILERS_TOO_LARGE in world.listener.calls[0]


@pytest.mark.parametrize("status", [b"204", b"304"])
@on_loop
async def test_a_response_without_content_ends_with_its_head(status: bytes) -> None:
    with await begun() as world:
        world.receive(head_of(status, b"0"))
        await turns()
        assert told(world) == [("on_head", None, True)]


@on_loop
async def test_a_response_to_head_ends_with_its_head() -> None:
    with await begun() as world:
        world.connection.open_stream().send_request(world.listener, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", b"HEAD")  # type: ignore[arg-type]
        await turns()
        world.receive(frames.headers(frames.block((b":status", b"200"), (b"content-length", b"0")), 3, end=False))
        await turns()
        assert told(world) == [("on_head", None, True)]


@on_loop
async def test_a_response_that_lasts_is_told_after_a_turn() -> None:
    with await begun() as world:
        world.receive(HEAD + frames.data(b"abc", end=False))
        await turns()
        assert told(world) == [("on_head", b"abc", False)]
        world.receive(frames.data(b"def", end=False))
        assert told(world) == [("on_data", b"def")]
        world.receive(TRAILERS)
        assert told(world) == [("on_end", SENT_TRAILERS)]


@on_loop
async def test_a_response_that_has_begun_is_told_before_the_loss_of_its_connection() -> None:
    with await begun() as world:
        world.receive(HEAD + frames.data(b"abc", end=False))
        world.connection.connection_lost(None)
        assert told(world) == [("on_head", b"abc", False), ("on_failure", Fault.UPSTREAM_INCOMPLETE, False, "")]
        await turns()
        assert told(world) == []


@on_loop
async def test_nobody_is_told_of_a_response_to_a_request_that_was_cancelled_meanwhile() -> None:
    with await begun() as world:
        world.receive(HEAD + frames.data(b"abc", end=False))
        world.stream.cancel()
        world.receive(frames.data(b"def"))
        await turns()
        assert told(world) == []


@on_loop
async def test_responses_that_begin_in_each_turn_are_told_a_turn_later() -> None:
    with await begun() as world:
        others = [world.connection.open_stream() for _ in range(5)]
        for stream in others:
            stream.send_request(world.listener, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"GET")  # type: ignore[arg-type]
        await turns()
        for number in range(3, 13, 2):
            world.receive(frames.headers(frames.block((b":status", b"200")), stream=number, end=False))
            await turns(1)
        await turns()
        assert told(world) == [("on_head", b"", False)] * len(others)


@on_loop
async def test_a_target_is_awaited_once_the_request_is_complete_or_when_it_accepts_no_more() -> None:
    with await begun() as world:
        stream = world.connection.open_stream()
        stream.begin_special(world.listener, b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", b"POST", whole=False)  # type: ignore[arg-type]
        turns_seen = [stream.awaits_target]
        for step in (
            lambda: stream.send_body(b"a"),
            lambda: stream.send_body(bytes(200_000)),
            lambda: stream.end_body(()),
        ):
            step()
            turns_seen.append(stream.awaits_target)
        assert turns_seen == [False, False, True, True]


NOT_SENT = [("on_failure", Fault.UPSTREAM_TIMEOUT, True, "the target did not accept the rest of the request")]


@on_loop
async def test_the_idle_timeout_applies_until_the_target_has_accepted_the_request() -> None:
    """`timeouts.response_headers` begins once it is sent."""
    with await begun() as world:
        stream = world.connection.open_stream()
        stream.limit_times(1.0, 10.0)
        stream.begin_special(world.listener, b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", b"POST", whole=False)  # type: ignore[arg-type]
        stream.send_body(bytes(200_000))
        stream.end_body(())
        await turns()
        for _ in range(2):  # slow, but it accepts something
            world.passes(9.0, stream)
            world.receive(frames.window_update(1000) + frames.window_update(1000, 3))
            await turns()
        world.passes(9.0, stream)
        assert told(world) == []
        world.receive(frames.window_update(200_000) + frames.window_update(200_000, 3))
        await turns()
        world.passes(0.9, stream)
        assert told(world) == []
        world.passes(0.2, stream)
        assert told(world) == [("on_failure", Fault.UPSTREAM_TIMEOUT, True, "")]
        await turns()


@on_loop
@pytest.mark.parametrize("whole", [True, False])
async def test_a_target_that_accepts_no_more_of_a_request_is_given_up_after_the_idle_timeout(whole: bool) -> None:
    with await begun() as world:
        stream = world.connection.open_stream()
        stream.limit_times(60.0, 2.0)
        head, body = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n", bytes(200_000)
        stream.begin_special(world.listener, head + (body if whole else b""), b"POST", whole=whole)  # type: ignore[arg-type]
        if not whole:
            stream.send_body(body)
        await turns()
        world.passes(1.9, stream)
        assert told(world) == []
        world.passes(0.2, stream)
        assert told(world) == NOT_SENT
        await turns()


async def uploading(world: World, *settings: tuple[int, int]) -> Any:
    """A stream whose response has begun, and whose request goes on."""
    stream = world.connection.open_stream()
    stream.begin_special(world.listener, b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", b"POST", whole=False)  # type: ignore[arg-type]
    await turns()
    world.receive(frames.settings(*settings) + frames.headers(frames.block((b":status", b"200")), 3, end=False))
    await turns()
    assert told(world) == [("on_head", b"", False)]
    return stream


STALLED = [("on_failure", Fault.UPSTREAM_STALLED, False, "")]


@on_loop
async def test_bytes_of_the_request_extend_the_idle_timeout_of_the_response() -> None:
    """`timeouts.idle` is for the next byte in either direction: the target may wait for all of the request."""
    with await begun() as world:
        stream = await uploading(world)
        wait = stream.idle_timeout * 0.75
        for step in (lambda: stream.send_body(b"a"), lambda: stream.send_body(b"b"), lambda: stream.end_body(())):
            world.passes(wait, stream)
            step()
        world.passes(wait, stream)
        assert told(world) == []
        world.passes(wait, stream)
        assert told(world) == STALLED
        await turns()


@on_loop
async def test_bytes_that_the_target_accepts_extend_the_idle_timeout_of_the_response() -> None:
    """A body that waits for the target's window is in transfer as long as the window moves."""
    with await begun() as world:
        stream = await uploading(world)
        stream.send_body(bytes(200_000))
        await turns()
        assert stream.write_paused
        wait = stream.idle_timeout * 0.75
        for _ in range(3):
            world.passes(wait, stream)
            world.receive(frames.window_update(1000) + frames.window_update(1000, 3))
            await turns()
        world.passes(wait, stream)
        assert told(world) == []
        world.passes(wait, stream)
        assert told(world) == STALLED
        await turns()


@on_loop
async def test_bytes_of_the_request_start_no_timeout_while_the_response_waits_for_a_slow_client() -> None:
    with await begun() as world:
        stream = await uploading(world)
        stream.pause()
        stream.send_body(b"a")
        stream.end_body(())
        world.passes(stream.idle_timeout * 2, stream)
        assert told(world) == []


@on_loop
async def test_a_connection_that_holds_much_of_what_the_process_may_hold_is_not_read_from() -> None:
    """Until its bodies are taken, or others; meanwhile no PING is sent, as its answer would not be read."""
    with await begun() as world:
        second = world.connection.open_stream()
        second.send_request(world.listener, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"GET")  # type: ignore[arg-type]
        for stream, number in ((world.stream, 1), (second, 3)):
            world.receive(frames.headers(frames.block((b":status", b"200")), number, end=False))
            await turns()
            stream.pause()
            for _ in range(3):
                world.receive(frames.data(bytes(frames.MAX_FRAME), number, end=False))
        await turns()
        assert world.reading
        held = HeldBytes(64 << 20)
        world.connection.flush_soon()
        await turns()
        assert not world.reading
        await world.waits(60.0)
        assert await world.pings() == 0
        assert not world.aborted
        del held
        WorkerLoop.look_at_crowded(world.connection.worker_loop)
        await turns()
        assert world.reading
        held = HeldBytes(64 << 20)
        world.connection.flush_soon()
        await turns()
        assert not world.reading
        second.resume()
        await turns()
        assert world.reading
        assert not world.connection.worker_loop.crowded
        del held


@on_loop
async def test_clients_that_read_nothing_do_not_stop_the_others_of_a_connection() -> None:
    """What a connection holds for them is given back, by those that wait longest, where the process holds too much."""
    with await begun() as world:
        streams, listeners = [world.stream], [world.listener]
        for _ in range(3):
            streams.append(world.connection.open_stream())
            listeners.append(Listener())
            streams[-1].send_request(listeners[-1], b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"GET")  # type: ignore[arg-type]
        await turns()
        for number in (3, 5, 1, 7):  # the last one reads
            stream = streams[number // 2]
            world.receive(frames.headers(frames.block((b":status", b"200")), number, end=False))
            await turns()
            if number < 7:
                stream.pause()
                for _ in range(3):
                    world.receive(frames.data(bytes(frames.MAX_FRAME), number, end=False))
            world.wheel.now += 1.0
        held = HeldBytes(64 << 20)

        async def broken_off() -> list[int]:
            world.connection.flush_soon()
            await turns()
            WorkerLoop.look_at_crowded(world.connection.worker_loop)
            await turns()
            return [2 * at + 1 for at, each in enumerate(listeners) if each.faults]

        for waited, numbers in ((0.5, []), (1.5, [3]), (1.9, [3])):
            world.wheel.now = BEGUN + waited
            assert await broken_off() == numbers
            assert not world.reading
        world.wheel.now = BEGUN + 2.5
        assert sorted(await broken_off()) == [3, 5]
        assert [each.faults for each in listeners] == [[], [Fault.CLIENT_STALLED], [Fault.CLIENT_STALLED], []]
        assert world.reading  # what it holds for the other one is less than a window
        world.receive(frames.data(b"abc", 7))
        assert listeners[3].calls[-2:] == [("on_data", b"abc"), ("on_end", ())]
        del held


@on_loop
async def test_a_response_that_has_ended_counts_as_held_until_its_borrower_takes_it() -> None:
    """Its stream is closed, so no window bounds it."""
    for how in ("resume", "release"):
        with await begun() as world:
            world.receive(HEAD)
            await turns()
            world.stream.pause()
            before = held_in_process()
            world.receive(frames.data(bytes(10_000), end=False) + frames.data(bytes(5_000)))
            assert held_in_process() - before == 15_000
            getattr(world.stream, how)()
            assert held_in_process() == before


class Source:
    """Source of a request's body, which counts."""

    def __init__(self) -> None:
        self.paused = self.resumed = 0

    def pause(self) -> None:
        self.paused += 1

    def resume(self) -> None:
        self.resumed += 1


@on_loop
async def test_nothing_is_taken_for_a_target_that_does_not_read() -> None:
    """Its windows are open, but its socket takes nothing; also of a request that has no byte of its body yet."""
    with await begun() as world:
        connection = world.connection
        connection.pause_writing()
        stream, source = connection.open_stream(), Source()
        head = b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"
        listener: Any = Listener()
        stream.begin_special(listener, head, b"POST", whole=False, source=source)
        await turns()
        assert (source.paused, source.resumed) == (1, 0)
        connection.resume_writing()
        await turns()
        assert (source.paused, source.resumed) == (1, 1)
        stream.send_body(b"x" * 1000)
        assert (source.paused, source.resumed) == (1, 1)
        await turns()
        connection.pause_writing()
        stream.send_body(b"x")
        assert (source.paused, source.resumed) == (2, 1)
        connection.resume_writing()
        assert (source.paused, source.resumed) == (2, 2)
        stream.release()
