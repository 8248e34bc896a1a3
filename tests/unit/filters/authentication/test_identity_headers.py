"""Filters that mark messages with a field of their own: it is none that means something there already."""

import pytest

from fastgw import config
from tests.support.generations import load_document
from tests.support.memory import SERVICE

MARKING = pytest.mark.parametrize("name", ["request_id", "target_errors"])


@MARKING
@pytest.mark.parametrize(
    ("header", "reason"),
    [
        *(
            (each, "cannot be set by a filter; expected another header")
            for each in (
                *("Transfer-Encoding", "connection", "Upgrade", "TE", "Host", "Trailer", "Via"),
                *("X-Forwarded-For", "Forwarded", "X-Real-IP", "Authorization", "Cookie"),
            )
        ),
        *(
            (each, "has another meaning in a response; expected another header")
            for each in ("Content-Length", "content_length", "Set-Cookie", "Content-Type", "Location", "Date", "ETag")
        ),
    ],
)
def test_what_means_something_else_is_refused(name: str, header: str, reason: str) -> None:
    with pytest.raises(config.ConfigError, match=reason):
        load_document({**SERVICE, "filters": {name: {"header": header}}})


@MARKING
def test_a_name_of_its_own_is_taken(name: str) -> None:
    load_document({**SERVICE, "filters": {name: {"header": "X-Mark"}}})
