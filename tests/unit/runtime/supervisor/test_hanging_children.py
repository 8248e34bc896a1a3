"""Whom the overseer of the workers calls silent or hung, by their beats and nothing else."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from math import inf

import pytest

from fastgw.runtime.ipc.channel import Channel
from fastgw.runtime.node.child_slots import Child
from fastgw.runtime.node.heartbeat_monitor import HUNG_S, LOOK_MAX, SILENT_S
from fastgw.runtime.supervisor.hang_detection import HangDetector


class Watched:
    """A worker that does not beat, and who was told that it went silent, or sends heartbeats again."""

    def __init__(self, pid: int) -> None:
        self._ends = Channel.pair()
        self.child = Child(pid, self._ends[0], "worker 1", 0, time.monotonic())
        self.child.generation, self.child.ready = 1, True
        self.beat = 1
        self.told: list[bool] = []
        self._overseer = HangDetector(
            lambda child: self.beat, lambda child: 0.0, lambda child: self.told.append(child.silent)
        )
        self._now = self._overseer.next_look_at

    def look_for(self, seconds: float) -> None:
        """Look again and again, for so long by the clock."""
        until = self._now + seconds
        while self._now < until:
            self._now += LOOK_MAX
            self._overseer.check_children([self.child], self._now, serving=True)

    def close(self) -> None:
        for end in self._ends:
            end.close()


@pytest.fixture
def watched() -> Iterator[Watched]:
    """Of a real process, which takes a signal without a word."""
    with subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE) as sleeper:
        assert sleeper.stdout is not None
        sleeper.stdout.readline()
        watched = Watched(sleeper.pid)
        yield watched
        watched.close()
        sleeper.kill()


SLEEPER = """
import signal, time
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
print(flush=True)
time.sleep(100)
"""


def test_who_does_not_beat_is_silent_then_hung_then_killed(watched: Watched) -> None:
    watched.look_for(SILENT_S + LOOK_MAX)
    assert (watched.told, watched.child.kill_at) == ([True], inf)
    watched.beat += 1
    watched.look_for(LOOK_MAX)
    assert watched.told == [True, False]
    watched.look_for(HUNG_S + LOOK_MAX)
    assert watched.told == [True, False, True]
    assert watched.child.kill_at < inf
    watched.look_for(LOOK_MAX)
    assert os.waitid(os.P_PID, watched.child.pid, os.WEXITED | os.WNOWAIT) is not None


def test_who_beats_where_nobody_sees_it_is_left_alone(watched: Watched) -> None:
    """A worker that an upgrade has taken over, and that writes into memory of another layout."""
    watched.child.beats = False
    watched.look_for(3 * HUNG_S)
    assert (watched.told, watched.child.kill_at) == ([], inf)


def test_silence_before_an_upgrade_counts_after_it(watched: Watched) -> None:
    watched.child.heartbeat.check_heartbeat(watched.beat, 0.0)
    watched.child.silent, watched.child.heartbeat.silence = True, HUNG_S - LOOK_MAX
    watched.look_for(LOOK_MAX)
    assert watched.told == []
    assert watched.child.kill_at < inf
