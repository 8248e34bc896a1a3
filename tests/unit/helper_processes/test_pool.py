"""Helper processes answer within their limits, and are replaced when they do not."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from fastgw.helper_processes import pool as pools
from fastgw.helper_processes.pool import HelperBusy, HelperDied, HelperError, HelperFailed, HelperLate, HelperPool
from fastgw.helper_processes.program import MOST_BYTES, Program
from fastgw.helper_processes.shared_pool import SharedPool
from tests.support.collector import garbage, no_collector
from tests.support.on_loop import turns

ROOT = Path(__file__).parents[3]
T = TypeVar("T")
PATIENT_S = 60.0


@pytest.fixture(autouse=True)
def _program_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process finds the program of the tests; elsewhere it imports what is installed alone."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from fastgw.helper_processes.child import main; main()"
    monkeypatch.setattr(pools, "COMMAND", (sys.executable, "-P", "-B", "-c", start))


def program(**options: Any) -> Program:
    return Program(name="test", module="tests.support.helper_program", **{"deadline_s": PATIENT_S} | options)


@contextlib.asynccontextmanager
async def running(**options: Any) -> AsyncIterator[HelperPool]:
    pool = HelperPool(asyncio.get_running_loop(), program(**options))
    pool.start()
    try:
        yield pool
    finally:
        pool.close()
        async with asyncio.timeout(PATIENT_S):
            await pool.ended()


def run(test: Callable[[], Awaitable[T]]) -> T:
    """Run a test in the loop of a worker."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(test())  # type: ignore[arg-type]


async def answered(pool: HelperPool, request: bytes) -> bytes:
    """Ask until a process has answered."""
    async with asyncio.timeout(PATIENT_S):
        while True:
            try:
                return await pool.run_request(request)
            except HelperError:
                await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def limits() -> Iterator[dict[str, bytes]]:
    """What a process with its limits answers, or the text of its error."""

    async def ask() -> dict[str, bytes]:
        async with running(memory_bytes=256 * 1024**2) as pool:
            found = {}
            for request in (b"environment", b"descriptors", b"raise it", b"open", b"allocate 1000000000", b"echo x"):
                try:
                    found[request.decode()] = await pool.run_request(request)
                except HelperFailed as error:
                    found[request.decode()] = str(error).encode()
            return found

    with pytest.MonkeyPatch.context() as patch:
        start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from fastgw.helper_processes.child import main; main()"
        patch.setattr(pools, "COMMAND", (sys.executable, "-P", "-B", "-c", start))
        yield run(ask)


def test_a_process_has_nothing_of_the_gateway(limits: dict[str, bytes]) -> None:
    """Its environment is empty, and its descriptors are standard input, output and error, and the socket again."""
    assert set(eval(limits["environment"])) <= {"LC_CTYPE"}  # LC_CTYPE: which Python sets for itself
    assert len(eval(limits["descriptors"])) == 4


def test_exceptions_are_passed_on_and_the_process_goes_on(limits: dict[str, bytes]) -> None:
    assert limits["raise it"] == b"KeyError: 'it'"
    assert limits["echo x"] == b"x"


def test_a_process_opens_no_files_and_stays_within_its_memory(limits: dict[str, bytes]) -> None:
    assert b"Too many open files" in limits["open"]
    assert limits["allocate 1000000000"] == b"MemoryError"


def test_large_messages_pass_and_larger_ones_are_refused() -> None:
    async def test() -> None:
        async with running() as pool:
            assert await pool.run_request(b"echo " + b"x" * 3_000_000) == b"x" * 3_000_000
            with pytest.raises(ValueError, match="expected at most"):
                await pool.run_request(bytes(MOST_BYTES + 1))

    run(test)


