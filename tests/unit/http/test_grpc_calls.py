"""Heads of gRPC calls."""

from fastgw.http.grpc.calls import timeout_line, timeout_of
from tests.support.table import for_each


@for_each(
    ("seconds", "value"),
    [
        (-1.0, b"1u"),
        (0.0, b"1u"),
        (1e-7, b"1u"),
        (0.1, b"100000u"),
        (5_000.1 - 5_000.0, b"100000u"),  # a difference of two times, which is 0.1000000000003638
        (0.1000004, b"100001u"),
        (99.999_999, b"99999999u"),
        (100.0004, b"100001m"),
        (99_999.999, b"99999999m"),
        (100_000.2, b"100001S"),
        (1e8, b"1666667M"),
        (6e9, b"1666667H"),
        (1e15, b"99999999H"),
    ],
)
def test_the_time_that_is_left_is_rounded_up(seconds: float, value: bytes) -> None:
    assert timeout_line(seconds) == b"Grpc-Timeout: %b\r\n" % value


class _Head:
    def __init__(self, value: bytes) -> None:
        self._value = value

    def first(self, name: bytes) -> bytes | None:
        return self._value


@for_each("value", [b"1u", b"1100u", b"15m", b"99999999m", b"99999999S", b"99999999M", b"99999999H"])
@for_each("took", [0.0, 1e-7, 1e-4])
def test_the_server_gets_no_more_than_the_caller_has_said(value: bytes, took: float) -> None:
    said = timeout_of(_Head(value))
    assert said is not None
    left = timeout_of(_Head(timeout_line(said - took)[14:-2]))
    assert left is not None
    assert max(said - took, 0) <= left <= said
