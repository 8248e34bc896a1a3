"""Heads of gRPC calls."""

import pytest

from fastgw.http.grpc.calls import timeout_line


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (0.0, b"1m"),
        (0.1, b"100m"),
        (5_000.1 - 5_000.0, b"100m"),  # a difference of two times, which is 0.1000000000003638
        (0.1004, b"101m"),
        (99_999.999, b"99999999m"),
        (100_000.2, b"100001S"),
        (1e9, b"277778H"),
        (1e15, b"99999999H"),
    ],
)
def test_the_time_that_is_left_is_rounded_up(seconds: float, value: bytes) -> None:
    assert timeout_line(seconds) == b"Grpc-Timeout: %b\r\n" % value