def test_a_late_request_fails_in_time_and_its_process_is_replaced() -> None:
    async def test() -> None:
        async with running(kill_after_s=0.2) as pool:
            first = await pool.run_request(b"pid")
            with pytest.raises(HelperDied, match="took too long"):
                await pool.run_request(b"sleep 600")
            assert await pool.run_request(b"pid") != first  # it waits for the next process

    run(test)


def test_requests_in_the_queue_wait_for_the_next_process() -> None:
    """Only the request that the process was working on fails, and it is not tried again: it would end each process."""

    async def test() -> None:
        async with asyncio.timeout(PATIENT_S), running() as pool:
            first = await pool.run_request(b"pid")
            requests = [b"die", b"pid", b"die", b"pid", b"pid"]
            found = await asyncio.gather(*map(pool.run_request, requests), return_exceptions=True)
            assert [type(each) for each in found] == [HelperDied, bytes, HelperDied, bytes, bytes]
            assert len({first, found[1], found[3]}) == 3
            assert found[3] == found[4]

    run(test)


def test_the_queue_is_bounded_while_there_is_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "FIRST_DELAY_S", pools.MOST_DELAY_S)

    async def test() -> None:
        async with running(queue=1) as pool:
            await pool.run_request(b"pid")
            with pytest.raises(HelperDied):
                await pool.run_request(b"die")
            waiting = asyncio.ensure_future(pool.run_request(b"pid"))
            await turns()
            with pytest.raises(HelperBusy, match="1 requests are waiting for 0 processes"):
                await pool.run_request(b"pid")
        with pytest.raises(HelperDied, match="the helper process was stopped"):
            await waiting
        with pytest.raises(HelperBusy):
            await pool.run_request(b"pid")

    run(test)


def test_nobody_waits_for_a_process_that_starts_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request would wait until its deadline for nothing."""
    monkeypatch.setattr(pools, "FIRST_DELAY_S", pools.MOST_DELAY_S)

    async def test() -> None:
        async with asyncio.timeout(PATIENT_S), running(processes=2) as pool:
            await pool.started
            for _ in range(2):
                with pytest.raises(HelperDied):
                    await pool.run_request(b"die")
            with pytest.raises(HelperBusy, match="there is no process, and none starts within 10 s"):
                await pool.run_request(b"pid", deadline_s=10)
            assert repr(pool) == "<HelperPool test: no process, 0 waiting>"

    run(test)


def test_a_request_waits_for_a_process_that_starts_before_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes that start again, the first one counts."""

    async def test() -> None:
        async with asyncio.timeout(PATIENT_S), running(processes=2) as pool:
            await pool.started
            for delay in (pools.MOST_DELAY_S, 0.1):
                monkeypatch.setattr(pools, "FIRST_DELAY_S", delay / 2**pool._failures)
                with pytest.raises(HelperDied):
                    await pool.run_request(b"die")
            assert pool.ready == 0
            assert await pool.run_request(b"pid", deadline_s=20)

    run(test)


