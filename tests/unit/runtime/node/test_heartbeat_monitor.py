"""When a worker counts as silent: what its beats show, and what they do not."""

import pytest

from fastgw.runtime.node.heartbeat_monitor import HUNG_S, LOOK_EVERY, LOOK_MAX, SILENT_S, HeartbeatMonitor


@pytest.fixture
def heartbeat() -> HeartbeatMonitor:
    heartbeat = HeartbeatMonitor()
    heartbeat.check_heartbeat(1000, LOOK_EVERY)
    return heartbeat


def test_silence_grows_while_the_beat_stands_still(heartbeat):
    silences = []
    for _ in range(4):
        heartbeat.check_heartbeat(1000, LOOK_EVERY)
        silences.append(heartbeat.silence)
    assert silences == [LOOK_EVERY, 2 * LOOK_EVERY, 3 * LOOK_EVERY, 4 * LOOK_EVERY]


def test_a_beat_ends_it(heartbeat):
    heartbeat.check_heartbeat(1000, LOOK_MAX)
    heartbeat.check_heartbeat(1001, LOOK_MAX)
    assert heartbeat.silence == 0.0


def test_a_pause_of_the_watcher_is_no_silence_of_the_watched(heartbeat):
    """A machine that was suspended for an hour, or a supervisor that was: nobody is judged by one look."""
    heartbeat.check_heartbeat(1000, 3600.0)
    assert heartbeat.silence == LOOK_MAX < SILENT_S < HUNG_S


def test_before_the_first_beat_silence_grows_too():
    """A child that never gets to its first beat can then be told from one that does, when nobody waits for it."""
    heartbeat = HeartbeatMonitor()
    heartbeat.check_heartbeat(0, LOOK_EVERY)
    assert heartbeat.silence == LOOK_EVERY


def test_what_neighbours_tell_counts_for_a_silence_and_for_no_more(heartbeat):
    heartbeat.check_heartbeat(1000, 3600.0, behind=3600.0)
    assert heartbeat.silence == SILENT_S
    heartbeat.check_heartbeat(1001, 3600.0, behind=3600.0)
    assert heartbeat.silence == 0.0
