"""The phases of a gateway's life: who is told what, and when."""

import re
import signal
import socket
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest

from fastgw.config.settings.gateway import DrainTimeouts
from fastgw.runtime.ipc.channel import Drain, Drained, Stop
from fastgw.runtime.node.systemd_notify import Notifier
from fastgw.runtime.process.signals import Signals
from fastgw.runtime.supervisor import lifecycle as module
from fastgw.runtime.supervisor.children import Children
from fastgw.runtime.supervisor.lifecycle import FLUSH_GRACE, REPEATED, STOP_GRACE, Lifecycle, LifecyclePhase
from tests.support.gateway import messages
from tests.support.node import Crew, close_node, node_state_of, sealed_document

PROJECT = Path(__file__).parents[4]


class Clock:
    """The time of this module, which stands still between two steps of a test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Node(Crew):
    """Two workers and control, all ready."""

    def __init__(self, delay: str, notifier: Notifier | None = None) -> None:
        super().__init__(3)
        more = f"timeouts: {{drain: {{delay: {delay}, requests: 30s, tunnels: 300s}}}}\nstatus: null"
        self.node_state = node_state_of(sealed=sealed_document(1, more=more))
        self._signals = Signals(())
        self.slots = Children(self.node_state, {}, self._signals, lambda: None)
        *self.workers, self.control = self.children
        for slot, child in zip(self.slots.workers, self.workers, strict=True):
            slot.child = child
        self.slots.control.child = self.control
        self.control.column = None
        self.life = Lifecycle(self.node_state, self.slots, notifier or Notifier(""))

    def dies(self, index: int) -> None:
        self.slots.workers[index].child = None
        self.life.has_died()

    @property
    def is_ready(self) -> bool:
        return self.node_state.words.is_serving(self.node_state.shared)

    def close(self) -> None:
        super().close()
        self._signals.close()
        close_node(self.node_state)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node("0s")
    node.life.serve()
    yield node
    node.close()


@pytest.fixture
def delayed() -> Iterator[Node]:
    node = Node("5s")
    node.life.serve()
    yield node
    node.close()


def test_who_serves_is_ready_and_waits_for_nothing(node):
    assert (node.life.phase, node.life.goes_on, node.life.due_at, node.is_ready) == (
        LifecyclePhase.SERVING,
        True,
        inf,
        True,
    )


def test_a_drain_is_told_to_workers_and_control_goes_last(node, clock, capfd):
    node.life.terminate("SIGTERM")
    assert not node.is_ready
    node.life.do_what_is_due(clock.now)
    assert node.life.phase is LifecyclePhase.DRAINING
    assert [node.told(child) for child in node.children] == [[Drain], [Drain], []]
    assert node.life.due_at == clock.now + 300 + FLUSH_GRACE
    node.life.has_drained(Drained(generation=1, drained=2, cut=0))
    node.dies(0)
    assert node.told(node.control) == []
    clock.now += 3
    node.life.has_drained(Drained(generation=1, drained=1, cut=1))
    node.dies(1)
    assert node.told(node.control) == [Stop]
    node.life.log_end()
    told = ["asked by SIGTERM", "drained 3 requests in 3.0 s, 1 cut"]
    assert messages(capfd.readouterr().err) == told


def test_what_workers_have_drained_before_the_shutdown_is_not_part_of_it(node, clock, capfd):
    """A worker that was replaced counts from the shutdown on, whose last event would miss what it cuts."""
    node.life.has_drained(Drained(generation=1, drained=7, cut=5))
    node.life.terminate("SIGTERM")
    node.life.do_what_is_due(clock.now)
    node.life.has_drained(Drained(generation=1, drained=0, cut=1))
    node.life.log_end()
    assert messages(capfd.readouterr().err)[-1] == "drained 0 requests in 0.0 s, 1 cut"


def test_workers_that_do_not_end_are_killed_and_then_control_has_its_time(node, clock, monkeypatch):
    """It writes what they have counted."""
    killed = []
    monkeypatch.setattr(module.os, "kill", lambda pid, number: killed.append((pid, number)))
    node.life.terminate("SIGTERM")
    node.life.do_what_is_due(clock.now)
    clock.now = node.life.due_at
    node.life.do_what_is_due(clock.now)
    assert killed == [(child.pid, signal.SIGKILL) for child in node.workers]
    assert node.told(node.control) == []
    for index, _ in enumerate(node.workers):
        node.dies(index)
    assert node.told(node.control) == [Stop]
    assert node.life.due_at == clock.now + STOP_GRACE
    clock.now = node.life.due_at
    node.life.do_what_is_due(clock.now)
    assert killed[2:] == [(node.control.pid, signal.SIGKILL)]


def test_for_a_while_only_readiness_is_off(delayed, clock):
    delayed.life.terminate("SIGTERM")
    assert (delayed.is_ready, delayed.life.phase, delayed.life.goes_on) == (False, LifecyclePhase.SERVING, False)
    assert delayed.life.due_at == clock.now + 5
    clock.now += 4.9
    delayed.life.do_what_is_due(clock.now)
    assert delayed.life.phase is LifecyclePhase.SERVING
    assert [delayed.told(child) for child in delayed.children] == [[], [], []]
    clock.now += 0.2
    delayed.life.do_what_is_due(clock.now)
    assert delayed.life.phase is LifecyclePhase.DRAINING


def test_who_signals_process_and_group_is_not_impatient_and_who_comes_back_is(delayed, clock):
    delayed.life.terminate("SIGTERM")
    clock.now += REPEATED - 0.1
    delayed.life.terminate("SIGTERM")
    assert delayed.life.phase is LifecyclePhase.SERVING
    clock.now += 0.1
    delayed.life.terminate("SIGTERM")
    assert delayed.life.phase is LifecyclePhase.STOPPING
    assert [delayed.told(child) for child in delayed.children] == [[Stop], [Stop], [Stop]]


def test_a_first_signal_after_another_wish_to_leave_is_no_impatience(node, clock):
    node.life.start_shutdown("the admin API")
    node.life.do_what_is_due(clock.now)
    clock.now += 10
    node.life.terminate("SIGTERM")
    assert node.life.phase is LifecyclePhase.DRAINING
    clock.now += 10
    node.life.terminate("SIGTERM")
    assert node.life.phase is LifecyclePhase.STOPPING


def test_who_asks_again_to_leave_changes_nothing(delayed, clock, capfd):
    delayed.life.start_shutdown("the admin API")
    due_at = delayed.life.due_at
    clock.now += 1
    delayed.life.start_shutdown("the admin API")
    assert delayed.life.due_at == due_at
    told = "asked by the admin API, readiness is off, drain begins in 5 s"
    assert messages(capfd.readouterr().err) == [told]


def test_an_end_at_once_waits_a_moment_and_not_longer_for_who_asks_again(node, clock, capfd):
    node.life.stop()
    due_at = node.life.due_at
    assert due_at == clock.now + STOP_GRACE
    clock.now += 1
    node.life.stop()
    assert node.life.due_at == due_at
    node.life.log_end()
    assert messages(capfd.readouterr().err) == ["at once, without draining"]


def test_without_a_worker_a_drain_is_over_at_once(node, clock):
    for slot in node.slots.workers:
        slot.child = None
    node.life.terminate("SIGTERM")
    node.life.do_what_is_due(clock.now)
    assert node.told(node.control) == [Stop]


def test_who_was_sent_away_before_is_not_told_to_drain_again(node, clock):
    first, _ = node.workers
    node.slots.workers[0].child = None
    first.leaving = True
    node.slots.leaving.append(first)
    node.life.terminate("SIGTERM")
    node.life.do_what_is_due(clock.now)
    assert node.told(first) == []


@pytest.mark.parametrize("asked", ["SIGINT", "SIGTERM twice", "SIGTERM in the start"])
def test_an_end_at_once_is_reported_once_to_systemd(tmp_path, clock, asked):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        node = Node("5s", Notifier(str(tmp_path / "notify")))
        if asked != "SIGTERM in the start":
            node.life.serve()
        if asked == "SIGINT":
            node.life.stop()
        else:
            node.life.terminate("SIGTERM")
            clock.now += REPEATED
        if asked == "SIGTERM twice":
            node.life.terminate("SIGTERM")
        assert node.life.phase is LifecyclePhase.STOPPING
        assert systemd.recv(99).startswith(b"STOPPING=1\nEXTEND_TIMEOUT_USEC=")
        with pytest.raises(BlockingIOError):
            systemd.recv(99)
        node.close()


def test_a_start_that_is_interrupted_ends_at_once():
    node = Node("5s")
    node.life.terminate("SIGTERM")
    assert node.life.phase is LifecyclePhase.STOPPING
    node.close()


@pytest.mark.parametrize(
    ("file", "stated"),
    [
        ("docs/guides/containers.md", r"docker stop -t (\d+)"),
        ("docs/guides/containers.md", r"stop_grace_period: (\d+)s"),
        ("deploy/systemd/fastgw.service", r"TimeoutStopSec=(\d+)"),
    ],
)
def test_what_stops_a_gateway_is_advised_to_wait_for_its_longest_drain(file: str, stated: str) -> None:
    """With the defaults of `timeouts.drain`: what kills it earlier cuts tunnels that it would have let end."""
    drain = DrainTimeouts()
    found = re.search(stated, (PROJECT / file).read_text())
    assert found is not None
    assert int(found[1]) >= drain.delay + max(drain.requests, drain.tunnels) + FLUSH_GRACE + STOP_GRACE
