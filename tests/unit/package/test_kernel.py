"""System calls: what the scheduler is asked for, read back from it."""

import ctypes
import os
import re
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastgw.kernel import run_when_woken

_SCHED_GETATTR = 315 if os.uname().machine == "x86_64" else 275
_SHORTEST_NS = 100_000


def _policy_and_slice() -> tuple[int, int]:
    attributes = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(_SCHED_GETATTR, 0, attributes, 48, 0) == 0
    _, policy, _, _, _, slice_ns, _, _ = struct.unpack("=IIQiIQQQ", attributes.raw)
    return policy, slice_ns


def _in_a_thread(look: Callable[[], tuple[int, int]]) -> tuple[int, int]:
    with ThreadPoolExecutor(1) as threads:  # a policy is that of a thread
        return threads.submit(look).result()


def _has_slices() -> bool:
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    assert found is not None
    return tuple(map(int, found.groups())) >= (6, 12)


def test_a_thread_that_runs_when_woken_has_the_shortest_slices():
    def look() -> tuple[int, int]:
        run_when_woken()
        return _policy_and_slice()

    usual = _in_a_thread(_policy_and_slice)
    assert _in_a_thread(look) == ((os.SCHED_OTHER, _SHORTEST_NS) if _has_slices() else usual)


def test_what_it_starts_has_usual_slices():
    def look() -> tuple[int, int]:
        run_when_woken()
        return _in_a_thread(_policy_and_slice)

    assert _in_a_thread(look) == _in_a_thread(_policy_and_slice)


def test_a_negative_nice_value_is_kept_for_what_it_starts():
    def look() -> tuple[int, int]:
        os.setpriority(os.PRIO_PROCESS, 0, -5)  # of this thread
        run_when_woken()
        return _in_a_thread(lambda: (os.getpriority(os.PRIO_PROCESS, 0), _policy_and_slice()[1]))

    if os.geteuid():
        pytest.skip("a lower nice value takes root")
    assert _in_a_thread(look) == (-5, _in_a_thread(_policy_and_slice)[1])


def test_a_policy_that_was_chosen_is_kept():
    def look() -> tuple[int, int]:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        before = _policy_and_slice()
        run_when_woken()
        assert _policy_and_slice() == before
        return before

    policy, _ = _in_a_thread(look)
    assert policy == os.SCHED_BATCH
