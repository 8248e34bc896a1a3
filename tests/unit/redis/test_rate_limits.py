"""Limits that nodes share in a real Redis: the script means what the node's cells mean, on a clock that is set."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from functools import reduce
from types import SimpleNamespace

import hiredis
import pytest
from redis import exceptions as of_redis

from fastgw.filters.limiting.counter_store import LimitSpec, NodeCounterStore, limit_of
from fastgw.filters.limiting.redis_counter_store import RedisCalls, RedisCounters, RedisCounterStore
from fastgw.redis import availability, script_client
from fastgw.redis.error_messages import in_words
from fastgw.redis.pipelined_connection import ERRORS, Pipe, opened
from fastgw.redis.rate_limits import CLOCK, SCRIPT, Asking, StateLimits, asking
from fastgw.runtime.control.revocation_replication import RevocationReplicator
from fastgw.shm.rate_limit_table import own_table, part_length, step_of
from fastgw.sync.revocations import RevocationList
from tests.support.redis_server import RedisServer
from tests.support.table import for_each

START = 7200 * 10**6  # us; a multiple of the windows below
KEY = b"planted"
OWN_CLOCK = [
    (CLOCK, "local now = tonumber(ARGV[7])"),
    # Redis' own clock goes on meanwhile: it would end what on the clock that is set has still a while to live.
    ("math.ceil(microseconds / 1000) + 1)", "math.ceil(microseconds / 1000) + 3600000)"),
]
assert all(SCRIPT.count(its) == 1 for its, _ in OWN_CLOCK)
SET_CLOCK = reduce(lambda script, each: script.replace(*each), OWN_CLOCK, SCRIPT).encode()
UNIT = 512  # us: a multiple of what the cells round the instants of sliding windows to
WINDOW = 14_000 * UNIT
STEPS = [UNIT * units for units in (0, 1, 2, 651, 1953, 4883, 14_000, 58_594)]
TERMS = [
    LimitSpec("token_bucket", 7, WINDOW / 1e6),
    LimitSpec("token_bucket", 3, WINDOW / 1e6, 11),
    LimitSpec("leaky_bucket", 5, WINDOW / 1e6, 4),
    LimitSpec("fixed_window", 9, WINDOW / 1e6),
    LimitSpec("sliding_window", 9, WINDOW / 1e6),
]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


def asking_for(terms: LimitSpec, prefix: str = "test", name: bytes = b"limit") -> Asking:
    is_bucket = terms.algorithm.endswith("bucket")
    depth = terms.depth if is_bucket else terms.limit
    return asking(prefix, terms.algorithm, terms.window, depth, step_of(terms.limit, terms.window), name)


async def connected(redis: RedisServer, play: Callable[[Pipe], Awaitable[None]]) -> None:
    """Play with a connection that is closed in the end: left open, a failure would be a later test's failure too."""
    pipe = await opened(redis.url, 5.0, lambda why: None)
    try:
        await play(pipe)
    finally:
        pipe.close()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("terms", TERMS, ids=lambda terms: f"{terms.algorithm}-{terms.burst}")