@pytest.mark.parametrize("command", [("/nothing/here",), (sys.executable, "-c", "")], ids=["not found", "ends"])
def test_nobody_waits_for_a_process_that_cannot_be_started_any_more(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    async def test() -> None:
        async with asyncio.timeout(PATIENT_S), running() as pool:
            await pool.run_request(b"pid")
            works, broken = pools.COMMAND, command
            monkeypatch.setattr(pools, "COMMAND", broken)
            ended, waiting = await asyncio.gather(
                pool.run_request(b"die"), pool.run_request(b"pid"), return_exceptions=True
            )
            assert (type(ended), type(waiting)) == (HelperDied, HelperBusy)
            with pytest.raises(HelperBusy, match="there is no process, and none could be started"):
                await pool.run_request(b"pid")
            monkeypatch.setattr(pools, "COMMAND", works)
            assert await answered(pool, b"pid")

    run(test)


KILLED = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")


def test_requests_in_the_queue_wait_if_the_next_process_is_killed_while_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as by the kernel that is out of memory: it says nothing about the process after it."""
    works, starts = pools.COMMAND, iter(range(1, 8))
    start_process = pools._start_process

    def start(standard_input: socket.socket) -> pools._Process:
        monkeypatch.setattr(pools, "COMMAND", KILLED if next(starts) in (2, 3, 5, 6) else works)
        return start_process(standard_input)

    monkeypatch.setattr(pools, "_start_process", start)

    async def test() -> None:
        async with asyncio.timeout(PATIENT_S), running() as pool:
            for _ in range(2):  # a process that becomes ready begins a new row of those that are killed
                first = await pool.run_request(b"pid")
                requests = [b"die", b"pid", b"pid"]
                found = await asyncio.gather(*map(pool.run_request, requests), return_exceptions=True)
                assert [type(each) for each in found] == [HelperDied, bytes, bytes]
                assert first != found[1] == found[2]

    run(test)
    assert next(starts, None) is None


@pytest.mark.parametrize("processes", [1, 2])
def test_nobody_waits_for_processes_that_are_killed_at_every_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, processes: int
) -> None:
    """Such as by a limit of memory that is too low for the program."""
    works = pools.COMMAND
    monkeypatch.setattr(pools, "COMMAND", KILLED)
    monkeypatch.setattr(pools, "FIRST_DELAY_S", 0.01)

    async def test() -> None:
        async with asyncio.timeout(PATIENT_S), running(processes=processes) as pool:
            with pytest.raises(HelperBusy, match="the helper process was killed by signal 9"):
                await pool.run_request(b"pid", deadline_s=2 * PATIENT_S)
            assert len(caplog.messages) >= pools.MOST_KILLS * processes
            with pytest.raises(HelperBusy):
                await pool.run_request(b"pid", deadline_s=2 * PATIENT_S)
            monkeypatch.setattr(pools, "COMMAND", works)
            assert await answered(pool, b"pid")

    run(test)


def test_processes_that_are_killed_while_they_start_are_started_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pools, "COMMAND", KILLED)

    async def test() -> None:
        async with asyncio.timeout(PATIENT_S), running():
            while len(caplog.messages) < 3:
                await asyncio.sleep(0.02)

    run(test)
    assert [message.rpartition("another one starts in ")[2] for message in caplog.messages[:3]] == [
        "0.1 s",
        "0.2 s",
        "0.4 s",
    ]


def test_the_end_of_a_process_is_described_also_if_its_status_is_known_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system closes the socket of a process before its status can be read."""
    polls = iter(range(4))
    poll = pools._Process.poll

    def poll_late(process: pools._Process) -> int | None:
        return poll(process) if next(polls, None) is None else None

    monkeypatch.setattr(pools._Process, "poll", poll_late)

    async def test() -> None:
        async with asyncio.timeout(PATIENT_S), running() as pool:
            await pool.run_request(b"pid")
            ended, waiting = await asyncio.gather(
                pool.run_request(b"die"), pool.run_request(b"pid"), return_exceptions=True
            )
            assert isinstance(ended, HelperDied)
            assert str(ended) == "the helper process was killed by signal 11"
            assert isinstance(waiting, bytes)

    run(test)


def test_a_process_that_is_ending_gets_no_request_and_is_not_waited_for_by_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pools, "FIRST_LOOK_S", PATIENT_S)
    monkeypatch.setattr(pools, "MOST_LOOK_S", PATIENT_S)

    async def test() -> None:
        async with asyncio.timeout(PATIENT_S / 2), running() as pool:
            pid = int(await pool.run_request(b"pid"))
            with monkeypatch.context() as patch:
                patch.setattr(pools._Process, "poll", lambda process: None)
                os.kill(pid, 9)
                while pool.ready:
                    await asyncio.sleep(0.02)
                assert repr(pool) == "<HelperPool test: ending, 0 waiting>"
                waiting = asyncio.ensure_future(pool.run_request(b"pid"))
                await turns()
                assert repr(pool) == "<HelperPool test: ending, 1 waiting>"
        with pytest.raises(HelperDied, match="the helper process was stopped"):
            await waiting

    run(test)


