"""The trace of a recorded request: what it adds to the request's own trace, and what it leaves as it was."""

from types import SimpleNamespace
from typing import Any

import pytest

from fastgw.observe.tracing.trace import EndedAttempt
from fastgw.recording import tap
from fastgw.recording.tap import RecordedTrace

NO_SPAN = b"0" * 16


class Inner:
    """The request's own trace."""

    def __init__(self, is_sampled: bool) -> None:
        self.is_sampled = is_sampled
        self.attempts: list[EndedAttempt] = []
        self.waits: list[Any] = []
        self.add_attempt = self.attempts.append

    def new_span_id(self) -> bytes:
        return b"1" * 16 if self.is_sampled else b""


@pytest.mark.parametrize(("is_sampled", "expected"), [(True, b"1" * 16), (False, b"")])
def test_an_attempt_that_is_recorded_but_not_sampled_has_no_span_id(is_sampled: bool, expected: bytes) -> None:
    """It gets one when its request is exported nevertheless: 16 zeros are no span id (Trace Context 3.2.2.4)."""
    inner, exchange = Inner(is_sampled), SimpleNamespace(client=None, response_sink=None)
    exchange.trace = inner
    trace = RecordedTrace(exchange, 0, None, None, None)  # type: ignore[arg-type]  # what an attempt does not use
    span_id = trace.new_span_id()
    assert span_id == (expected or NO_SPAN)  # so that it is recorded
    trace.add_attempt(EndedAttempt(span_id, "u", "t", b"http", "first", 1, False, 0, "", 0.0, 0.0, 0.0, 0.0, b"GET /"))
    assert [each.span_id for each in inner.attempts] == [expected]


def test_claims_are_recorded_with_all_their_digits() -> None:
    exchange: Any = SimpleNamespace(consumer=None, claims={"n": [10**30]}, is_authenticated=True)
    assert tap._identity_of(exchange).claims == b'{"n":[1%b]}' % (b"0" * 30)
