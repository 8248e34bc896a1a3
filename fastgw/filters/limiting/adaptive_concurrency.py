"""Adaptive concurrency: the number of concurrent requests that an upstream can handle, estimated from its latency.

A gradient on latency, as in Netflix's concurrency-limits and Envoy's adaptive concurrency: the median latency of a
window is compared with the *baseline*, the latency without queueing. While it is within `tolerance`, the limit grows by
its square root in each window (at first by a half, like TCP's slow start, until requests queue); otherwise the limit
shrinks in proportion to the latency, at most to a half.

Rule 1: a window counts only responses to requests admitted since the limit was last set. Older ones reflect the
previous limit; counting them would reduce the limit several times for one cause.
Rule 2: a limit that was not nearly reached stays unchanged.
Rule 3: the baseline is the median latency measured with few requests in flight, and is valid for `BASELINE_S`. If there
was no such measurement since, the limit is halved for two windows to make one (a probe). The measurement replaces the
baseline, even if it is higher: so a service that has become slower permanently is not starved, and queues allowed by
the limit do not raise the baseline. The minimum is not used: over many noisy windows it is far too low. Rule 4: a
client that disconnects without a response counts with its waiting time, if that is above the baseline. Otherwise a
service whose clients give up would seem idle.

No I/O and no clock: the time is an argument.
"""

from collections.abc import Callable, Sequence
from math import inf, sqrt
from typing import Final, final

WINDOW_S: Final = 0.1
"""Minimum length of a window in seconds."""
SAMPLES: Final = 20
"""Minimum number of responses in a window."""
LONG_S: Final = 1.0
SAMPLES_LEAST: Final = 8
"""Minimum number of responses in a long window, for a slow upstream."""
SAMPLES_MOST: Final = 500
"""Maximum number of responses that are evaluated per window."""
BASELINE_S: Final = 30.0
PROBE_WINDOWS: Final = 2
GRADIENT_LEAST: Final = 0.5
START: Final = 1.5
"""Factor by which the limit grows in a window until it is too high for the first time."""


@final
class AdaptiveLimit:
    """Adaptive limit of one worker for one use of a filter. `limit`: current limit; `in_flight`: requests admitted by
    it.

    `bounds`: returns minimum and maximum of the limit; called for each window, because the number of workers may
    change.
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
        self._full = bounds()[0]  # the limit, without the effect of probes
        self.limit = self._full
        self.in_flight = 0
        self.baseline_s = inf
        self._is_starting = True
        self._measured: list[float] = []  # latencies with few requests in flight, since `_measured_at`
        self._measured_at = -inf
        self._probes = 0  # remaining windows of a probe
        self._began_at = -inf  # start of the window
        self._samples: list[float] = []
        self._finished = 0  # responses in the window
        self._failed = 0
        self._peak = 0

    def __repr__(self) -> str:
        return f"<AdaptiveLimit {self.in_flight} of {self.limit:.1f}, baseline {self.baseline_s * 1e3:.1f} ms>"

    def use_bounds(self) -> None:
        """Set the initial limit, once the bounds are known."""
        self.limit = self._full = self._bounds()[0]

    def try_take(self, share: float = 1.0) -> bool:
        """Admit a request if the requests in flight stay within this share of the limit. It is returned once."""
        # A quotient, which is rounded as the percentage is: 100 * 0.07 is more than 7. A limit between two numbers is
        # rounded up, otherwise a small one is never nearly reached by requests with a share, and does not grow.
        if self.in_flight and self.in_flight / self.limit >= share:
            return False
        self.in_flight += 1
        if self.in_flight > self._peak:
            self._peak = self.in_flight
        return True

    def give_back(self) -> None:
        """Record the end of a request that was not sent to the upstream."""
        self.in_flight -= 1

    def record_response(self, now: float, taken_at: float, seconds: float, failed: bool = False) -> None:
        """Record a response after this many seconds; `failed`: the upstream reported overload, or timed out."""
        self.in_flight -= 1
        if taken_at >= self._began_at:
            self._finished += 1
            self._failed += failed
            if len(self._samples) < SAMPLES_MOST and not (failed and seconds < self.baseline_s):  # rejections are fast
                self._samples.append(seconds)
            lasted = now - self._began_at
            if lasted >= WINDOW_S and self._finished >= (SAMPLES if lasted < LONG_S else SAMPLES_LEAST):
                self._adjust(now)

    def client_left(self, now: float, taken_at: float, waited: float) -> None:
        """Record the disconnect of a client that has waited this long without a response."""
        if waited > self.baseline_s:
            self.record_response(now, taken_at, waited)
        else:
            self.give_back()

    def _adjust(self, now: float) -> None:
        """Set the limit at the end of a window."""
        failed = self._failed / self._finished
        median = _median(self._samples)
        if self._measured_at == -inf:
            self._measured_at = now
        if self._probes:
            self._probes -= 1
            if not self._probes:  # the first window of a probe includes earlier queueing
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
        """Add the latencies of the window to the baseline, because requests did not queue."""
        self._measured += self._samples[: SAMPLES_MOST - len(self._measured)]
        if self._is_starting:
            self.baseline_s = _median(self._measured) or inf

    def _renew(self, now: float) -> None:
        """Set the baseline to the latencies measured since the last time."""
        self.baseline_s = _median(self._measured) or self.baseline_s
        self._measured.clear()
        self._measured_at = now


def _median(samples: Sequence[float]) -> float:
    return sorted(samples)[len(samples) // 2] if samples else 0.0