def test_a_process_that_closes_its_socket_and_lives_on_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "COMMAND", (sys.executable, "-c", "import os, time; os.close(0); time.sleep(600)"))

    async def test() -> None:
        async with asyncio.timeout(PATIENT_S), running() as pool:
            with pytest.raises(HelperBusy, match="the helper process has closed its socket"):
                await pool.run_request(b"pid")

    run(test)


def test_a_caller_does_not_wait_for_a_process_that_may_go_on() -> None:
    """With a longer time for the process, the result is discarded and the process used again."""

    async def test() -> None:
        async with running(kill_after_s=PATIENT_S) as pool:
            first = await pool.run_request(b"pid")
            with pytest.raises(HelperLate):
                await pool.run_request(b"sleep 0.3", deadline_s=0.01)
            with pytest.raises(HelperLate):  # the time in the queue counts
                await pool.run_request(b"pid", deadline_s=0.01)
            assert await pool.run_request(b"pid") == first

    run(test)


def test_a_request_whose_caller_does_not_wait_any_more_is_not_in_the_queue() -> None:
    """It would hold its body, and the place of another one, until a process is idle."""

    async def test() -> None:
        async with running(queue=1, kill_after_s=PATIENT_S) as pool:
            await pool.run_request(b"pid")
            loop = asyncio.get_running_loop()
            running_one = loop.create_task(pool.run_request(b"sleep 600"))
            await turns()
            for _ in range(3):
                with pytest.raises(HelperLate):
                    await pool.run_request(b"echo late", deadline_s=0.01)
                left = loop.create_task(pool.run_request(b"echo cancelled"))
                await turns()
                assert repr(pool) == "<HelperPool test: busy, 1 waiting>"
                left.cancel()
                await turns()
                assert repr(pool) == "<HelperPool test: busy, 0 waiting>"
            running_one.cancel()

    run(test)


def test_a_late_request_holds_nothing_of_its_caller_while_its_process_goes_on() -> None:
    async def call(pool: HelperPool) -> weakref.ref[set[bytes]]:
        held = {b"a body"}
        try:
            await pool.run_request(b"sleep 600", deadline_s=0.01)
        except HelperLate:
            return weakref.ref(held)
        raise AssertionError

    async def test() -> None:
        async with running(kill_after_s=PATIENT_S) as pool:
            await pool.run_request(b"pid")
            with no_collector():
                held = await call(pool)
                assert repr(pool) == "<HelperPool test: busy, 0 waiting>"
                assert held() is None

    run(test)


def test_a_late_request_leaves_nothing_to_the_collector() -> None:
    """It may be large, and is in no budget once its caller has its error."""

    async def test() -> None:
        async with running(kill_after_s=PATIENT_S) as pool:
            await pool.run_request(b"pid")
            with garbage() as found:
                with pytest.raises(HelperLate):
                    await pool.run_request(b"sleep 0.5", deadline_s=0.01)
                await pool.run_request(b"pid")
            assert found == []

    run(test)


