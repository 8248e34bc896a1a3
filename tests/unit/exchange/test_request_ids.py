"""Request ids: what a configuration has by default, and how ids are made and read."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from fastgw import config
from fastgw.config.decoding.filter_levels import with_defaults
from fastgw.exchange.request_ids import made, request_ids
from fastgw.filters import TYPES
from fastgw.filters.policies.request_id import RequestId
from fastgw.http.http1 import serializer
from fastgw.http.http1.parser import parse_request

SERVICE = "version: 1\nlisteners: {a: {address: '127.0.0.1:0'}}\nroutes: [{name: r, respond: {status: 200}%s}]\n"


@pytest.fixture(autouse=True)
def no_request_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of that of `conftest.py`: here they are as for everybody."""
    monkeypatch.setattr(RequestId, "by_default", True)


def loaded(more: str = "", of_route: str = "") -> config.Loaded:
    return config.load_text((SERVICE % of_route + more).encode(), "gateway.yaml", TYPES)


def test_the_gateway_has_them_by_default() -> None:
    assert [use and use.type for use in loaded().config.filters.values()] == ["request_id"]
    flags = config.from_flags("127.0.0.1:0", "http://127.0.0.1:9", TYPES)
    assert flags.filters == loaded().config.filters


@pytest.mark.parametrize("nothing", ["null", "off", "'off'"])
def test_it_is_removed_on_any_level_without_a_note(nothing: str) -> None:
    everywhere = loaded(f"filters: {{request_id: {nothing}}}\n")
    assert (dict(everywhere.config.filters), everywhere.notes) == ({"request_id": None}, ())
    route = loaded(of_route=f", filters: {{request_id: {nothing}}}")
    assert (dict(route.config.routes[0].filters), route.notes) == ({"request_id": None}, ())


def test_to_remove_what_is_removed_already_is_noted() -> None:
    (note,) = loaded("filters: {request_id: off}\n", ", filters: {request_id: off}").notes
    assert "no outer level has a filter with this name" in note.wrong


def test_one_by_another_name_is_in_its_place() -> None:
    filters = loaded("filters: {trace: {type: request_id, header: X-Trace}}\n").config.filters
    assert list(filters) == ["trace"]
    assert with_defaults(filters, TYPES) is filters


@pytest.mark.parametrize("wrong", ["on", "false", "Off"])
def test_other_words_are_refused(wrong: str) -> None:
    with pytest.raises(config.ConfigError, match=r"filters\.request_id"):
        loaded(f"filters: {{request_id: {wrong}}}\n")


def head(fields: bytes = b"") -> Any:
    return parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")


def test_what_is_made_is_random() -> None:
    """128 bits, written as 32 digits: also over the end of what was asked of the kernel at once."""
    seen = {request_ids(b"X-Request-Id", True).of(head()) for _ in range(2000)}
    assert len(seen) == 2000
    assert all(re.fullmatch(rb"[0-9a-f]{32}", each) for each in seen)
    assert all(len({each[place] for each in seen}) == 16 for place in range(32))


@pytest.mark.parametrize("length", [*range(1, 20), 127, 128, 129])
def test_each_byte_of_a_clients_id_is_looked_at(length: int) -> None:
    ids = request_ids(b"X-Request-Id", True)
    good = bytes(33 + place % 94 for place in range(length))
    assert (ids.of(head(b"X-Request-Id: %b\r\n" % good)) == good) is (length <= 128)
    for place in range(1, length - 1):
        for odd in (b" ", b"\t", b"\x80", b"\xff"):
            bad = good[:place] + odd + good[place + 1 :]
            assert re.fullmatch(rb"[0-9a-f]{32}", ids.of(head(b"X-Request-Id: %b\r\n" % bad)))


def test_nothing_is_taken_from_whom_nobody_trusts() -> None:
    assert request_ids(b"X-Request-Id", False).of(head(b"X-Request-Id: a\r\n")) != b"a"


def test_a_forked_process_makes_others() -> None:
    """Random bytes that are at hand are the parent's."""
    made()
    request_ids(b"X-Request-Id", True).of(head())
    there, here = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(here, b" ".join(request_ids(b"X-Request-Id", True).of(head()) for _ in range(300)))
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(here)
    theirs = set()
    with os.fdopen(there, "rb") as told:
        theirs = set(told.read().split())
    ours = {request_ids(b"X-Request-Id", True).of(head()) for _ in range(300)}
    assert len(theirs) == len(ours) == 300
    assert theirs.isdisjoint(ours)


def test_a_head_says_one_id_after_all() -> None:
    sent = head(b"X-Request-Id: a\r\nB: 1\r\n")
    assert serializer.request(sent, request_id=b"a").count(b"X-Request-Id: a\r\nB: 1\r\n") == 1
    assert serializer.request(sent, request_id=b"c").endswith(b"B: 1\r\nX-Request-Id: c\r\nVia: 1.1 fastgw\r\n\r\n")
    sent.fields().set(b"B", b"2")  # so that its fields are rendered
    assert serializer.request(sent, request_id=b"c").count(b"X-Request-Id") == 1
    assert request_ids(b"X-Request-Id", True).of(sent) == b"a"
