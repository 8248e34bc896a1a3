"""The model of the cache's soak test: it accepts answers that may be sent, and names the errors of others."""

import time

import pytest

from bench.cache_soak import LATE_S, Answer, Resource


def answer(resource: Resource, version: int, language: str = "en", hit: bool = True) -> Answer:
    return Answer(200, hit, resource.body(version, language))


def test_a_version_may_be_sent_as_long_as_it_is_fresh() -> None:
    resource = Resource(1)  # max-age=1, does not vary
    assert resource.complaint(answer(resource, 0), "en", time.monotonic(), 0) == ""
    resource.change()
    now = time.monotonic()
    assert resource.complaint(answer(resource, 0), "de", now, 0) == ""
    assert resource.complaint(answer(resource, 1), "en", now + 100, 0) == ""
    assert "too old" in resource.complaint(answer(resource, 0), "en", now + 1 + LATE_S + 0.1, 0)
    assert "was purged" in resource.complaint(answer(resource, 0), "en", now, 1)


@pytest.mark.parametrize(
    ("number", "body", "error"),
    [
        (1, b"2 0 en xxx", "not of this resource"),
        (1, b"", "not of this resource"),
        (1, b"1 0 en xxx", "is damaged"),
        (3, Resource(3).body(0, "de"), "language de for en"),
        (11, Resource(11).body(0, "en"), "no-store was stored"),
    ],
)
def test_errors_are_found(number: int, body: bytes, error: str) -> None:
    assert error in Resource(number).complaint(Answer(200, True, body), "en", time.monotonic(), 0)
