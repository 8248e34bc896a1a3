"""What a TLS client offers in its first message, as OpenSSL writes it and as nobody should."""

from __future__ import annotations

import contextlib
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.wire.client_hello import protocols_offered


def hello(*protocols: str) -> bytes:
    client = ssl.create_default_context()
    if protocols:
        client.set_alpn_protocols(list(protocols))
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        client.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="a.test").do_handshake()
    return sent.read()


@pytest.mark.parametrize("protocols", [["http/1.1"], ["h2", "http/1.1"], ["x" * 255, "y"]])
def test_what_openssl_offers_is_read(protocols: list[str]) -> None:
    assert protocols_offered(hello(*protocols)) == [each.encode() for each in protocols]


def test_who_says_nothing_offers_nothing() -> None:
    assert protocols_offered(hello()) is None


def test_what_is_not_whole_is_not_known() -> None:
    whole = hello("h2")
    assert all(protocols_offered(whole[:length]) is None for length in range(len(whole) - 60))


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_bytes_are_too_strange(front: bytes, behind: bytes) -> None:
    protocols_offered(front)
    whole = hello("h2")
    protocols_offered(whole[: len(front)] + behind + whole[len(front) :])
