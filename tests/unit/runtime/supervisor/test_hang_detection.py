"""Whom the overseer of the workers kills, when, and who is given more time or none."""

import signal
from collections.abc import Iterator

import pytest

from fastgw.runtime.node.child_slots import Child
from fastgw.runtime.node.heartbeat_monitor import (
    CONTROL_HUNG_S,
    HUNG_S,
    LATE_S,
    LOOK_EVERY,
    SET_UP_S,
    SILENT_S,
    STACK_S,
)
from fastgw.runtime.supervisor import hang_detection
from fastgw.runtime.supervisor.hang_detection import HangDetector
from tests.support.node import Crew

KILL, STACK = signal.SIGKILL, signal.SIGUSR2


class Watch(Crew):
    """Two workers, looked at as time goes by. `beating`: those that beat."""

    def __init__(self) -> None:
        super().__init__(2)
        self.first, self.second = self.children
        self.beating = set(self.children)
        self.hushed: list[Child] = []
        self.killed: list[tuple[int, int]] = []
        self.lateness = 0.0
        self._beat = self._stopped_at = 1
        self._now = 1000.0
        self._overseer = HangDetector(self._beat_of, lambda child: self.lateness, self.hushed.append)
        self._overseer._looked_at = self._now
        self.go_on(LOOK_EVERY)

    def _beat_of(self, child: Child) -> int:
        return self._beat if child in self.beating else self._stopped_at

    def go_on(self, seconds: float, serving: bool = True) -> None:
        """So much time goes by, with a look in each interval."""
        until = self._now + seconds
        while self._now < until:
            self._now += LOOK_EVERY
            self._beat += int(LOOK_EVERY * 1e9)
            self._overseer.check_children(self.children, self._now, serving=serving)

    def stop(self, child: Child) -> None:
        """It has beaten a moment ago, and does not any more."""
        self._stopped_at = self._beat
        self.beating.discard(child)

    def pause(self, seconds: float, serving: bool = True) -> None:
        """So much time goes by, and nobody looks before it is over."""
        self._now += seconds
        self._beat += int(seconds * 1e9)
        self._overseer.check_children(self.children, self._now, serving=serving)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    watch = Watch()
    monkeypatch.setattr(hang_detection.os, "kill", lambda pid, number: watch.killed.append((pid, number)))
    monkeypatch.setattr(hang_detection, "request_stack_dump", lambda pid: watch.killed.append((pid, STACK)))
    yield watch
    watch.close()


def test_who_beats_is_left_alone(watch):
    watch.go_on(5 * HUNG_S)
    assert (watch.hushed, watch.killed) == ([], [])


def test_who_stays_silent_says_where_it_hangs_and_is_killed(watch, capfd):
    watch.beating.remove(watch.first)
    watch.go_on(HUNG_S - LOOK_EVERY)
    assert watch.killed == []
    watch.go_on(2 * LOOK_EVERY)
    assert watch.killed[:1] == [(watch.first.pid, STACK)]
    watch.go_on(STACK_S + LOOK_EVERY)
    assert (watch.first.pid, KILL) in watch.killed
    assert "worker 1 (pid 4711) has sent no heartbeat for 10 s: killing it; its stack:" in capfd.readouterr().err
    assert {pid for pid, _ in watch.killed} == {watch.first.pid}


def test_control_is_given_less(watch, capfd):
    watch.first.hung_s = CONTROL_HUNG_S
    watch.beating.remove(watch.first)
    watch.go_on(CONTROL_HUNG_S + STACK_S + LOOK_EVERY)
    assert watch.hushed == [watch.first]
    assert (watch.first.pid, KILL) in watch.killed


def test_who_is_being_set_up_has_longer(watch):
    watch.beating.remove(watch.first)
    watch.first.ready, watch.first.generation = False, 0
    watch.go_on(SET_UP_S - 2 * LOOK_EVERY)
    assert (watch.hushed, watch.killed) == ([], [])
    watch.go_on(3 * LOOK_EVERY)
    assert watch.killed[:1] == [(watch.first.pid, STACK)]


def test_who_was_set_up_and_is_brought_up_to_date_has_not(watch):
    watch.beating.remove(watch.first)
    watch.first.ready = False
    watch.go_on(HUNG_S + LOOK_EVERY)
    assert watch.killed[:1] == [(watch.first.pid, STACK)]


def test_at_the_end_nobody_waits_for_who_is_silent(watch):
    watch.beating.remove(watch.first)
    watch.go_on(SILENT_S + LOOK_EVERY, serving=False)
    assert watch.killed[:1] == [(watch.first.pid, STACK)]


def test_who_takes_no_more_messages_is_killed(watch):
    watch.first.lost = True
    watch.go_on(LOOK_EVERY)
    assert watch.killed[:1] == [(watch.first.pid, STACK)]


def test_whose_time_is_up_is_killed_although_it_beats(watch):
    """It was told to go."""
    watch.first.dismiss()
    watch.first.kill_at = 1003.0
    watch.go_on(1.5)
    assert watch.killed == []
    watch.go_on(1.5)
    assert watch.killed[0] == (watch.first.pid, KILL)


def test_who_falls_behind_the_others_while_nobody_looks_is_silent_at_the_next_look(watch):
    """But it is not ended for that, however long it was: it may go on in a moment."""
    watch.stop(watch.first)
    watch.pause(3600.0)
    assert (watch.hushed, watch.killed) == ([watch.first], [])
    watch.go_on(HUNG_S - SILENT_S - LOOK_EVERY)
    assert watch.killed == []
    watch.go_on(2 * LOOK_EVERY)
    assert watch.killed[:1] == [(watch.first.pid, STACK)]


def test_neighbours_that_were_late_themselves_tell_nothing_of_others(watch):
    """The whole machine may have been paused, and the other is about to beat."""
    watch.stop(watch.first)
    watch.lateness = LATE_S
    watch.pause(3600.0)
    assert watch.hushed == []
    watch.go_on(SILENT_S)
    assert watch.hushed == [watch.first]


def test_nobody_has_beaten_while_nobody_looked(watch):
    watch.stop(watch.first)
    watch.stop(watch.second)
    watch.pause(3600.0)
    assert watch.hushed == []


def test_in_a_drain_nobody_is_ended_for_what_nobody_saw(watch):
    watch.stop(watch.first)
    watch.pause(3600.0, serving=False)
    assert watch.killed == []