def test_the_script_decides_as_the_cells_do(redis: RedisServer, terms: LimitSpec, seed: int) -> None:
    """Every decision, wait and rest over a sequence of spendings, refunds and charges at times drawn by lot."""
    chance = random.Random(seed)
    limit, told = limit_of(own_table(), b"", terms), asking_for(terms, f"{terms}{seed}")
    is_bucket = terms.algorithm.endswith("bucket")
    depth = terms.depth if is_bucket else terms.limit
    part = part_length(WINDOW * 1000) if terms.algorithm == "sliding_window" else WINDOW * 1000

    async def play(pipe: Pipe) -> None:
        async def ask(what: bytes, cost: int, now: int, mark: int = 0) -> list[int]:
            answer = await pipe.execute(b"EVAL", SET_CLOCK, *told.question(what, KEY, cost, mark), b"%d" % now)
            assert isinstance(answer, list)
            return answer

        now, spent = START, []
        for _ in range(300):
            now += chance.choice(STEPS)
            what, cost = chance.choice([b"s", b"s", b"s", b"r", b"c"]), chance.randint(1, depth)
            if what == b"s":
                wait, left, renewed, mark, turn = await ask(what, cost, now)
                assert wait == pytest.approx(limit.spend(KEY, cost, now * 1000) * 1e6, abs=1)
                if not wait:
                    spent.append((cost, mark))
                    if is_bucket:
                        before = (limit.renewed_at - now * 1000) / 1000 - cost * step_of(
                            terms.limit, terms.window
                        ) / 1000
                        assert turn == pytest.approx(before, abs=1)
            elif what == b"c":
                _, left, renewed, _, _ = await ask(what, cost, now)
                limit.charge(KEY, cost, now * 1000)
            elif spent:
                cost, mark = spent.pop()
                if not is_bucket and len({((at + WINDOW) * 1000 - 1) // part for at in (mark, now)}) > 1:
                    continue  # with what was refused since, the cells may or may not give it back
                _, left, renewed, _, _ = await ask(what, cost, now, mark)
                limit.refund(KEY, cost, mark * 1000, lambda now=now: now * 1000)
            else:
                continue
            permits, seconds = limit.remaining(KEY, now * 1000)
            assert left == permits
            if is_bucket:
                assert renewed == pytest.approx(seconds * 1e6, abs=1)
            elif left < depth:  # the cells keep a part in which all was given back
                assert 0 < renewed <= min(round(seconds * 1e6), WINDOW)

    asyncio.run(connected(redis, play))


def test_nodes_of_different_limits_decide_as_the_cells_do(redis: RedisServer) -> None:
    """While a changed limit is in force on some nodes only: what a bucket has kept is time."""
    chance, table = random.Random(0), own_table()
    terms = [LimitSpec("token_bucket", 70, 7.0, 50), LimitSpec("token_bucket", 7, 7.0, 5)]
    limits = [(limit_of(table, b"", each), asking_for(each, "different")) for each in terms]

    async def play(pipe: Pipe) -> None:
        now = START
        for _ in range(300):
            now += chance.choice([0, 1, 1000, 333_333, 1_000_000, 2_500_000])
            (limit, told), cost = chance.choice(limits), chance.randint(1, 5)
            answer = await pipe.execute(b"EVAL", SET_CLOCK, *told.question(b"s", KEY, cost), b"%d" % now)
            assert isinstance(answer, list)
            assert answer[0] == pytest.approx(limit.spend(KEY, cost, now * 1000) * 1e6, abs=1)

    asyncio.run(connected(redis, play))


@pytest.mark.parametrize("terms", TERMS, ids=lambda terms: f"{terms.algorithm}-{terms.burst}")
def test_a_clock_that_was_set_back_admits_nobody_twice_and_locks_nobody_out(
    redis: RedisServer, terms: LimitSpec
) -> None:
    told = asking_for(terms, f"back {terms}")

    async def play(pipe: Pipe) -> None:
        async def spend(now: int) -> int:
            answer = await pipe.execute(b"EVAL", SET_CLOCK, *told.question(b"s", KEY, 1), b"%d" % now)
            return int(answer[0])

        later = START + 3600 * 10**6
        while not await spend(later):
            pass
        waits = [await spend(START), await spend(START + 1)]
        assert all(0 < wait <= terms.window * 1e6 + 1 for wait in waits)
        assert not await spend(START + waits[0] + 1)

    asyncio.run(connected(redis, play))


def test_what_lies_there_tells_nobody_who_was_counted_and_ends_by_itself(redis: RedisServer) -> None:
    terms = LimitSpec("token_bucket", 5, 60.0)

    async def play() -> None:
        limits = StateLimits(redis.url, 5.0)
        limits.hold_connection()
        counter_store = RedisCounterStore(
            RedisCounters(limits, "seen", False), b"limit", terms, NodeCounterStore(own_table(), b"", terms)
        )
        verdict = await counter_store.spend(b"192.0.2.77", 2)  # type: ignore[misc]
        assert (verdict.wait, verdict.is_away, counter_store.remaining(b"", verdict.mark)[0]) == (0.0, False, 3)
        limits.release()

    asyncio.run(play())
    [name] = [name for name in redis.names() if name.startswith(b"seen:limit:")]
    assert b"192.0.2.77" not in redis.everything()
    assert len(name) == len(b"seen:limit:") + 32
    assert 0 < int(redis.ask("PTTL", name)[1:]) <= 24_001


def test_what_is_charged_and_given_back_later_counts_there_and_is_told(redis: RedisServer) -> None:
    terms = LimitSpec("fixed_window", 10, 3600.0)

    async def play() -> None:
        limits = StateLimits(redis.url, 30.0)
        limits.hold_connection()
        counter_store = RedisCounterStore(
            RedisCounters(limits, "later", True), b"limit", terms, NodeCounterStore(own_table(), b"", terms)
        )
        first = await counter_store.spend(b"a", 4)  # type: ignore[misc]
        counter_store.charge(b"a", 5, first.mark)
        assert counter_store.remaining(b"a", first.mark)[0] == 1
        counter_store.refund(b"a", 4, first.mark)
        assert counter_store.remaining(b"a", first.mark)[0] == 5
        second = await counter_store.spend(b"a", 5)  # type: ignore[misc]
        assert (second.wait, counter_store.remaining(b"a", second.mark)[0]) == (0.0, 0)
        assert (await counter_store.spend(b"a", 1)).wait > 0  # type: ignore[misc]
        limits.release()

    asyncio.run(play())


def test_questions_of_one_turn_share_a_connection_and_a_script_that_was_flushed_comes_back(redis: RedisServer) -> None:
    terms = LimitSpec("fixed_window", 50, 3600.0)

    async def play() -> list[bool]:
        limits = StateLimits(redis.url, 30.0)
        limits.hold_connection()
        told = asking_for(terms, "turn")
        first = await limits.send_command(told.question(b"s", b"a", 1))  # type: ignore[misc]
        assert first is not None
        redis.ask("SCRIPT", "FLUSH")
        asked = [limits.send_command(told.question(b"s", b"a", 1)) for _ in range(99)]
        assert repr(limits).endswith("connected, 0 asked>")
        answers = await asyncio.gather(*asked)  # type: ignore[arg-type]
        limits.release()
        return [answer is not None and answer[0] == 0 for answer in answers]

    connections = int(redis.ask("INFO", "stats").split(b"total_connections_received:")[1].split(b"\r")[0])
    assert sum(asyncio.run(play())) == 49
    after = int(redis.ask("INFO", "stats").split(b"total_connections_received:")[1].split(b"\r")[0])
    assert after - connections == 3  # this test's own two


def counter_store_for(limits: StateLimits, refuses: bool) -> RedisCounterStore:
    terms = LimitSpec("token_bucket", 2, 3600.0)
    return RedisCounterStore(
        RedisCounters(limits, "away", refuses), b"limit", terms, NodeCounterStore(own_table(), b"", terms)
    )


@pytest.mark.parametrize("refuses", [False, True])
def test_one_that_answers_nothing_is_waited_for_once(refuses: bool, caplog: pytest.LogCaptureFixture) -> None:
    """As one that is stopped, which accepts and says nothing: whoever is there waits, then nobody."""
    accepted: list[asyncio.StreamWriter] = []

    async def play() -> None:
        async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.append(writer)

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        limits = StateLimits(f"redis://127.0.0.1:{port}", 0.05)
        limits.hold_connection()
        counter_store = counter_store_for(limits, refuses)
        waited = [counter_store.spend(b"a", 1) for _ in range(3)]
        assert all(asyncio.iscoroutine(each) for each in waited)
        verdicts = [await each for each in waited]  # type: ignore[misc]
        at_once = [counter_store.spend(b"a", 1) for _ in range(3)]
        for verdict in [*verdicts, *at_once]:
            assert verdict.is_away  # type: ignore[union-attr]
        admitted = [not verdict.wait for verdict in verdicts]
        assert admitted == ([False] * 3 if refuses else [True, True, False])
        assert {verdict.fault.name for verdict in verdicts} == {"LIMITS_UNAVAILABLE" if refuses else "RATE_LIMITED"}
        limits.release()
        server.close()
        for writer in accepted:
            writer.close()
        await asyncio.sleep(0)

    asyncio.run(play())
    assert [record.message.count("is unreachable") for record in caplog.records] == [1]


def test_a_connection_that_is_cut_is_made_anew_and_nobody_is_refused(redis: RedisServer) -> None:
    async def play() -> None:
        limits = StateLimits(redis.url, 30.0)
        limits.hold_connection()
        counter_store = counter_store_for(limits, refuses=True)
        assert not (await counter_store.spend(b"cut", 1)).is_away  # type: ignore[misc]
        before = limits._pipe
        redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        while limits._pipe is before:
            await asyncio.sleep(0)
        second, third = [await counter_store.spend(b"cut", 1) for _ in range(2)]  # type: ignore[misc]
        assert [(each.is_away, bool(each.wait)) for each in (second, third)] == [(False, False), (False, True)]
        limits.release()

    asyncio.run(play())


def test_it_is_tried_again_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def passes(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    async def play() -> None:
        limits = StateLimits("redis://127.0.0.1:1", 0.05)
        limits.hold_connection()
        while len(pauses) < 12:
            await sleep(0)
        limits.release()
        await sleep(0)

    monkeypatch.setattr(script_client, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": passes}))
    asyncio.run(play())
    assert pauses[0] <= 1.5 * script_client.AGAIN_S
    assert script_client.AGAIN_MOST_S <= pauses[-1] <= 1.5 * script_client.AGAIN_MOST_S


@asynccontextmanager
async def answering(said: bytes, hello: bytes = b"+hello\r\n") -> AsyncIterator[str]:
    """The URL of what knows no command but SCRIPT and HELLO, and says this to all others."""
    known = {b"SCRIPT\r\n": b"+loaded\r\n", b"HELLO\r\n": hello}

    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with suppress(ConnectionError), closing(writer):
            while line := await reader.readline():
                words = []
                for _ in range(int(line[1:])):
                    words.append(await reader.readexactly(int((await reader.readline())[1:]) + 2))
                writer.write(known.get(words[0], said))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await asyncio.gather(*filter(None, serving))  # who asks has closed its connections


def test_a_call_counts_on_every_node_for_exactly_its_time(redis: RedisServer) -> None:
    """The time begins again with each call; other clients and other routes have made none."""
    within = 600
    told = RedisCalls(RedisCounters(StateLimits(redis.url, 30.0), "calls", refuses=False), b"cart", within)._asking

    async def play(pipe: Pipe) -> None:
        async def ask(what: bytes, cost: int, seconds: float, key: bytes = KEY) -> list[int]:
            now = START + round(seconds * 1e6)
            answer = await pipe.execute(b"EVAL", SET_CLOCK, *told.question(what, key, cost), b"%d" % now)
            assert isinstance(answer, list)
            return answer

        assert (await ask(b"s", 0, 0))[1] == 1
        await ask(b"c", 2, 0)
        assert [(await ask(b"s", 0, seconds))[1] for seconds in (0, 1, 300, 599.9)] == [0] * 4
        assert (await ask(b"s", 0, 1, b"another"))[1] == 1
        await ask(b"c", 2, 500)
        assert [(await ask(b"s", 0, seconds))[1] for seconds in (601, 1099.9, 1100, 1101)] == [0, 0, 1, 1]

    asyncio.run(connected(redis, play))


def test_calls_are_recorded_and_asked_for_by_different_nodes(redis: RedisServer) -> None:
    async def play() -> None:
        nodes = [StateLimits(redis.url, 30.0) for _ in range(2)]
        one, other = (RedisCalls(RedisCounters(each, "calls", refuses=False), b"step 0", 3600) for each in nodes)
        assert one.was_made(b"a") is None  # not connected
        for each in nodes:
            each.hold_connection()
            while each._pipe is None:
                await asyncio.sleep(0)
        one.record(b"a")
        assert await one.was_made(b"a") is True  # type: ignore[misc]  # connected
        assert await other.was_made(b"a") is True  # type: ignore[misc]
        assert await other.was_made(b"b") is False  # type: ignore[misc]
        for each in nodes:
            each.release()

    asyncio.run(asyncio.wait_for(play(), 5.0))


@pytest.mark.parametrize("said", [b"*1\r\n:0\r\n", b"*5\r\n:0\r\n:1\r\n:1\r\n:1\r\n+1\r\n", b"+OK\r\n", b"$-1\r\n"])
def test_an_answer_of_another_shape_is_none(said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        async with answering(said) as url:
            limits = StateLimits(url, 30.0)
            limits.hold_connection()
            verdict = await counter_store_for(limits, refuses=True).spend(b"a", 1)  # type: ignore[misc]
            assert (verdict.is_away, verdict.fault.name) == (True, "LIMITS_UNAVAILABLE")
            limits.release()

    asyncio.run(play())
    assert [record.message.partition("; ")[0].partition("unreachable: ")[2] for record in caplog.records] == [
        "it sent an unexpected response"
    ]


def test_one_that_answers_nonsense_is_told_once_and_tried_ever_more_seldom(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It can be connected to each time, and is away each time that it is asked."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def passes(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
        await sleep(0)

    async def play() -> None:
        async with answering(b"+OK\r\n") as url:
            limits = StateLimits(url, 30.0)
            limits.hold_connection()
            counter_store = counter_store_for(limits, refuses=True)
            for _ in range(8):
                while limits.away or limits._pipe is None:
                    await sleep(0)
                assert (await counter_store.spend(b"a", 1)).is_away  # type: ignore[misc]
            limits.release()
            await sleep(0)

    monkeypatch.setattr(script_client, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": passes}))
    asyncio.run(play())
    assert [record.message.count("is unreachable") for record in caplog.records] == [1]
    assert pauses[0] <= 1.5 * script_client.AGAIN_S
    assert script_client.AGAIN_MOST_S <= pauses[-1] <= 1.5 * script_client.AGAIN_MOST_S


def test_one_that_is_there_again_is_told_once_it_has_stayed(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(script_client, "STEADY_S", 0.01)

    async def play() -> None:
        limits = StateLimits(redis.url, 30.0)
        limits.hold_connection()
        limits._disconnect("a reason")
        while len(caplog.records) < 2:
            await asyncio.sleep(0.001)
        assert not limits.away
        limits.release()

    asyncio.run(asyncio.wait_for(play(), 5.0))
    assert "is reachable again" in caplog.records[1].message


@pytest.mark.parametrize("pieces", [1, 7])
def test_an_answer_that_comes_slowly_and_in_pieces_is_one(pieces: int) -> None:
    whole = b"*5\r\n:0\r\n:1\r\n:1\r\n:1\r\n:0\r\n"

    async def play() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for command in (b"HELLO", b"SCRIPT"):
                await reader.readuntil(command)
                writer.write(b"+known\r\n")
            await reader.readuntil(b"EVALSHA")
            for at in range(0, len(whole), pieces):
                writer.write(whole[at : at + pieces])
                await writer.drain()
                await asyncio.sleep(0)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        limits = StateLimits(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", 30.0)
        limits.hold_connection()
        verdict = await counter_store_for(limits, refuses=True).spend(b"a", 1)  # type: ignore[misc]
        assert (verdict.is_away, bool(verdict.wait)) == (False, False)
        limits.release()
        server.close()

    asyncio.run(asyncio.wait_for(play(), 5.0))


def test_half_an_answer_is_none(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        async with answering(b"*5\r\n:0\r\n:1\r\n") as url:
            limits = StateLimits(url, 0.05)
            limits.hold_connection()
            verdict = await counter_store_for(limits, refuses=True).spend(b"a", 1)  # type: ignore[misc]
            assert verdict.is_away
            limits.release()

    asyncio.run(asyncio.wait_for(play(), 5.0))
    assert [record.message.count("no answer within 0.05 s") for record in caplog.records] == [1]


@for_each(
    ("error", "told"),
    [
        (
            hiredis.ReplyError("WRONGPASS invalid username-password pair or user is disabled."),
            ("the user or password of the URL is wrong"),
        ),
        (hiredis.ReplyError("NOAUTH Authentication required."), "it requires a password, and the URL has none"),
        (hiredis.ReplyError("ERR AUTH <password> called without any password configured"), "the URL has a password"),
        (hiredis.ReplyError("ERR DB index is out of range"), "the database number of the URL does not exist"),
        (hiredis.ReplyError("ERR unknown command 'AUTH', with args beginning with: 'sesame'"), "it answers ERR"),
        (hiredis.ProtocolError("sesame"), "ProtocolError"),
        (TimeoutError(), "no answer in time"),
        (ConnectionRefusedError(), "the connection is refused"),
        (ConnectionResetError("sesame"), "the connection was closed"),
        (OSError(113, "No route to host"), "No route to host"),
        (of_redis.AuthenticationError("invalid username-password pair"), "the user or password of the URL is wrong"),
        (of_redis.AuthenticationError("Authentication required."), "it requires a password"),
        (of_redis.TimeoutError("sesame"), "no answer in time"),
        (of_redis.ConnectionError("Error 111 connecting to sesame"), "connecting to it failed"),
    ],
)
def test_trouble_is_told_in_words_and_never_in_its_own(error: Exception, told: str) -> None:
    assert in_words(error).startswith(told)
    assert "sesame" not in in_words(error)


@pytest.mark.parametrize("password", ["", ":wrong@"])
def test_a_password_that_is_missing_or_wrong_is_told(
    redis: RedisServer, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        limits = StateLimits(f"redis://{password}127.0.0.1:{redis.port}/0", 30.0)
        limits.hold_connection()
        while not caplog.records:
            await asyncio.sleep(0.001)
        limits.release()

    asyncio.run(asyncio.wait_for(play(), 5.0))
    said = "the user or password of the URL is wrong" if password else "it requires a password, and the URL has none"
    assert f"is unreachable: {said}" in caplog.records[0].message


@pytest.mark.parametrize("said", [b"*1\r\n:0\r\n", b":7\r\n", b"*1\r\n*2\r\n:1\r\n*0\r\n"])
def test_revocations_are_shared_again_whatever_was_answered(
    said: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is there in place of Redis is a reason to try it again, not a defect."""
    monkeypatch.setattr("fastgw.runtime.control.sharing.shared_stream.AGAIN_S", 0.0)
    tried = 0

    async def play() -> None:
        nonlocal tried
        async with answering(said) as url:
            everywhere = RevocationReplicator(RevocationList(10), lambda records, told: None)
            latest = everywhere._latest

            async def counted(client: Pipe) -> bytes:
                nonlocal tried
                tried += 1
                if tried == 3:
                    raise asyncio.CancelledError
                return await latest(client)

            monkeypatch.setattr(everywhere, "_latest", counted)
            with pytest.raises(asyncio.CancelledError):
                await everywhere.replicate(url, "test")

    asyncio.run(play())
    assert tried == 3
    told = [record.message for record in caplog.records if record.name == "fastgw"]
    assert [text.count("is unreachable: it sent an unexpected response") for text in told] == [1]


def test_who_has_only_a_part_of_the_keys_or_none_is_not_connected_to() -> None:
    """HELLO tells it, to every user. What does not know HELLO, or says nothing of a mode, is a proxy."""

    async def connect(hello: bytes) -> str:
        async with answering(b"+1\r\n", hello) as url:
            try:
                (await opened(url, 5.0, lambda why: None)).close()
            except ERRORS as error:
                return in_words(error)
        return "connected"

    modes = {
        b"standalone": "connected",
        b"cluster": "it is a node of a Redis Cluster, which is not supported; ",
        b"sentinel": "it is a Redis Sentinel, which has no keys; ",
    }
    said = {
        b"*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$4\r\nmode\r\n$%d\r\n%b\r\n" % (len(mode), mode): told
        for mode, told in modes.items()
    }
    unknown = (b"-ERR unknown command\r\n", b"-NOPERM no\r\n", b"*1\r\n$4\r\nmode\r\n", b"*2\r\n$4\r\nmode\r\n:1\r\n")
    for hello, told in (said | dict.fromkeys(unknown, "connected")).items():
        assert asyncio.run(connect(hello)).startswith(told), hello


def test_an_answer_that_nobody_asked_for_ends_the_connection_and_answers_nobody() -> None:
    """Whole or in part, at once or later: the next question is asked on another connection."""

    async def play() -> None:
        for said in (b"+1\r\n+surplus\r\n", b"+1\r\n+sur"):
            lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            async with answering(said) as url:
                pipe = await opened(url, 5.0, lost.set_result)
                assert await pipe.execute(b"GET", b"a") == b"1"
                assert await lost == "it sent an unexpected response"
                with pytest.raises(ConnectionResetError):
                    await pipe.execute(b"GET", b"b")

    asyncio.run(play())


def test_what_nobody_waits_for_is_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script_client, "MOST_UNANSWERED", 3)

    async def play() -> None:
        async with answering(b"") as url:
            limits = StateLimits(url, 30.0)
            limits.hold_connection()
            question = asking_for(TERMS[0]).question(b"c", b"a", 1)
            assert [limits.send_without_reply(question) for _ in range(5)] == [True, True, True, False, False]
            assert limits.send_command(question) is None
            limits.release()

    asyncio.run(play())


def test_a_defect_while_it_connects_does_not_end_the_trying(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[str] = []

    async def failing(url: str, *rest: object) -> object:
        tried.append(url)
        if len(tried) == 1:
            raise ValueError("no such thing")
        return await opened(url, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(script_client, "opened", failing)
    monkeypatch.setattr(script_client, "AGAIN_MOST_S", 0.001)

    async def play() -> None:
        limits = StateLimits(redis.url, 30.0)
        limits.hold_connection()
        while len(tried) < 2 or limits.away:
            await asyncio.sleep(0.001)
        assert not (await counter_store_for(limits, refuses=True).spend(b"defect", 1)).is_away  # type: ignore[misc]
        limits.release()

    asyncio.run(asyncio.wait_for(play(), 20.0))
    assert "a defect while" in caplog.records[0].message


def test_a_word_tells_whether_all_that_are_asked_are_there(redis: RedisServer) -> None:
    """Two of them are held while a reload moves to another."""
    word = memoryview(array("Q", [availability.AWAY]))
    before = availability._word
    availability.report_in(word)

    async def play() -> None:
        async def until(state: int) -> None:
            async with asyncio.timeout(20.0):
                while word[0] != state:
                    await asyncio.sleep(0.001)

        there, away = StateLimits(redis.url, 30.0), StateLimits("redis://127.0.0.1:1", 0.05)
        assert word[0] == availability.UNASKED
        there.hold_connection()
        await until(availability.UP)
        away.hold_connection()
        await until(availability.AWAY)
        away.release()
        assert word[0] == availability.UP
        there.release()
        assert word[0] == availability.UNASKED

    try:
        asyncio.run(play())
    finally:
        availability.report_in(before)
