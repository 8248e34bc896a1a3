"""The judge of the tests refuses what no server should read, and reads what comes in pieces and behind each other."""

import pytest

from fastgw.testing import run
from tests.support.judge import REFUSED, RequestJudge
from tests.support.memory import Plane

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_it_reads_requests_behind_each_other(size):
    wire, judge = GET + CHUNKED + GET, RequestJudge()
    for start in range(0, len(wire), size):
        judge.read(wire[start : start + size])
    assert REFUSED == []


@pytest.mark.parametrize(
    "wrong", [b"GET /\r\n\r\n", GET + b"0\r\n\r\n", GET[:-2] + b"A : b\r\n\r\n", CHUNKED + b"0\r\n\r\n"]
)
def test_it_refuses_what_is_no_request(wrong):
    RequestJudge().read(wrong)
    assert REFUSED
    REFUSED.clear()


def test_behind_an_upgrade_everything_may_come():
    judge = RequestJudge()
    judge.read(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
    judge.read(b"\x00 anything")
    assert REFUSED == []


def test_it_reads_what_planes_in_memory_send(monkeypatch):
    read = []
    monkeypatch.setattr(RequestJudge, "read", lambda self, chunk: read.append(chunk))
    run([], GET)
    assert [chunk.partition(b"\r\n")[0] for chunk in read] == [b"GET / HTTP/1.1"] * len(read) != []
    read.clear()
    plane = Plane()
    plane.client().sends(GET)
    assert read == [plane.connects().received]