def test_the_queue_is_bounded_and_cancelled_callers_leave_it() -> None:
    async def test() -> None:
        async with running(queue=2) as pool:
            await pool.run_request(b"pid")
            slow = asyncio.ensure_future(pool.run_request(b"sleep 0.5"))
            waiting = [asyncio.ensure_future(pool.run_request(b"echo %d" % each)) for each in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(HelperBusy):
                await pool.run_request(b"pid")
            waiting[0].cancel()
            assert await waiting[1] == b"1"
            assert await slow == b"slept"

    run(test)


def test_a_process_that_dies_is_replaced_and_its_caller_hears_of_it() -> None:
    async def test() -> None:
        async with running(processes=2) as pool:
            pids = {await pool.run_request(b"pid") for _ in range(2)}
            with pytest.raises(HelperDied):
                await pool.run_request(b"die")
            assert await answered(pool, b"pid")
            async with asyncio.timeout(PATIENT_S):
                while pool.ready < 2:
                    await asyncio.sleep(0.02)
            assert len(pool.pids) == 2
            assert pids

    run(test)


def test_a_program_that_cannot_start_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with running(argument=b"broken") as pool:
            with pytest.raises(HelperBusy, match="ValueError: these rules do not load"):
                await pool.run_request(b"pid")

    run(test)
    assert "these rules do not load" in caplog.text


def test_a_pool_has_started_when_all_its_processes_are_ready() -> None:
    async def test() -> None:
        async with asyncio.timeout(PATIENT_S), running(processes=2) as pool:
            assert not pool.started.done()
            await pool.started
            assert pool.ready == 2

    run(test)


@pytest.mark.parametrize("ending", ["broken", "closed"])
def test_nobody_waits_for_a_pool_that_cannot_start(ending: str) -> None:
    async def test() -> None:
        async with asyncio.timeout(PATIENT_S), running(argument=ending.encode()) as pool:
            if ending == "closed":
                pool.close()
            await pool.started
            assert pool.ready == 0

    run(test)


def test_a_shared_pool_ends_with_its_last_use_and_its_last_request() -> None:
    async def test() -> None:
        async with asyncio.timeout(PATIENT_S):
            awaited: list[asyncio.Future[None]] = []
            shared = SharedPool(program())
            shared.start(asyncio.get_running_loop(), 1, 0, awaited.append)
            await awaited[0]
            pid = await shared.run_request(b"pid")
            slow = asyncio.ensure_future(shared.run_request(b"sleep 0.2"))
            await asyncio.sleep(0)
            shared.stop()
            assert await shared.run_request(b"pid") == pid
            assert await slow == b"slept"
            late = await shared.run_request(b"pid")  # of an exchange that began before
            assert late != pid
            for each in (pid, late):
                with contextlib.suppress(ProcessLookupError):
                    while True:
                        os.kill(int(each), 0)
                        await asyncio.sleep(0.02)

    run(test)


def test_a_process_that_finds_no_descriptor_starts_once_there_is_room(caplog: pytest.LogCaptureFixture) -> None:
    """At once, and with nothing in the log: idle connections are closed for it."""
    held: list[int] = []

    def make_room() -> bool:
        for descriptor in held[:16]:
            os.close(descriptor)
        del held[:16]
        return True

    async def test() -> None:
        pool = HelperPool(asyncio.get_running_loop(), program(), make_room)
        with all_descriptors(held):
            pool.start()
            await pool.run_request(b"pid")
        pool.close()
        async with asyncio.timeout(PATIENT_S):
            await pool.ended()

    run(test)
    assert not caplog.records


@contextlib.contextmanager
def all_descriptors(held: list[int]) -> Iterator[None]:
    """Leave no descriptor to this process: `held` has them."""
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 40, former[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            held.extend(iter(lambda: os.dup(0), -1))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, former)
        for descriptor in held:
            os.close(descriptor)


def test_a_closed_pool_leaves_no_process() -> None:
    async def test() -> list[int]:
        async with running(processes=2) as pool:
            waiting = asyncio.ensure_future(pool.run_request(b"sleep 600"))
            async with asyncio.timeout(PATIENT_S):
                while pool.ready < 2:
                    await asyncio.sleep(0.02)
            pids = pool.pids
        with pytest.raises(HelperDied, match="stopped"):
            await waiting
        return pids

    for pid in run(test):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_process_finds_the_packages_of_its_gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It runs in another folder, where an empty or relative one would be a different one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "packages::/opt/more:")
    assert pools._paths() == {"PYTHONPATH": f"{tmp_path}/packages:/opt/more"}
    monkeypatch.setenv("PYTHONPATH", "")
    assert pools._paths() == {}
