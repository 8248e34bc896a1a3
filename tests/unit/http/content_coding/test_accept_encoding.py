"""Which content coding a client gets for its Accept-Encoding (RFC 9110 section 12.5.3)."""

from __future__ import annotations

import pytest

from fastgw.http.content_coding.accept_encoding import CACHED, Negotiated, negotiate, parse_accept_encoding
from tests.support.table import for_each

OFFERED = (b"zstd", b"br", b"gzip")
CHOSEN = {
    # what browsers and libraries send
    "gzip, deflate, br, zstd": "zstd",
    "gzip, deflate, br": "br",
    "gzip, deflate": "gzip",
    "deflate, gzip;q=1.0, *;q=0.5": "gzip",
    "br;q=1.0, gzip;q=0.8, *;q=0.1": "br",
    "identity;q=1, *;q=0": None,  # Chromium for media
    "identity": None,
    # weights
    "gzip;q=0.5, br;q=0.4": "gzip",
    "zstd;q=0.001, gzip;q=0.002": "gzip",
    "zstd;q=0, br;q=0.0, gzip;q=0.000": None,
    "gzip;q=1.000, br;q=0.999": "gzip",
    "gzip;Q=0.7, BR;q=0.6": "gzip",
    "identity;q=0.5, gzip;q=0.4": None,
    "identity;q=0.5, gzip;q=0.5": "gzip",
    "identity;q=0, gzip;q=0.1": "gzip",
    # the rest
    "*": "zstd",
    "*;q=0.3, zstd;q=0.2": "br",
    "*;q=0": None,
    "gzip;q=0, *": "zstd",
    "zstd;q=0, *;q=0.5": "br",
    "*, identity;q=0.5": "zstd",
    # names
    "x-gzip": "gzip",
    "GZIP": "gzip",
    "gzipped, brotli, zstandard": None,
    "": None,
    ",, gzip ,,": "gzip",
    "\tgzip\t;\tq=0.5\t": "gzip",
    # a member that breaks the grammar counts as absent
    "gzip;q=1.5": None,
    "gzip;q=0.1234": None,
    "gzip;q=": None,
    "gzip;q": None,
    "gzip;level=9": None,
    "gzip q=1": None,
    "gzip;q=-1": None,
    "gzip;q=1;q=0": None,
    "br;q=2, gzip;q=0.1": "gzip",
    # a coding that is both refused and accepted is refused
    "gzip, gzip;q=0": None,
}


@for_each("value", CHOSEN)
def test_the_coding_with_the_highest_weight_is_chosen(value: str) -> None:
    """And of equal ones the first that is offered."""
    coding = CHOSEN[value]
    assert negotiate([value.encode()], OFFERED).coding == (None if coding is None else coding.encode())


REFUSED = {"identity;q=0": True, "*;q=0": True, "gzip, *;q=0": True, "identity;q=0.1, *;q=0": False, "gzip": False,
           "*": False, "": False}  # fmt: skip


@pytest.mark.parametrize("value", REFUSED)
def test_a_client_may_refuse_the_content_as_it_is(value: str) -> None:
    assert negotiate([value.encode()], OFFERED).identity_refused is REFUSED[value]


def test_without_the_header_the_content_is_sent_as_it_is() -> None:
    """RFC 9110 allows any coding then; no client that sends nothing expects one."""
    assert negotiate([], OFFERED) == Negotiated(None, False)


def test_several_lines_are_one_list() -> None:
    assert negotiate([b"gzip;q=0.5", b"br"], OFFERED).coding == b"br"
    assert parse_accept_encoding([b"gzip;q=0.5", b"br, *;q=0"]) == {b"gzip": 500, b"br": 1000, b"*": 0}


def test_only_what_is_offered_is_chosen() -> None:
    assert negotiate([b"zstd, br, gzip"], (b"gzip",)).coding == b"gzip"
    assert negotiate([b"zstd, br"], (b"gzip",)).coding is None


def test_a_long_value_is_read_and_not_kept() -> None:
    value = b"gzip;q=0.1, " + b"a, " * CACHED + b"br"
    assert negotiate([value], OFFERED).coding == b"br"
