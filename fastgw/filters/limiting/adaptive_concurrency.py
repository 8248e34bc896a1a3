"""How many requests an upstream can do with at a time, found out from how long it takes to answer.

A gradient on latency, as in Netflix's concurrency-limits and Envoy's adaptive concurrency: the median of the answers of
a window is held against the *baseline*, which is what the upstream takes when nothing queues. While it is within
`tolerance` of that, the limit grows, by its root in each window (at first by a half, as in TCP's slow start, until
something queues); where it is not, the limit shrinks by as much as the latency is too high, at most to a half.

Rule 1: a window judges only answers to requests that were let in after the limit was set last. The others say what the
limit before did; a limit that believes them falls several times for one cause.
Rule 2: a limit that was not nearly used has shown nothing, and stays.
Rule 3: the baseline is the median of what was measured while little was under way, and believed for `BASELINE_S`. If
since then there was no such moment, one is made: the limit is halved until two windows have gone by. What was measured
then replaces the baseline, be it higher: so a service that has become slower for good is not starved, and queues that
the limit itself allows never creep into the baseline. It is no minimum: that of many noisy windows is far too low.
Rule 4: a client that leaves without an answer has waited at least so long; only what is above the baseline is believed
of that. Otherwise a service that nobody waits for would seem to be idle.

No I/O and no clock: the time is an argument.
"""

from collections.abc import Callable, Sequence
from math import inf, sqrt
from typing import Final, final

WINDOW_S: Final = 0.1
"""How long a window lasts at least."""
SAMPLES: Final = 20
"""How many answers it takes at least."""
LONG_S: Final = 1.0
SAMPLES_LEAST: Final = 8
"""Fewest samples of a window that has lasted long, of an upstream that is slow."""
SAMPLES_MOST: Final = 500
"""How many of a window's answers are looked at."""
BASELINE_S: Final = 30.0
PROBE_WINDOWS: Final = 2
GRADIENT_LEAST: Final = 0.5
START: Final = 1.5
"""Factor by which the limit grows in a window until it is too high for the first time."""


@final
class AdaptiveLimit:
    """One worker's limit for one use of a filter. `limit`: in force; `in_flight`: what it has let in.

    `bounds`: the least and the most of the limit; asked for each window, for the number of workers may change.
    """

    __slots__ = (
        "_began_at",
        "_bounds",
        "_failed",
        "_finished",
        "_full",
        "_is_starting",
        "_measured",
        "_measured_at",
        "_peak",
        "_probes",
        "_samples",
        "_tolerance",
        "baseline_s",
        "in_flight",
        "limit",
    )

    def __init__(self, bounds: Callable[[], tuple[float, float]], tolerance: float) -> None:
        self._bounds = bounds
        self._tolerance = tolerance
        self._full = bounds()[0]  # the limit but for probes
        self.limit = self._full
        self.in_flight = 0
        self.baseline_s = inf
        self._is_starting = True
        self._measured: list[float] = []  # what answers took while little was under way, since `_measured_at`
        self._measured_at = -inf
        self._probes = 0  # windows that are left of a probe
        self._began_at = -inf  # of the window
        self._samples: list[float] = []
        self._finished = 0  # what the window has to say, looked at or not
        self._failed = 0
        self._peak = 0

    def __repr__(self) -> str:
        return f"<AdaptiveLimit {self.in_flight} of {self.limit:.1f}, baseline {self.baseline_s * 1e3:.1f} ms>"

    def use_bounds(self) -> None:
        """The bounds are known."""
        self.limit = self._full = self._bounds()[0]

    def try_take(self, share: float = 1.0) -> bool:
        """Let one more in, if what is under way stays within this share of the limit. It is given back once."""
        if self.in_flight >= max(1.0, self.limit * share):
            return False
        self.in_flight += 1
        if self.in_flight > self._peak:
            self._peak = self.in_flight
        return True

    def give_back(self) -> None:
        """One is over that has nothing to say about the upstream: it was never sent there."""
        self.in_flight -= 1

    def record_response(self, now: float, taken_at: float, seconds: float, failed: bool = False) -> None:
        """One is over. The upstream took so long; `failed`: it said that it cannot, or said nothing in time."""
        self.in_flight -= 1
        if taken_at >= self._began_at:
            self._finished += 1
            self._failed += failed
            if len(self._samples) < SAMPLES_MOST and not (failed and seconds < self.baseline_s):  # refusing is fast
                self._samples.append(seconds)
            lasted = now - self._began_at
            if lasted >= WINDOW_S and self._finished >= (SAMPLES if lasted < LONG_S else SAMPLES_LEAST):
                self._adjust(now)

    def left(self, now: float, taken_at: float, waited: float) -> None:
        """One is over, for its client has left without an answer after so long."""
        if waited > self.baseline_s:
            self.record_response(now, taken_at, waited)
        else:
            self.give_back()

    def _adjust(self, now: float) -> None:
        """The window is over: set the limit."""
        failed = self._failed / self._finished
        median = _median(self._samples)
        if self._measured_at == -inf:
            self._measured_at = now
        if self._probes:
            self._probes -= 1
            if not self._probes:  # the first window of a probe saw what was queued before it
                self._measure()
                self._renew(now)
        elif self._peak < self._full / 2:
            self._measure()
        else:
            slower = median / self.baseline_s if median and self.baseline_s < inf else 0.0
            gradient = min(1.0, self._tolerance / slower if slower else 1.0) * (1.0 - failed)
            self._is_starting = self._is_starting and gradient == 1.0
            if self._is_starting:
                self._measure()
                self._full *= START
            else:
                self._full = self._full * max(GRADIENT_LEAST, gradient) + sqrt(self._full)
        if not self._probes and self._measured_at + BASELINE_S <= now:
            if self._measured:
                self._renew(now)
            else:
                self._probes = PROBE_WINDOWS
        least, most = self._bounds()
        self._full = min(max(self._full, least), most)
        self.limit = max(least, self._full / 2) if self._probes else self._full
        self._samples.clear()
        self._finished = self._failed = 0
        self._peak = self.in_flight
        self._began_at = now

    def _measure(self) -> None:
        """Take the measured time as the baseline: no request queues, it seems, and this is what the upstream takes."""
        self._measured += self._samples[: SAMPLES_MOST - len(self._measured)]
        if self._is_starting:
            self.baseline_s = _median(self._measured) or inf

    def _renew(self, now: float) -> None:
        """Believe what was measured since the last time."""
        self.baseline_s = _median(self._measured) or self.baseline_s
        self._measured.clear()
        self._measured_at = now


def _median(samples: Sequence[float]) -> float:
    return sorted(samples)[len(samples) // 2] if samples else 0.0
