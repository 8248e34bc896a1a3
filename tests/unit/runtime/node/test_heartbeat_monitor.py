"""When a worker counts as silent: what its beats show, and what they do not."""

import pytest

from fastgw.runtime.node.heartbeat_monitor import HUNG_S, LOOK_EVERY, LOOK_MAX, SILENT_S, HeartbeatMonitor


@pytest.fixture
def pulse() -> HeartbeatMonitor:
    pulse = HeartbeatMonitor()
    pulse.feel(1000, LOOK_EVERY)
    return pulse


def test_silence_grows_while_the_beat_stands_still(pulse):
    silences = []
    for _ in range(4):
        pulse.feel(1000, LOOK_EVERY)
        silences.append(pulse.silence)
    assert silences == [LOOK_EVERY, 2 * LOOK_EVERY, 3 * LOOK_EVERY, 4 * LOOK_EVERY]


def test_a_beat_ends_it(pulse):
    pulse.feel(1000, LOOK_MAX)
    pulse.feel(1001, LOOK_MAX)
    assert pulse.silence == 0.0


def test_a_pause_of_the_watcher_is_no_silence_of_the_watched(pulse):
    """A machine that was suspended for an hour, or a supervisor that was: nobody is judged by one look."""
    pulse.feel(1000, 3600.0)
    assert pulse.silence == LOOK_MAX < SILENT_S < HUNG_S


def test_before_the_first_beat_silence_grows_too():
    """A child that never gets to its first beat can then be told from one that does, when nobody waits for it."""
    pulse = HeartbeatMonitor()
    pulse.feel(0, LOOK_EVERY)
    assert pulse.silence == LOOK_EVERY


def test_what_neighbours_tell_counts_for_a_silence_and_for_no_more(pulse):
    pulse.feel(1000, 3600.0, behind=3600.0)
    assert pulse.silence == SILENT_S
    pulse.feel(1001, 3600.0, behind=3600.0)
    assert pulse.silence == 0.0
