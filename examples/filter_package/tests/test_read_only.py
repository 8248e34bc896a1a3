import pytest
from read_only import ReadOnly

from fastgw.testing import ConfigError, Consumer, configured, run

GET = b"GET /users HTTP/1.1\r\nHost: api.example.com\r\n\r\n"
POST = b"POST /users HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 2\r\n\r\n{}"


def test_reading_goes_on():
    ran = run(ReadOnly(), GET)
    assert ran.passed
    assert ran.fields.get(b"X-Read-Only") == b"yes"


def test_a_change_is_refused_and_does_not_reach_the_service():
    ran = run(configured(ReadOnly, retry_after="5m"), POST)
    assert (ran.status, ran.sent) == (503, b"")
    assert ran.fields.get(b"Retry-After") == b"300"


@pytest.mark.parametrize(("group", "passes"), [("ops", True), ("guests", False)])
def test_groups_may_be_left_out(group, passes):
    filter = configured(ReadOnly, except_groups=["ops"])
    assert run(filter, POST, consumer=Consumer("alice", frozenset({group}))).passed is passes


def test_in_shadow_it_tells_what_it_would_do():
    ran = run(ReadOnly(), POST, shadow=True)
    assert ran.passed
    assert ran.shadowed == "read_only: answer 503"


def test_what_is_wrong_with_its_settings_is_told():
    with pytest.raises(ConfigError, match="retry_after"):
        configured(ReadOnly, retry_after="soon")
