"""Heads judged: the two judges together, and each alone, so that the share of llhttp is seen."""

import re
from collections.abc import Iterator
from typing import Any

from httptools import HttpRequestParser, HttpResponseParser

from bench.micro.heads import REQUESTS, RESPONSES
from bench.micro.timing import Room
from fastgw.compiled import twin
from fastgw.wire import heads
from fastgw.wire.framing import find_head_end, judge_answer, judge_request, judge_response
from fastgw.wire.llhttp import LongLivedJudge, SecondJudge

MAX_FIELDS = 100


def rooms() -> Iterator[Room]:
    readers: Any = twin("fastgw.wire._scan") or heads
    answers = [(raw + _body(raw), len(raw)) for raw in RESPONSES]
    yield Room("find the end of a request head", find_head_end, REQUESTS)
    yield Room("judge a request head", judge_request, REQUESTS)
    yield Room("  our judge alone", lambda raw: readers.read_request(raw, MAX_FIELDS), REQUESTS)
    yield Room("  llhttp alone", LongLivedJudge(HttpRequestParser).head, REQUESTS)
    yield Room("judge a response with its body", lambda answer: judge_answer(*answer, b"GET"), answers)
    yield Room("  our judge alone, of its head", lambda raw: readers.read_response(raw, b"GET", MAX_FIELDS), RESPONSES)
    whole = [received for received, _ in answers]
    yield Room("  llhttp alone", LongLivedJudge(HttpResponseParser).whole, whole)
    yield Room("judge a response head", lambda raw: judge_response(raw, b"GET"), RESPONSES)
    yield Room("  llhttp alone", lambda raw: SecondJudge(HttpResponseParser).head(raw, body_follows=True), RESPONSES)


def _body(raw: bytes) -> bytes:
    length = re.search(rb"Content-Length: ([0-9]+)", raw)
    assert length is not None
    return b"x" * int(length[1])
